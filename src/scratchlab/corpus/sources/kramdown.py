"""Markdown as Jekyll's kramdown reads it: CommonMark by markdown-it-py, and kramdown's own marks as rules of it.

The marks are attribute lists (`{: .note}`), extensions (`{::comment}`), heading ids (`{#top}`), footnotes and
abbreviations: https://kramdown.gettalong.org/syntax.html. Needs the extra `blog`.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import normalizeReference
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from scratchlab.corpus.sources.html_text import Removed

# Possessive, so that a long line cannot make them slow. Narrower than kramdown's, which takes any `{:...}`: a tuple
# such as `{:ok, value}` in a sentence about Elixir is the author's.
_ATTRIBUTES = r"""(?:\s*+(?:[.#][\w:-]++|[\w:-]++=(?:"[^"]*+"|'[^']*+'|[^\s"'}]++)|[\w:-]++))*+\s*+"""
_ATTRIBUTE_LIST = re.compile(r"\{:(?![:/])" + _ATTRIBUTES + r"\}")
_EXTENSION = re.compile(r"\{::(\w+)" + _ATTRIBUTES + r"/?\}|\{:/\w*\}")
_END_OF_COMMENT = re.compile(r"\{:/(?:comment)?\}")
_FOOTNOTE = re.compile(r"\[\^([\w:.-]{1,99})\]:[ \t]*")
_DEFINITION = re.compile(r"\*\[[^\]]+\]:.*|\[(?!\^)([^\]]+)\]:\s*")
_MARKDOWN_INSIDE = re.compile(r"""\s*<[^>]+\smarkdown=["']?(?:1|block|span)["']?[^>]*>""")


def html_of_markdown(text: str, removed: Removed) -> str:
    """`text` as HTML. Adds kramdown's marks to `removed` under "kramdown", the HTML that was written under "html"."""
    env: dict[str, Any] = {"removed": removed, "footnotes": {}, "cited": []}
    page = _render(text, env)
    for number, label in enumerate(env["cited"], start=1):  # it grows: a note may cite another
        note = _render(env["footnotes"][label], env)
        page += f"<p>[{number}] {note.removeprefix('<p>')}" if note.startswith("<p>") else f"<p>[{number}]</p>{note}"
    removed.setdefault("footnote", []).extend(env["footnotes"][n] for n in env["footnotes"] if n not in env["cited"])
    return page


def _render(text: str, env: dict[str, Any]) -> str:
    md = _markdown()
    tokens = md.parse(text, env)
    for token in _flat(tokens):
        inside = _MARKDOWN_INSIDE.match(token.content) if token.type == "html_block" else None
        if inside:
            token.content = inside[0] + _render(token.content[inside.end() :], env)
        if token.type in ("html_block", "html_inline"):
            env["removed"].setdefault("html", []).extend(_tags(inside[0] if inside else token.content))
    return str(md.renderer.render(tokens, md.options, env))


def _flat(tokens: Sequence[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from token.children or ()


def _tags(piece: str) -> list[str]:
    """The opening tags of a piece of HTML."""
    return re.findall(r"<(?!pre data-highlight=)[A-Za-z][^<>]*>", piece)  # but for code that was set aside


@functools.cache
def _markdown() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"maxNesting": 100}).enable(["table", "strikethrough"])
    md.block.ruler.before("reference", "footnote", _footnote_block, {"alt": ["paragraph", "reference"]})
    md.block.ruler.before("reference", "kramdown", _kramdown_block, {"alt": ["paragraph", "reference"]})
    md.inline.ruler.before("link", "kramdown", _kramdown_inline)
    md.inline.ruler.before("link", "footnote", _footnote_inline)
    md.core.ruler.before("inline", "heading_ids", _heading_ids)
    return md


def _line(state: StateBlock, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]


def _take(state: StateBlock | StateInline | StateCore, written: str) -> None:
    state.env["removed"].setdefault("kramdown", []).append(written)


def _kramdown_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A line that is an attribute list, an extension, an abbreviation, or a reference to nowhere."""
    line = _line(state, start).rstrip()
    if line[:1] not in ("{", "*", "[") or state.is_code_block(start):
        return False
    extension, definition = _EXTENSION.fullmatch(line), _DEFINITION.fullmatch(line)
    if not extension and not definition and not _ATTRIBUTE_LIST.fullmatch(line):
        return False
    if silent:
        return True
    last = start
    if extension and extension[1] == "comment" and not line.endswith("/}"):
        while last + 1 < end and not _END_OF_COMMENT.search(_line(state, last)):
            last += 1
    elif definition and definition[1]:  # its address came from Liquid and is not known here
        references = state.env.setdefault("references", {})
        references.setdefault(normalizeReference(definition[1]), {"title": "", "href": ""})
    elif re.search(r"[:\s]toc[\s}]", line):
        _take_list(state)  # it only marks where the table of contents goes
    _take(state, state.src[state.bMarks[start] : state.eMarks[last]])
    state.line = last + 1
    return True


def _take_list(state: StateBlock) -> None:
    if not state.tokens or not state.tokens[-1].type.endswith("list_close"):
        return
    level = state.tokens[-1].level
    place = len(state.tokens) - 2
    while state.tokens[place].level != level:
        place -= 1
    _take(state, " ".join(token.content for token in state.tokens[place:] if token.content))
    del state.tokens[place:]


def _kramdown_inline(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] != "{":
        return False
    found = _EXTENSION.match(state.src, state.pos)
    if found and found[1] == "comment":
        until = _END_OF_COMMENT.search(state.src, found.end())
        end = until.end() if until else len(state.src)
    elif found:
        end = found.end()
    else:
        found = _ATTRIBUTE_LIST.match(state.src, state.pos)
        after_text = state.pending or not state.tokens  # and not after a link, an emphasis, a span of code
        if not found or (after_text and state.pos and not re.match(r"\{:\s*[.#]", found[0])):
            return False
        end = found.end()
    if not silent:
        _take(state, state.src[state.pos : end])
    state.pos = end
    return True


def _heading_ids(state: StateCore) -> None:
    for heading, content in zip(state.tokens, state.tokens[1:], strict=False):
        identifier = re.search(r"\s*\{#[\w:.-]+\}\s*$", content.content)
        if heading.type == "heading_open" and identifier:
            _take(state, identifier[0].strip())
            content.content = content.content[: identifier.start()]


def _footnote_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """`[^1]: text`, further lines of its paragraph, and further blocks indented by four."""
    label = _FOOTNOTE.match(_line(state, start))
    if not label or state.is_code_block(start):
        return False
    if silent:
        return True
    lines = [_line(state, start)[label.end() :]]
    number = start + 1
    while number < end:
        blank = state.isEmpty(number)
        indented = state.sCount[number] - state.blkIndent >= 4
        if not blank and not indented and (not lines[-1] or _FOOTNOTE.match(_line(state, number))):
            break
        shift = min(4, state.sCount[number] - state.blkIndent) if indented else 0
        lines.append("" if blank else state.getLines(number, number + 1, state.blkIndent + shift, False))
        number += 1
    state.env["footnotes"].setdefault(label[1], "\n".join(lines).strip("\n"))
    state.line = number
    return True


def _footnote_inline(state: StateInline, silent: bool) -> bool:
    mark = re.compile(r"\[\^([\w:.-]{1,99})\]").match(state.src, state.pos)
    if not mark or mark[1] not in state.env["footnotes"]:
        return False
    if not silent:
        cited = state.env["cited"]
        if mark[1] not in cited:
            cited.append(mark[1])
        state.pending += f"[{cited.index(mark[1]) + 1}]"
    state.pos = mark.end()
    return True
