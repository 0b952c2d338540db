"""HTML as the text a reader sees: paragraphs, lists, tables and code, one blank line between them.

Needs the extra `blog`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from selectolax.lexbor import LexborHTMLParser, LexborNode

Removed = dict[str, list[str]]
"""By kind, what was taken out of a text, as it was written."""

BLOCKS = frozenset(
    ["address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt",
     "fieldset", "figcaption", "figure", "footer", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hgroup", "hr",
     "html", "li", "main", "nav", "p", "section", "summary", "tbody", "td", "tfoot", "th", "thead", "tr"]
)  # fmt: skip
NOT_PROSE = frozenset(
    ["applet", "audio", "canvas", "embed", "form", "frameset", "head", "iframe", "map", "noscript", "object",
     "script", "style", "svg", "template", "video"]
)  # fmt: skip


class _Block(NamedTuple):
    text: str
    kind: str  # prose, list or code


class _Way(NamedTuple):
    """What holds for the whole of a text."""

    removed: Removed
    code: bool
    set_aside: Mapping[str, str]


def text_of_html(html: str, removed: Removed, code: bool = True, set_aside: Mapping[str, str] | None = None) -> str:
    """The readable text of `html`, a page or a piece of one; `code` says whether `<pre>` is kept.

    `set_aside` has the code that belongs in an empty `<pre>`, by that element as written.

    Adds to `removed` under "link", "image", "comment", "embed" (scripts, styles, frames, videos, forms and the like)
    and "code block".
    """
    page = LexborHTMLParser(html)
    way = _Way(removed, code, set_aside or {})
    removed.setdefault("comment", []).extend(node.html or "" for node in _children(page.root) if node.is_comment_node)
    blocks = _blocks(page.body, way) if page.body else []
    text = "\n\n".join(block.text for block in blocks)
    for element, inside in way.set_aside.items():  # within other code it is not an element
        text = text.replace(element, inside)
    return text


def _blocks(parent: LexborNode, way: _Way) -> list[_Block]:
    found: list[_Block] = []
    line: list[str] = []  # the inline text since the last block; NUL, which HTML cannot hold, is a line break

    def finish_line() -> None:
        text = _tidy("".join(line))
        line.clear()
        if text:
            found.append(_Block(text, "prose"))

    def walk(node: LexborNode) -> None:
        tag = node.tag or ""
        if node.is_text_node:
            line.append(node.text_content or "")
        elif node.is_comment_node:
            way.removed.setdefault("comment", []).append(node.html or "")
        elif tag in NOT_PROSE:
            way.removed.setdefault("embed", []).append(node.html or "")
        elif tag == "br":
            line.append("\0")
        elif tag == "img":
            way.removed.setdefault("image", []).append(node.attributes.get("src") or "")
            line.append(node.attributes.get("alt") or "")
        elif tag == "pre":
            finish_line()
            found.extend(_code(node, way))
        elif tag in ("ul", "ol"):
            finish_line()
            found.extend(_list(node, way))
        elif tag == "table" and not _nested(node, "table"):
            finish_line()
            found.extend(_table(node, way))
        else:
            if tag == "a" and (target := node.attributes.get("href")):
                way.removed.setdefault("link", []).append(target)
            if tag in BLOCKS:
                finish_line()
            for child in _children(node):
                walk(child)
            if tag in BLOCKS:
                finish_line()

    for child in _children(parent):
        walk(child)
    finish_line()
    return found


def _children(node: LexborNode | None) -> Iterator[LexborNode]:
    child = node.child if node else None
    while child is not None:
        yield child
        child = child.next


def _nested(node: LexborNode, tag: str) -> bool:
    return any(inner.mem_id != node.mem_id for inner in node.css(tag))


def _tidy(text: str) -> str:
    """White space as a browser shows it, except that a no-break space becomes a plain one."""
    text = re.sub(r"[ \t\n\r\f\xa0]+", " ", text)
    return re.sub(r" ?\0[ \0]*", "\n", text).strip(" \n")


def _code(node: LexborNode, way: _Way) -> list[_Block]:
    text = way.set_aside.get(node.html or "", node.text(deep=True)).strip("\n").rstrip()
    if not way.code:
        way.removed.setdefault("code block", []).append(text)
    return [_Block(text, "code")] if way.code and text else []


def _list(node: LexborNode, way: _Way) -> list[_Block]:
    """One block: `- ` or a number before every item; an item's further blocks are indented below it."""
    start = node.attributes.get("start") or "1"
    number = int(start) if start.isdecimal() else 1
    items: list[str] = []
    loose = False
    for child in _children(node):
        blocks = _blocks(child, way) if child.is_element_node else []
        if not blocks:
            continue
        marker = f"{number}. " if node.tag == "ol" else "- "
        item = "".join(
            ("" if place == 0 else "\n" if block.kind == "list" else "\n\n") + block.text
            for place, block in enumerate(blocks)
        )
        loose = loose or "\n\n" in item
        items.append(marker + re.sub(r"\n(?=[^\n])", "\n" + " " * len(marker), item))
        number += 1
    return [_Block(("\n\n" if loose else "\n").join(items), "list")] if items else []


def _table(node: LexborNode, way: _Way) -> list[_Block]:
    """One block: a row a line, ` | ` between cells."""
    rows = [
        " | ".join(
            " ".join(block.text for block in _blocks(cell, way)).replace("\n", " ")
            for cell in _children(row)
            if cell.tag in ("td", "th")
        )
        for row in node.css("tr")
    ]
    caption = node.css_first("caption")
    above = _blocks(caption, way) if caption else []
    text = "\n".join(row for row in rows if row.strip(" |"))
    return [*above, _Block(text, "prose")] if text else above
