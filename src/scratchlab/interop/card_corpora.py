"""What a model was trained on, for its card: its own corpus, and those of the runs that its weights came through."""

from collections.abc import Sequence
from typing import Any

from scratchlab.corpus.hub import SCHEME
from scratchlab.corpus.manifest import SourceRecord
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.errors import CorpusError
from scratchlab.interop.card_parts import table
from scratchlab.interop.card_story import HOLDS, Chapter, earlier
from scratchlab.interop.told import told
from scratchlab.runfolder import Record, RunFolder

MOST_SOURCES = 12


def data(folder: RunFolder) -> list[str]:
    """Sources, tokens, cleaning and the hash of each corpus, the oldest run's first, as far as it is where it was."""
    own = folder.manifest().get("corpus") or {}
    before = earlier(folder)
    described = _described(own) if own.get("path") else [UNKNOWN.format("The weights were imported, and")]
    if not before:
        return described
    said = ["It learned in more than one run, each of which began from the weights of the one before."]
    seen: set[Any] = set()
    for number, one in enumerate(before, start=1):
        said += [f"### {number}. {one.name}: {one.holds}", *_of_chapter(one, seen)]
        seen |= {(one.corpus or {}).get("sha256")}
    holds = HOLDS[folder.learned()["learned_from"]]
    said.append(f"### {len(before) + 1}. This run: {holds}")
    return [*said, *([_same(own)] if own.get("sha256") in seen else described)]


UNKNOWN = "{} what they were trained on is not recorded here."


def _of_chapter(one: Chapter, seen: set[Any]) -> list[str]:
    if one.imported:
        return [UNKNOWN.format("They were imported, and")]
    if one.corpus is None:
        return ["Its corpus is not recorded: the run is no longer there, and was made before runs wrote that down."]
    return [_same(one.corpus)] if one.corpus["sha256"] in seen else _described(one.corpus)


def _same(recorded: Record) -> str:
    return f"The corpus {told(recorded['path'])} once more (SHA-256 {recorded['sha256']})."


def _described(recorded: Record) -> list[str]:
    name, sha256 = told(recorded["path"]), recorded["sha256"]
    corpus = opened(recorded)
    if corpus is None:
        return [f"The corpus {name} (SHA-256 {sha256}), which was no longer there when this card was written."]
    manifest, tokenizer = corpus.manifest, corpus.manifest.tokenizer
    splits = [
        (split, f"{one.documents:,}", f"{one.tokens:,}", f"{one.bytes:,}") for split, one in manifest.splits.items()
    ]
    spec = told(tokenizer.spec)
    named = spec if spec == tokenizer.spec else f"that of {spec}"
    said = [
        f"The corpus {name} (SHA-256 {sha256}); tokenizer: {named}, {tokenizer.vocab_size:,} symbols.",
        table(("source", "documents", "bytes of text"), _sources(manifest.sources)),
        table(("split", "documents", "tokens", "bytes of text"), splits),
    ]
    cleaned = [*manifest.cleaning.filters]
    if manifest.cleaning.near_duplicates is not None:
        cleaned.append(f"near duplicates (likeness {manifest.cleaning.near_duplicates:g} and more)")
    said += [f"Cleaned of: exact duplicates{''.join(f', {kind}' for kind in cleaned)}."]
    if (overlap := manifest.overlap) is not None and overlap.share is not None:
        said += [f"Of the test split's stretches of {overlap.n} words, {overlap.share:.2%} are in the training split."]
    return said


def _sources(sources: Sequence[SourceRecord]) -> list[tuple[str, str, str]]:
    rows = [(told(one.source), f"{one.documents:,}", f"{one.bytes:,}") for one in sources[:MOST_SOURCES]]
    if others := sources[MOST_SOURCES:]:
        counts = (sum(one.documents for one in others), sum(one.bytes for one in others))
        rows.append((f"and {len(others):,} more", f"{counts[0]:,}", f"{counts[1]:,}"))
    return rows


def opened(recorded: Record | None) -> Corpus | None:
    """The corpus of this path and hash, if it is still where it was and the same."""
    if not recorded or not recorded.get("path"):
        return None
    try:
        corpus = open_corpus(recorded["path"])
    except CorpusError:
        return None
    return corpus if corpus.sha256 == recorded["sha256"] else None


def datasets(*records: Record | None) -> list[str]:
    """The datasets of the Hub that these corpora were made of, as USER/NAME."""
    corpora = [corpus for one in records if (corpus := opened(one)) is not None]
    places = [source.location or source.source for corpus in corpora for source in corpus.manifest.sources]
    return sorted({place.removeprefix(SCHEME).partition("?")[0] for place in places if place.startswith(SCHEME)})
