"""Liquid as Jekyll renders it, by python-liquid with the tags and filters that Jekyll adds.

Only what a post holds is known here: its own front matter as `page`, not the site's configuration, includes or other
posts. What that leaves without a value becomes nothing and is reported. Needs the extra `blog`.
"""

import datetime
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from typing import Any, TextIO

from liquid import Environment, Mode, RenderContext, Undefined
from liquid.ast import BlockNode, IllegalNode, Node
from liquid.builtin.content import ContentNode
from liquid.exceptions import LiquidError, ResourceLimitError
from liquid.parser import get_parser
from liquid.stream import TokenStream
from liquid.tag import Tag
from liquid.token import TOKEN_CONTENT, TOKEN_EXPRESSION, TOKEN_ILLEGAL, TOKEN_OUTPUT, TOKEN_TAG, Token

from scratchlab.corpus.sources.html_text import Removed
from scratchlab.errors import CorpusError


def render_liquid(
    text: str, page: Mapping[str, object], name: str, first_line: int, removed: Removed
) -> tuple[str, dict[str, str]]:
    """`text` with its Liquid run, and the code of its `highlight` blocks by the tag that stands in their place.

    Adds to `removed` under "liquid" all that was Liquid, and under "unknown liquid" the tags, filters and variables
    that mean nothing here, and expressions that could not be read: Jekyll prints those as nothing too. CorpusError for
    what stops Jekyll: a tag or block that is not closed. `name` and `first_line` say where `text` stands.
    """
    environment = _Environment(removed)
    try:
        opened = list[Token]()
        for token, written in _pieces(environment, text):
            removed.setdefault("liquid", []).append(written)
            _balance(environment, token, opened)
        if opened:
            raise LiquidError(f"{{% {opened[-1].value} %}} is never closed", token=opened[-1])
        return environment.from_string(text).render(page=page, site={}), environment.highlighted
    except LiquidError as error:
        at = error.token.start_index if error.token else 0
        line = first_line + text.count("\n", 0, at)
        raise CorpusError(
            f"{name}, line {line}: Liquid: {str(error.message).rstrip('.')}. Jekyll would refuse it too. Correct it, "
            "or put what is not meant as Liquid between {% raw %} and {% endraw %}."
        ) from error


def _pieces(environment: Environment, text: str) -> Iterator[tuple[Token, str]]:
    """The tags and outputs of `text`, each with how it was written, but for white space."""
    tokens = [*environment.tokenizer()(text), None]
    for token, following in itertools.pairwise(tokens):
        assert token
        if token.kind == TOKEN_OUTPUT:
            yield token, token.value
        elif token.kind == TOKEN_TAG:
            expression = f" {following.value}" if following and following.kind == TOKEN_EXPRESSION else ""
            yield token, f"{{% {token.value}{expression} %}}"
        elif token.kind == TOKEN_CONTENT and text.startswith("{%", token.start_index):
            yield token, "{% raw %}"


def _balance(environment: Environment, token: Token, opened: list[Token]) -> None:
    """Keep account of the open blocks; LiquidError for one that is closed out of turn."""
    if token.kind != TOKEN_TAG:
        return
    ends = {tag.end: tag.name for tag in environment.tags.values() if tag.block and tag.end}
    if token.value == "raw":
        raise LiquidError("{% raw %} is never closed", token=token)  # a closed one has become content
    if token.value in ends.values():
        opened.append(token)
    elif token.value in ends:
        if not opened or opened[-1].value != ends[token.value]:
            inner = f" before {{% {opened[-1].value} %}} is closed" if opened else " closes nothing"
            raise LiquidError(f"{{% {token.value} %}}{inner}", token=token)
        opened.pop()


class _Environment(Environment):
    """Tolerant as Jekyll is: what cannot be evaluated is nothing, and is reported."""

    loop_iteration_limit = 1_000_000
    output_stream_limit = 100_000_000

    def __init__(self, removed: Removed) -> None:
        self.removed = removed
        self.highlighted: dict[str, str] = {}

        class Missing(Undefined):
            def __init__(self, name: str, *, token: Token | None, obj: object = None, hint: str | None = None) -> None:
                super().__init__(name, token=token, hint=hint)
                if name != "parentloop":  # asked of every loop by python-liquid itself
                    unknown((hint or name).removesuffix(" is undefined").strip("'"))

        unknown = self.unknown
        super().__init__(tolerance=Mode.LAX, undefined=Missing)
        self.filters = _Filters(self.filters, unknown)
        self.filters.update(_FILTERS)
        for tag, names in _TAGS.items():
            for name in names.split():
                self.tags[name] = tag(self)
        del self.tags["doc"]

    def unknown(self, what: str) -> None:
        self.removed.setdefault("unknown liquid", []).append(what)

    def error(self, exc: Any, msg: str | None = None, token: Token | None = None) -> None:
        error = exc if isinstance(exc, LiquidError) else exc(msg, token=token)
        if isinstance(error, ResourceLimitError):
            raise error
        where = error.token or token
        self.unknown(f"{error.message}: {where.value}" if where else str(error.message))


