"""What is to be built: the settings are checked, and what there is to read is listed, before anything runs."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from scratchlab.corpus.building.filters import parse_filters
from scratchlab.corpus.building.mixture import Mixture
from scratchlab.corpus.building.work import Piece, in_pieces
from scratchlab.corpus.pretrained import KNOWN_TOKENIZERS, RANKS, open_tokenizer
from scratchlab.corpus.shards import SHARD_TOKENS
from scratchlab.corpus.sources.documents import Reading, printable
from scratchlab.corpus.sources.find import Listing, Source, list_source
from scratchlab.corpus.sources.formats import TABLES
from scratchlab.corpus.splits import parse_split
from scratchlab.corpus.tokenizer import Tokenizer, parse_tokenizer
from scratchlab.errors import UsageError
from scratchlab.files import sha256_of_json


@dataclass(frozen=True, slots=True)
class Settings:
    """How a corpus is to be built."""

    tokenizer: str = "auto"
    split: str = "auto"
    filters: tuple[str, ...] = ()
    near_duplicates: float | None = None
    """The likeness (Jaccard, of word 5-grams) from which on the later of two documents is left out."""
    specials: tuple[str, ...] = ()
    """Special tokens besides `<|endoftext|>`, for a tokenizer that is trained here."""
    mixture: Mixture | None = None
    shard_tokens: int = SHARD_TOKENS


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be built: all that was asked for, checked, and all that there is to read."""

    settings: Settings
    sources: tuple[Source, ...]
    listings: tuple[Listing, ...]
    """Of each source."""
    pieces: tuple[Piece, ...]
    key: str
    """Stands for everything that decides what the corpus will be."""

    @property
    def name(self) -> str:
        """The sources in a few words, for messages."""
        return enumerate_names([printable(source.name) for source in self.sources])


def prepare(sources: Sequence[str | Source], settings: Settings) -> tuple[Order, Tokenizer | None]:
    """Check what was asked for and list what there is to read; gives the tokenizer too, if it is there already."""
    if isinstance(sources, str) or not sources:
        raise UsageError(
            f"sources {sources!r}: expected a list of files, folders or python-docs, as in ['my-writing/']."
        )
    named = _named(sources)
    given = _check(settings, named)
    listings = [list_source(replace(source, reading=_reading(source, settings, given))) for source in named]
    for span in (span for listing in listings for span in listing.spans if span.format == "tokens" and not given):
        raise UsageError(
            f"{span.name} holds tokens. Name the tokenizer that made them by --tokenizer: gpt2, or its path."
        )
    _check_column(settings, named, listings)
    _check_cleaning(settings, listings)
    pieces = in_pieces([listing.spans for listing in listings])
    read = [(piece.source, piece.spans.sha256) for piece in pieces]
    key = sha256_of_json([given and given.sha256, *map(asdict, [settings, *named]), *read])
    return Order(settings, named, tuple(listings), tuple(pieces), key), given


