"""`scratchlab corpus`: build, show and verify corpora."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scratchlab.cli.output import as_json, show

if TYPE_CHECKING:
    from scratchlab.corpus.store import Corpus
    from scratchlab.corpus.survey import Progress

PATIENCE_SECONDS = 1.0  # a build that is done by then shows no progress


@click.group(epilog="Example: scratchlab corpus build my-writing/ --out corpora/mine")
def corpus() -> None:
    """Build, show and verify corpora: prepared text that models are trained on."""


@corpus.command(epilog="Example: scratchlab corpus build my-writing/ notes.txt --out corpora/mine --tokenizer bpe:4096")
@click.argument("sources", nargs=-1, required=True, metavar="TEXT...")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder to make.")
@click.option(
    "--tokenizer",
    default="auto",
    show_default=True,
    metavar="char|byte|bpe:N|gpt2|PATH",
    help="What a token is. auto: characters for a short text, subwords (bpe) from 200,000 characters on. gpt2: "
    "GPT-2's, which tiktoken fetches once. PATH: one that is there already, a tokenizer.json or a folder with one (a "
    "run, a corpus), or GPT-2's older files.",
)
@click.option(
    "--split",
    default="auto",
    show_default=True,
    metavar="RULE",
    help="hash: whole documents by a hash of their text. contiguous: regions of the text in order. Either may be "
    "followed by the shares of train, validation and test, as in contiguous:.9,.1,0; they are .9,.05,.05 otherwise. "
    "auto: hash from 8 documents on.",
)
@as_json
def build(sources: tuple[str, ...], out: Path, tokenizer: str, split: str, as_json: bool) -> None:
    """Make a corpus of TEXT: files, folders of text and Markdown files, or python-docs (text that Python brings along).

    Blank documents and exact copies are left out. The same text gives the same bytes.
    """
    from scratchlab.corpus.build import build_corpus

    with _progress_line() as progress:
        built = build_corpus(sources, out, tokenizer, split, progress)
    show(_report(built), as_json, _text)


@corpus.command("show", epilog="Example: scratchlab corpus show corpora/mine --json")
@click.argument("path", type=click.Path(path_type=Path))
@as_json
def show_corpus(path: Path, as_json: bool) -> None:
    """What the corpus at PATH is made of."""
    from scratchlab.corpus.store import open_corpus

    show(_report(open_corpus(path)), as_json, _text)


@corpus.command(epilog="Example: scratchlab corpus verify corpora/mine")
@click.argument("path", type=click.Path(path_type=Path))
@as_json
def verify(path: Path, as_json: bool) -> None:
    """Read every file of the corpus at PATH and compare its hash. Damaged files are named."""
    from scratchlab.corpus.store import open_corpus

    opened = open_corpus(path)
    files = opened.verify()
    report = {"path": str(path), "sha256": opened.sha256, "intact": True, "files": [file.name for file in files]}
    size = _size(sum(file.size for file in files))
    show(report, as_json, lambda _: f"{path} is intact: {len(files)} files, {size}")


def _report(opened: "Corpus") -> dict[str, Any]:
    return {"path": str(opened.path), **opened.manifest.model_dump(mode="json")}


def _text(report: dict[str, Any]) -> str:
    tokenizer, rule = report["tokenizer"], report["split"]
    lines = [
        f"{report['path']}  (sha256 {report['sha256'][:12]})",
        *map(_source_line, report["sources"]),
        f"  tokenizer  {tokenizer['spec']}, {tokenizer['vocab_size']:,} symbols, stored as {tokenizer['dtype']}",
        f"  split      {rule['rule']}",
        *(f"             {move['document']} moved from {move['origin']} to {move['to']}" for move in rule["moved"]),
        f"             {'documents':>12}{'tokens':>16}{'size':>12}{'bytes/token':>14}",
    ]
    for name, split in report["splits"].items():
        ratio = split["bytes"] / split["tokens"]
        counts = f"{split['documents']:>12,}{split['tokens']:>16,}{_size(split['bytes']):>12}"
        lines.append(f"  {name:<11}{counts}{ratio:>14.2f}")
    return "\n".join(lines)


def _source_line(source: dict[str, Any]) -> str:
    left_out = ", ".join(f"{source[what]:,} {what}" for what in ("duplicates", "blank") if source[what])
    note = f"; left out: {left_out}" if left_out else ""
    unit = "document" if source["documents"] == 1 else "documents"
    return f"  source     {source['source']}: {source['documents']:,} {unit}, {_size(source['bytes'])}{note}"


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


@contextmanager
def _progress_line() -> Generator["Progress | None"]:
    """One line on a terminal's standard error for a build that takes more than a moment; nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    status, begun = console.status(""), time.monotonic()

    def progress(stage: str, done: int, total: int | None) -> None:
        if time.monotonic() - begun > PATIENCE_SECONDS:
            status.update(f"{stage}: {_size(done)}" + (f" of {_size(total)}" if total else ""))
            status.start()

    try:
        yield progress
    finally:
        status.stop()