class _Filters(dict[str, Callable[..., Any]]):
    """An unknown filter leaves its input as it is."""

    def __init__(self, known: Mapping[str, Callable[..., Any]], unknown: Callable[[str], None]) -> None:
        super().__init__(known)
        self._unknown = unknown

    def __missing__(self, name: str) -> Callable[..., Any]:
        self._unknown(f"| {name}")
        return lambda value, *arguments, **options: value


class _Nothing(Tag):
    """A tag that leaves nothing: one nobody knows, whose name is reported, or one of Jekyll's that needs the site."""

    block = False

    def parse(self, stream: TokenStream) -> Node:
        token = stream.expect(TOKEN_TAG)
        assert isinstance(self.env, _Environment)
        if token.value not in self.env.tags:
            self.env.unknown(f"{{% {token.value} %}}")
        _expression(stream)
        return IllegalNode(token)


class _Address(Tag):
    """`link` and `post_url`: the address of a page, which only has to be one, since links become their text."""

    block = False

    def parse(self, stream: TokenStream) -> Node:
        return ContentNode(stream.expect(TOKEN_TAG), "/" + "".join(_expression(stream).split()))


def _expression(stream: TokenStream) -> str:
    """Step to the end of a tag; what it says after its name."""
    if stream.peek.kind != TOKEN_EXPRESSION:
        return ""
    next(stream)
    return stream.current.value


class _Highlight(Tag):
    """`highlight`: code, set aside until Markdown and HTML are done so that neither takes it for its own."""

    name = "highlight"
    end = "endhighlight"

    def parse(self, stream: TokenStream) -> Node:
        token = stream.expect(TOKEN_TAG)
        _expression(stream)
        next(stream)
        block = get_parser(self.env).parse_block(stream, (self.end,))
        stream.expect(TOKEN_TAG, value=self.end)
        return _HighlightNode(token, block)


class _HighlightNode(Node):
    def __init__(self, token: Token, block: BlockNode) -> None:
        super().__init__(token)
        self.block = block
        self.blank = False

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        environment = context.env
        assert isinstance(environment, _Environment)
        code = StringIO()
        self.block.render(context, code)
        place = f'<pre data-highlight="{len(environment.highlighted)}"></pre>'
        environment.highlighted[place] = code.getvalue().strip("\n").rstrip()
        return buffer.write(place)


_TAGS: dict[type[Tag], str] = {
    _Nothing: f"{TOKEN_ILLEGAL} include include_relative gist render",
    _Address: "link post_url",
    _Highlight: "highlight",
}

# Filters: Jekyll's own that make words. Addresses stay as they are.


def _day(value: object, format: str) -> str:
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            return value
    return value.strftime(format) if isinstance(value, datetime.date) else ""


def _date(value: object, format: str) -> str:
    """Of what is written in the post. `now` is nothing: the same post is the same text every day."""
    return "" if value in ("now", "today") else _day(value, str(format))


def _sentence(values: object, connector: str = "and") -> str:
    words = [str(value) for value in values] if isinstance(values, (list, tuple)) else [str(values)]
    if len(words) < 3:
        return f" {connector} ".join(words)
    return f"{', '.join(words[:-1])}, {connector} {words[-1]}"


def _slug(value: object, *mode: object) -> str:
    return re.sub(r"[^\w]+", "-", str(value).lower()).strip("-")


def _same(value: object, *arguments: object) -> object:
    return value


_FILTERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("relative_url", "absolute_url", "markdownify", "smartify", "uri_escape"), _same),
    "date": _date,
    "date_to_string": lambda value, *style: _day(value, "%d %b %Y"),
    "date_to_long_string": lambda value, *style: _day(value, "%d %B %Y"),
    "date_to_xmlschema": lambda value: _day(value, "%Y-%m-%dT%H:%M:%S"),
    "array_to_sentence_string": _sentence,
    "slugify": _slug,
    "normalize_whitespace": lambda value: " ".join(str(value).split()),
    "number_of_words": lambda value, *mode: len(str(value).split()),
}