def enumerate_names(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _named(sources: Sequence[str | Source]) -> tuple[Source, ...]:
    """The sources, each with a name; UsageError if two have the same."""
    given = [Source(source) if isinstance(source, str) else source for source in sources]
    named = tuple(replace(source, name=source.name or source.location) for source in given)
    twice = [name for name, count in Counter(source.name for source in named).items() if count > 1]
    if twice:
        raise UsageError(
            f"Two sources are called {twice[0]}. Give each once; in a mixture, give each a name of its own, and let a "
            "source be used more than once by its `repeat`."
        )
    return named


def _check(settings: Settings, sources: Sequence[Source]) -> Tokenizer | None:
    """Hear of mistaken settings before gigabytes are read; gives the tokenizer if it is there already."""
    parse_split(settings.split)
    parse_filters(settings.filters)
    _check_mixture(settings.mixture, sources)
    _check_code(settings, sources)
    spec = settings.tokenizer
    given = None if spec in ("auto", "char", "byte") else open_tokenizer(spec)
    if spec != "auto" and given is None:
        check_new(spec)
    _check_specials(settings, given)
    if given and settings.specials:
        return given.with_specials(settings.specials)
    return given


def check_new(spec: str) -> None:
    """UsageError for a tokenizer that is neither there nor of a kind that can be trained."""
    if os.sep in spec or Path(spec).suffix in (".json", ".txt", ".bpe", RANKS):
        raise UsageError(
            f"tokenizer {spec!r}: there is no such file or folder. Known are {KNOWN_TOKENIZERS}; or a new one is "
            "trained: char, byte, bpe:N, integers or bins:N."
        )
    parse_tokenizer(spec)


def _check_mixture(mixture: Mixture | None, sources: Sequence[Source]) -> None:
    weighted = [source for source in sources if source.weight is not None]
    for source in weighted:
        if not (source.weight and 0 < source.weight < math.inf):
            raise UsageError(f"{source.name}: weight {source.weight} is not above 0. Leave the source out instead.")
    for source in sources:
        if source.repeat < 1:
            raise UsageError(f"{source.name}: repeat {source.repeat} is below 1: how often may a document be used?")
        if source.repeat > 1 and mixture is None:
            raise UsageError(f"{source.name}: repeat {source.repeat} is for mixtures. Give every source a weight.")
    if (mixture is not None) != bool(weighted) or (weighted and len(weighted) < len(sources)):
        raise UsageError("In a mixture every source has a weight, and weights make a mixture. Give them all or none.")


# What would change nothing is a misunderstanding, and is not done in silence.


def _check_code(settings: Settings, sources: Sequence[Source]) -> None:
    for some in _asked_alike(settings, range(len(sources))):
        asked = [place for place in some if not sources[place].reading.code]
        if asked and not any(sources[place].blog for place in asked):
            raise UsageError(
                "--no-code (in a mixture, code = false) leaves code blocks out of the posts of a Jekyll site alone, "
                f"and {_none_of(sources, asked)} one. Give the site by --jekyll (jekyll = true), or keep the code."
            )


def _check_column(settings: Settings, sources: Sequence[Source], listings: Sequence[Listing]) -> None:
    for some in _asked_alike(settings, range(len(sources))):
        asked = [place for place in some if sources[place].reading.column is not None]
        if asked and not any(_reads_column(sources[place], listings[place]) for place in asked):
            raise UsageError(
                f"--column {sources[asked[0]].reading.column} names a column of JSON Lines, CSV, Parquet or a dataset "
                f"on the Hub that names none itself, and {_none_of(sources, asked)} one of these. Leave it out, or "
                "give such a table."
            )


def _asked_alike(settings: Settings, places: Sequence[int]) -> list[Sequence[int]]:
    """The places of sources that share an option: all of a command; in a mixture, each has options of its own."""
    return [[place] for place in places] if settings.mixture else [places]


def _reads_column(source: Source, listing: Listing) -> bool:
    column = source.reading.column
    return any(span.format in TABLES and span.reading.column == column for span in listing.spans)


def _none_of(sources: Sequence[Source], places: Sequence[int]) -> str:
    names = enumerate_names([printable(sources[place].name) for place in places])
    return f"{names} is not" if len(places) == 1 else f"none of {names} is"


def _check_specials(settings: Settings, given: Tokenizer | None) -> None:
    if settings.specials and _is_numeric(settings, given):
        raise UsageError(
            f"--special {settings.specials[0]}: special tokens mark places in a text, and tokenizer "
            f"{settings.tokenizer} has symbols for numbers alone. Leave it out, or use another tokenizer."
        )


def _check_cleaning(settings: Settings, listings: Sequence[Listing]) -> None:
    """The manifest says of a whole corpus how it was cleaned, so that this must be so of all its sources."""
    asked = [f"--filter {settings.filters[0]}"] if settings.filters else []
    asked += [] if settings.near_duplicates is None else [f"--near-duplicates {settings.near_duplicates:g}"]
    tokens = [span for listing in listings for span in listing.spans if span.format == "tokens"]
    if asked and tokens:
        raise UsageError(
            f"{' and '.join(asked)}: {tokens[0].name} holds tokens, and only text can be cleaned. Leave that out; or, "
            "to clean other text that goes with it, build that text alone first and give what came out, as in "
            "'corpora/mine/*-*.bin', beside the tokens."
        )


def _is_numeric(settings: Settings, given: Tokenizer | None) -> bool:
    return given.numeric if given else settings.tokenizer.partition(":")[0] in ("integers", "bins")


def _reading(source: Source, settings: Settings, given: Tokenizer | None) -> Reading:
    """How a source is read, which depends on the tokenizer too."""
    return replace(
        source.reading,
        series=_is_numeric(settings, given),
        separator=given.end_of_text if given else None,
    )
