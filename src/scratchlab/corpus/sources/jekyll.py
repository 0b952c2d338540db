"""A Jekyll site's posts as an author's plain prose.

The steps are Jekyll's own: front matter, then Liquid, then Markdown, then HTML, of which the text is kept. Needs the
extra `blog`.
"""

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any

from scratchlab.corpus.sources.documents import printable
from scratchlab.errors import CorpusError
from scratchlab.extras import require

MARKDOWN = (".md", ".markdown", ".mkd", ".mkdn", ".mkdown")
HTML = (".html", ".htm")

_NAME = re.compile(r"(\d{2,4}-\d{1,2}-\d{1,2})-(.*)")  # of a post, without its extension
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*$\n?", re.DOTALL | re.MULTILINE)  # as in Jekyll
_NOT_POSTS = ("node_modules", "vendor")  # what Jekyll leaves out unless told otherwise, with _*, .*, #* and ~*


@dataclass(frozen=True, slots=True)
class Post:
    """A post as text: its title, then paragraphs, headings, lists and code with a blank line between them."""

    text: str
    title: str
    date: str | None
    """Year-month-day, of the front matter or else of the file name."""
    published: bool = True
    """False if the front matter says so: Jekyll does not show such a post."""
    removed: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """By kind, each piece that was taken out, in order."""


def posts(site: Path) -> list[Path]:
    """The posts of a site, or of a folder of posts, sorted by path; drafts are not among them.

    A site is a folder with `_posts` in it or in a folder of it. CorpusError if there are none.
    """
    found, passed_over = _look(site)
    if not found:
        there = "; ".join(f"{reason}: {', '.join(names[:3])}" for reason, names in passed_over.items())
        raise CorpusError(
            f"{printable(site)} holds no Jekyll posts. Give a site (a folder with _posts) or a folder of posts, named "
            f"like 2024-01-31-title.md{f'. Found there: {there}' if there else ''}."
        )
    return found


def passed_over(site: Path) -> dict[str, list[str]]:
    """By reason, the files among the posts of `site` that `posts` leaves out."""
    return _look(site)[1]


def clean_post(raw: str, name: str, code: bool = True) -> Post:
    """The text of the post `raw`, the contents of a file called `name`; `code` says whether code blocks are kept.

    `removed` has the kinds "front matter", "liquid", "unknown liquid" (no tag, filter or variable of that name here),
    "kramdown", "html" (tags as written), "comment", "embed", "image", "link" (addresses), "footnote" (never cited) and
    "code block".

    A post without front matter is read, as in Jekyll. CorpusError, with the line, for front matter that is not YAML
    (Jekyll goes on without it, but title, date and `published` would be guesses) and for Liquid that is not closed
    (Jekyll stops).
    """
    require("Reading a Jekyll site", "blog", "frontmatter", "liquid", "markdown_it", "selectolax")
    from scratchlab.corpus.sources.html_text import Removed, text_of_html

    removed: Removed = {}
    matter, body, first_line = _front_matter(raw, name, removed)
    highlighted: dict[str, str] = {}
    if matter.get("render_with_liquid", True) is not False:
        from scratchlab.corpus.sources.jekyll_liquid import render_liquid

        page = {**matter, "title": _title(matter, name), "date": matter.get("date") or _date(matter, name)}
        body, highlighted = render_liquid(body, page, name, first_line, removed)
    try:
        if not name.lower().endswith(HTML):
            from scratchlab.corpus.sources.kramdown import html_of_markdown

            body = html_of_markdown(body, removed)
        text = text_of_html(body, removed, code, highlighted)
    except RecursionError as error:
        raise CorpusError(f"{name} has lists, quotes or tags too deep inside one another. Leave it out.") from error
    title = _title(matter, name)
    return Post(
        text=_under_title(title, text),
        title=title,
        date=_date(matter, name),
        published=matter.get("published", True) is not False,
        removed={kind: tuple(pieces) for kind, pieces in sorted(removed.items()) if pieces},
    )


# Finding posts.


def _look(site: Path) -> tuple[list[Path], dict[str, list[str]]]:
    if not site.is_dir():
        raise CorpusError(f"{printable(site)} is not a folder. Give a Jekyll site, or a folder of posts.")
    folders = [site] if site.name == "_posts" else _post_folders(site) or [site]
    found: list[Path] = []
    others: dict[str, list[str]] = {}
    for folder in folders:
        for path in _files(folder):
            reason = _why_not(path)
            if reason:
                others.setdefault(reason, []).append(printable(path.relative_to(site)))
            else:
                found.append(path)
    return sorted(found, key=lambda path: path.relative_to(site).as_posix()), others


