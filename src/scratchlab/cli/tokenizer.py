"""`scratchlab tokenizer`: show one, compare several."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scratchlab.cli.output import as_json, count
from scratchlab.cli.output import show as print_report

if TYPE_CHECKING:
    from scratchlab.corpus.sources.documents import Document
    from scratchlab.corpus.tokenizer import Tokenizer

SPLIT = "validation"
BEGINNING = 300  # characters of a file that are shown split
WIDEST = 60  # characters of a token that are shown
MOST_SPECIALS = 8  # special tokens that are named


@click.group(epilog="Example: scratchlab tokenizer show gpt2")
def tokenizer() -> None:
    """Show and compare tokenizers."""


@tokenizer.command(epilog='Example: scratchlab tokenizer show runs/first --text "Every effort moves you"')
@click.argument("tokenizer")
@click.option("--text", metavar="TEXT|FILE", help="Show how it splits. Of a file, the beginning is shown.")
@click.option("--corpus", metavar="DIR", help="Measure on this corpus's validation split.")
@as_json
def show(tokenizer: str, text: str | None, corpus: str | None, as_json: bool) -> None:
    """What TOKENIZER is made of: gpt2, a tokenizer.json, or a folder with one (a run, a corpus)."""
    from scratchlab.corpus.vocabulary import longest_tokens, split_text

    opened = _open(tokenizer)
    report: dict[str, Any] = {
        "tokenizer": tokenizer,
        "sha256": opened.sha256,
        "kind": opened.kind,
        "vocab_size": opened.vocab_size,
        "end_of_text": opened.end_of_text,
        "specials": dict(opened.specials),
        "dtype": opened.dtype_name,
        "longest": [asdict(token) for token in longest_tokens(opened)],
        "measured": [],
        "split": None,
    }
    if corpus is not None:
        report["measured"].append(_measured_alone(opened, tokenizer, None, corpus))
    if text is not None:
        report["measured"].append(_measured_alone(opened, tokenizer, text, None))
        beginning = next(_documents(text, None))[:BEGINNING] if _is_file(text) else text
        report["split"] = [asdict(token) for token in split_text(opened, beginning)]
    print_report(report, as_json, _show_text)


@tokenizer.command(epilog="Example: scratchlab tokenizer compare gpt2 corpora/mine --corpus corpora/mine")
@click.argument("tokenizers", nargs=-1, required=True, metavar="TOKENIZER...")
@click.option("--text", metavar="FILE", help="Measure on this text file.")
@click.option("--corpus", metavar="DIR", help="Measure on this corpus's validation split.")
@as_json
def compare(tokenizers: tuple[str, ...], text: str | None, corpus: str | None, as_json: bool) -> None:
    """How far each TOKENIZER goes on the same text, side by side. For what a TOKENIZER may be, see tokenizer show.

    One that cannot encode the text is shown as failed, with the reason.
    """
    from scratchlab.errors import CorpusError

    if (text is None) == (corpus is None):
        raise click.UsageError("Say which text to measure on: either --text FILE or --corpus DIR.")
    if text is not None and not _is_file(text):
        raise click.UsageError(f"--text {text}: there is no such file.")
    opened = [(name, _open(name)) for name in tokenizers]  # all of them before the first is measured
    rows = [_row(one, name, text, corpus) for name, one in opened]
    if all(row["failed"] for row in rows):
        reasons = "; ".join(sorted({row["failed"] for row in rows}))
        raise CorpusError(f"None of these tokenizers could be measured on {_where(text, corpus)}: {reasons}")
    print_report({"on": _where(text, corpus), "tokenizers": rows}, as_json, _compare_text)


def _row(opened: "Tokenizer", name: str, text: str | None, corpus: str | None) -> dict[str, Any]:
    """What was measured, or why it could not be."""
    from scratchlab.errors import CorpusError

    row = {"tokenizer": name, "kind": opened.kind, "vocab_size": opened.vocab_size}
    try:
        return row | {"failed": None} | _measured(opened, text, corpus)
    except CorpusError as error:
        return row | {"failed": str(error)}


def _open(spec: str) -> "Tokenizer":
    from scratchlab.corpus.pretrained import KNOWN_TOKENIZERS, open_tokenizer
    from scratchlab.errors import CorpusError

    opened = open_tokenizer(spec)
    if opened is None:
        raise CorpusError(f"{spec} is no tokenizer: there is no such path. Known are {KNOWN_TOKENIZERS}.")
    return opened


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a path, or with a NUL
        return False


def _where(text: str | None, corpus: str | None) -> str:
    return f"{corpus}, {SPLIT}" if corpus is not None else text if text and _is_file(text) else "the text given"


def _documents(text: str | None, corpus: str | None) -> Iterator[str]:
    """The text that is measured on, document by document."""
    from scratchlab.corpus.sources.find import read_documents
    from scratchlab.corpus.store import open_corpus

    if corpus is not None:
        yield from open_corpus(corpus).documents(SPLIT)
    elif text is not None and _is_file(text):
        yield from _whole(read_documents(text))
    else:
        yield text or ""


def _whole(documents: Iterator["Document"]) -> Iterator[str]:
    """The texts of `documents`, of which long ones come in parts."""
    parts: list[str] = []
    for document in documents:
        if parts and not document.continues:
            yield "".join(parts)
            parts.clear()
        parts.append(document.text)
    if parts:
        yield "".join(parts)


def _measured_alone(opened: "Tokenizer", name: str, text: str | None, corpus: str | None) -> dict[str, Any]:
    from scratchlab.errors import CorpusError

    try:
        return _measured(opened, text, corpus)
    except CorpusError as error:
        raise CorpusError(f"{name} on {_where(text, corpus)}: {error}") from error


def _measured(opened: "Tokenizer", text: str | None, corpus: str | None) -> dict[str, Any]:
    from scratchlab.corpus.vocabulary import measure

    return {"on": _where(text, corpus), **asdict(measure(opened, _documents(text, corpus)))}


KINDS = {
    "char": "characters",
    "byte": "bytes",
    "bpe": "byte-level BPE",
    "integers": "whole numbers",
    "bins": "numbers in bins",
    "other": "encoded by `tokenizers`",
}


def _show_text(report: dict[str, Any]) -> str:
    from scratchlab.corpus.tokenizer import END_OF_TEXT

    specials = [f"{name} is {token}" for name, token in list(report["specials"].items())[:MOST_SPECIALS]]
    left_out = len(report["specials"]) - len(specials)
    special = ", ".join([*specials, *[f"{left_out:,} more special tokens"] * (left_out > 0)]) or f"no {END_OF_TEXT}"
    lines = [
        f"{report['tokenizer']}  (sha256 {report['sha256'][:12]})",
        f"  {KINDS[report['kind']]}, {count(report['vocab_size'], 'symbol')}, {special}, stored as {report['dtype']}",
        f"  the longest symbols ({_legend()})",
        *(f"  {token['bytes']:>6} bytes  {token['id']:>6}  {_short(token['shown'])}" for token in report["longest"]),
    ]
    for found in report["measured"]:
        lines += [f"  on {_text_size(found)}", f"    {_measured_text(found)}"]
    if report["split"] is not None:
        lines += [f"  split into {count(len(report['split']), 'token')}", *_split_lines(report["split"])]
    return "\n".join(lines)


def _measured_text(found: dict[str, Any]) -> str:
    words = "" if found["whole_word_share"] is None else f"; {found['whole_word_share']:.1%} of words are one token"
    return (
        f"{count(found['tokens'], 'token')}: {found['bytes_per_token']:.3f} bytes and "
        f"{found['characters_per_token']:.3f} characters a token{words}"
    )


def _text_size(found: dict[str, Any]) -> str:
    parts = ("documents", "bytes", "characters", "words")
    return f"{found['on']}: {', '.join(count(found[part], part.removesuffix('s')) for part in parts)}"


def _legend() -> str:
    from scratchlab.corpus.vocabulary import NEWLINE, SPACE, TAB

    return f"{SPACE} is a space, {NEWLINE} a newline, {TAB} a tab"


def _short(shown: str) -> str:
    return shown if len(shown) <= WIDEST else f"{shown[:WIDEST]}..."


def _split_lines(tokens: list[dict[str, Any]]) -> list[str]:
    """The tokens between bars, as many lines as the text has, then their ids."""
    from scratchlab.corpus.vocabulary import NEWLINE

    lines: list[list[str]] = [[]]
    for token in tokens:
        lines[-1].append(token["shown"])
        if token["shown"].endswith(NEWLINE):
            lines.append([])
    ids = " ".join(str(token["id"]) for token in tokens)
    return [*("    " + "│".join(line) for line in lines if line), f"    {ids}"]


def _compare_text(report: dict[str, Any]) -> str:
    rows = report["tokenizers"]
    width = max(len("tokenizer"), *(len(row["tokenizer"]) for row in rows))
    head = f"{'symbols':>9}{'tokens':>13}{'bytes/token':>13}{'characters/token':>18}{'words in one token':>20}"
    size = next((_text_size(row) for row in rows if not row["failed"]), report["on"])
    return "\n".join([f"on {size}", f"  {'tokenizer':<{width}}{head}", *(_row_text(row, width) for row in rows)])


def _row_text(row: dict[str, Any], width: int) -> str:
    start = f"  {row['tokenizer']:<{width}}{row['vocab_size']:>9,}"
    if row["failed"]:
        return f"{start}  failed: {row['failed']}"
    share = "-" if row["whole_word_share"] is None else f"{row['whole_word_share']:.1%}"
    per_token = f"{row['bytes_per_token']:>13.3f}{row['characters_per_token']:>18.3f}"
    return f"{start}{row['tokens']:>13,}{per_token}{share:>20}"