def _post_folders(site: Path) -> list[Path]:
    """Every `_posts` that Jekyll would look into."""
    folders: list[Path] = []
    for parent, names, _ in os.walk(site, onerror=_unreadable):
        if "_posts" in names:
            folders.append(Path(parent, "_posts"))
        names[:] = sorted(name for name in names if not name.startswith(tuple("_.#~")) and name not in _NOT_POSTS)
    return folders


def _files(folder: Path) -> list[Path]:
    files: list[Path] = []
    for parent, names, there in os.walk(folder, onerror=_unreadable):
        names[:] = [name for name in names if not name.startswith(tuple("_.#~"))]  # _drafts among them
        files += [Path(parent, name) for name in there if not name.startswith(tuple(".#~"))]
    return sorted(files)


def _unreadable(error: OSError) -> None:
    raise CorpusError(f"{printable(error.filename)} could not be read: {error.strerror}.") from error


def _why_not(path: Path) -> str:
    if path.suffix.lower() not in (*MARKDOWN, *HTML):
        return f"{path.suffix.lower() or 'no extension'} is not read"
    return "" if _NAME.fullmatch(path.stem) else "not named like 2024-01-31-title.md"


# Front matter, title and date.


def _front_matter(raw: str, name: str, removed: dict[str, list[str]]) -> tuple[dict[str, Any], str, int]:
    """The front matter, the text below it, and the number of that text's first line."""
    found = _FRONT_MATTER.match(raw)
    if not found:
        if re.match(r"---[ \t]*\n", raw):
            raise CorpusError(
                f"{name}, line 1: the front matter opens with --- and is never closed. Close it with a line of ---, or "
                "put an empty line first if this is a ruled line."
            )
        return {}, raw, 1
    from frontmatter.default_handlers import YAMLHandler
    from yaml import MarkedYAMLError, YAMLError

    try:
        matter = YAMLHandler().load(found[1])
    except (YAMLError, ValueError) as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        line = f", line {mark.line + 2}" if mark else ""
        problem = error.problem if isinstance(error, MarkedYAMLError) else error
        raise CorpusError(
            f"{name}{line}: the front matter is not YAML: {problem}. Correct it; a value with a colon or a bracket in "
            "it wants quotes."
        ) from error
    if matter is not None and not isinstance(matter, dict):
        raise CorpusError(f"{name}, line 2: the front matter is not of the form `title: My title`, one field a line.")
    removed["front matter"] = [found[1].rstrip("\n")]
    return matter or {}, raw[found.end() :], 1 + raw.count("\n", 0, found.end())


def _title(matter: Mapping[str, Any], name: str) -> str:
    """As written, without HTML; a post without one has the words of its file name, as in Jekyll."""
    title = matter.get("title")
    if title is None:
        stem = Path(name).stem
        dated = _NAME.fullmatch(stem)
        return " ".join(word.capitalize() for word in re.split(r"[-_\s]+", dated[2] if dated else stem) if word)
    text = str(title)
    if "</" in text or "<br" in text:  # otherwise `List<T>` is what the author says
        from scratchlab.corpus.sources.html_text import text_of_html

        text = text_of_html(text, {})
    return " ".join(unescape(text).split())


def _date(matter: Mapping[str, Any], name: str) -> str | None:
    written = matter.get("date")
    if isinstance(written, datetime.date):  # a time is one too
        return written.strftime("%Y-%m-%d")
    found = re.match(r"(\d{2,4})-(\d{1,2})-(\d{1,2})", str(written or "")) or re.match(
        r"(\d{2,4})-(\d{1,2})-(\d{1,2})-", Path(name).name
    )
    if not found:
        return None
    year, month, day = (int(part) for part in found.groups())
    return f"{year + 2000 if year < 100 else year:04}-{month:02}-{day:02}"


def _under_title(title: str, text: str) -> str:
    """The text with its title on top, once: some authors repeat it as the first heading."""
    first, _, rest = text.partition("\n\n")
    if first.casefold() == title.casefold():
        text = rest
    return "\n\n".join(part for part in (title, text) if part)
