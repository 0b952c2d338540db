"""`scratchlab corpus`: build, show and verify corpora."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from scratchlab.cli.build_progress import build_progress
from scratchlab.cli.output import as_json, count, counts_text, show

if TYPE_CHECKING:
    from scratchlab.corpus.manifest import ExampleKind
    from scratchlab.corpus.store import Corpus


@click.group(epilog="Example: scratchlab corpus build my-writing/ --out corpora/mine")
def corpus() -> None:
    """Build, show and verify corpora: prepared text that models are trained on."""


@corpus.command(epilog="Example: scratchlab corpus build my-writing/ notes.txt --out corpora/mine --tokenizer bpe:4096")
@click.argument("sources", nargs=-1, metavar="TEXT...")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The folder to make.")
@click.option("--jekyll", multiple=True, metavar="PATH", help="A Jekyll site, or a folder of posts. May be repeated.")
@click.option(
    "--mixture",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="A TOML file of sources with weights, instead of TEXT.",
)
@click.option(
    "--tokenizer",
    default="auto",
    show_default=True,
    metavar="char|byte|bpe:N|gpt2|integers|bins:N|PATH",
    help="What a token is. auto: characters for a short text, subwords (bpe) from 200,000 characters on. gpt2: "
    "GPT-2's, which tiktoken fetches once. PATH: one that is there already, a tokenizer.json or a folder with one (a "
    "run, a corpus), or GPT-2's older files. integers and bins:N: the text is numbers.",
)
@click.option("--special", "specials", multiple=True, metavar="TOKEN", help="A special token to add, as <|user|>.")
@click.option(
    "--split",
    default="auto",
    show_default=True,
    metavar="RULE",
    help="hash: whole documents by a hash of their text. contiguous: regions of the text in order. Either may be "
    "followed by the shares of train, validation and test, as in contiguous:.9,.1,0; they are .9,.05,.05 otherwise. "
    "names: of token sets, by the names of their files. auto: hash from 8 documents on.",
)
@click.option("--column", metavar="NAME", help="The column of CSV and Parquet, or field of JSON Lines, with the text.")
@click.option(
    "--filter", "filters", multiple=True, metavar="NAME[:N]", help="Clean the text. May be repeated, in order."
)
@click.option("--instructions", metavar="TEMPLATE", help="TEXT is instructions with answers, to be worded by a chat "
              "template: alpaca, chatml, or the path of one.")  # fmt: skip
@click.option("--pairs", metavar="TEMPLATE", help="TEXT is prompts with a chosen and a rejected answer each.")
@click.option("--labels", is_flag=True, help="TEXT is texts with labels (JSON Lines, CSV, TSV: text, label).")
@click.option("--no-code", is_flag=True, help="Leave the code blocks of a blog's posts out.")
@click.option(
    "--near-duplicates",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="LIKENESS",
    help="Leave out documents that are this much like an earlier one (0.8 is usual).",
)
@click.option("--shard-tokens", type=click.IntRange(1), metavar="N", help="The size of a shard.  [default: 2**28]")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes.  [default: one a core]")
@as_json
def build(
    sources: tuple[str, ...],
    out: Path,
    jekyll: tuple[str, ...],
    mixture: Path | None,
    tokenizer: str,
    specials: tuple[str, ...],
    split: str,
    column: str | None,
    filters: tuple[str, ...],
    instructions: str | None,
    pairs: str | None,
    labels: bool,
    no_code: bool,
    near_duplicates: float | None,
    shard_tokens: int | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Make a corpus of TEXT: files, folders, globs, hf:USER/DATASET, or python-docs (text that Python brings along).

    Text, Markdown, HTML, JSON Lines, Parquet, CSV, and token sets (.bin, .npy, .safetensors), plain, in .zip, or
    compressed as .gz or .zst. Blank documents and exact copies are left out. The same text gives the same bytes. A
    build that was killed goes on when the same command is run again.

    With --instructions, --pairs or --labels TEXT is examples to learn from: a JSON list or JSON Lines (Alpaca's fields,
    chat messages), or hf:USER/DATASET. See docs/instructions.md.
    """
    kinds: dict[str, str | bool | None] = {"instructions": instructions, "pairs": pairs, "labels": labels}
    if given := [kind for kind, asked in kinds.items() if asked]:
        others = {
            "--jekyll": jekyll, "--mixture": mixture, "--column": column, "--filter": filters, "--no-code": no_code,
            "--near-duplicates": near_duplicates, "--shard-tokens": shard_tokens, "--workers": workers,
            **{f"--{kind}": True for kind in given[1:]},
        }  # fmt: skip
        if useless := [option for option, value in others.items() if value]:
            raise click.UsageError(f"{useless[0]} has no meaning beside --{given[0]}: leave one of them out.")
        kind = cast("ExampleKind", given[0])
        show(_report(_examples(sources, out, kind, instructions or pairs, tokenizer, split, specials)), as_json, _text)
        return
    from scratchlab.corpus.build import build_corpus
    from scratchlab.corpus.building.mixture_file import read_mixture
    from scratchlab.corpus.sources.documents import Reading
    from scratchlab.corpus.sources.find import Source

    reading = Reading(column=column, code=not no_code)
    chosen = [Source(text, reading=reading) for text in sources]
    chosen += [Source(site, blog=True, reading=reading) for site in jekyll]
    if bool(chosen) == bool(mixture):
        raise click.UsageError(
            "Missing argument 'TEXT...': give texts, --jekyll or --mixture, and only a mixture alone."
        )
    mixed = None
    if mixture is not None:
        if column is not None or no_code:
            raise click.UsageError(
                "A mixture says of each source which column it reads, and whether code stays: there."
            )
        chosen, mixed = read_mixture(mixture)
    with build_progress() as report:
        built = build_corpus(
            chosen,
            out,
            tokenizer,
            split,
            report,
            workers,
            filters=filters,
            near_duplicates=near_duplicates,
            specials=specials,
            mixture=mixed,
            **({} if shard_tokens is None else {"shard_tokens": shard_tokens}),
        )
    show(_report(built), as_json, _text)


def _examples(
    sources: tuple[str, ...],
    out: Path,
    kind: "ExampleKind",
    template: str | None,
    tokenizer: str,
    split: str,
    specials: tuple[str, ...],
) -> "Corpus":
    """Make a corpus of examples."""
    from scratchlab.corpus.examples.build import build_examples
    from scratchlab.corpus.examples.encode import open_wording

    if not sources:
        raise click.UsageError(f"Missing argument 'TEXT...': give the file with the {kind}.")
    wording = open_wording(template) if template else None
    return build_examples(sources, out, kind, wording, tokenizer, split, specials)


@corpus.command("show", epilog="Example: scratchlab corpus show corpora/mine --removed")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--removed", is_flag=True, help="What cleaning removed, with examples.")
@as_json
def show_corpus(path: Path, removed: bool, as_json: bool) -> None:
    """What the corpus at PATH is made of."""
    from scratchlab.corpus.store import open_corpus

    show(_report(open_corpus(path)), as_json, _removed_text if removed else _text)


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
    overlap = opened.manifest.overlap
    shared = None if overlap is None else {"share": overlap.share, **overlap.model_dump(mode="json")}
    return {"path": str(opened.path), **opened.manifest.model_dump(mode="json"), "overlap": shared}


def _text(report: dict[str, Any]) -> str:
    tokenizer, rule = report["tokenizer"], report["split"]
    lines = [
        f"{report['path']}  (sha256 {report['sha256'][:12]})",
        *(line for source in report["sources"] for line in _source_lines(source, report["splits"])),
        f"  tokenizer  {tokenizer['spec']}, {tokenizer['vocab_size']:,} symbols, stored as {tokenizer['dtype']}",
        f"  split      {rule['rule']}",
        *(f"             {move['document']} moved from {move['origin']} to {move['to']}" for move in rule["moved"]),
        f"             {'documents':>12}{'tokens':>16}{'size':>12}{'bytes/token':>14}",
    ]
    for name, split in report["splits"].items():
        ratio = split["bytes"] / split["tokens"]
        counts = f"{split['documents']:>12,}{split['tokens']:>16,}{_size(split['bytes']):>12}"
        lines.append(f"  {name:<11}{counts}{ratio:>14.2f}")
    if found := report["examples"]:
        lines += _example_lines(found)
    if found := report["overlap"]:
        sample = "a sample of " * (found["ngrams_compared"] < found["ngrams"])
        share = f"{found['share']:.2%} of {sample}{found['ngrams_compared']:,}" if found["ngrams_compared"] else "none"
        lines.append(f"  overlap    of the test split's {found['n']}-grams of words, {share} are in the training split")
    return "\n".join(lines)


def _example_lines(found: dict[str, Any]) -> list[str]:
    """What a corpus of examples is."""
    worded = f", worded by {found['template']}" if found["template"] else f": {', '.join(found['labels'])}"
    lines = [f"  examples   {found['kind']}{worded}"]
    for name, split in found["splits"].items():
        learned = "" if found["kind"] == "labels" else f"{split['learned']:,} tokens learned from, "
        known = split["asked_in_training"]
        asked = f"; of {known:,} the training split asks the same" if known else ""
        lines.append(f"  {name:<11}{learned}the longest has {split['longest']:,} tokens{asked}")
    return lines


def _source_lines(source: dict[str, Any], splits: dict[str, Any]) -> list[str]:
    removed = source["removed"]
    left_out = counts_text({kind: entry["documents"] for kind, entry in removed.items()})
    changed = sum(entry["pieces"] for entry in removed.values())
    others = counts_text(source["passed_over"])
    notes = [f"passed over: {others}"] * bool(others)
    notes += [f"left out: {left_out}"] * bool(left_out) + [f"{count(changed, 'piece')} cleaned away"] * bool(changed)
    share = [f"weight {source['weight']}, at most {count(source['repeat'], 'time')}"] if source["weight"] else []
    numbers = f"{count(source['documents'], 'document')}, {_size(source['bytes'])}"
    return [
        f"  source     {source['source']}: {'; '.join([numbers, *share, *notes])}",
        *(_drawn_line(name, entry, splits[name]["tokens"]) for name, entry in source["drawn"].items()),
    ]


def _drawn_line(split: str, drawn: dict[str, Any], tokens: int) -> str:
    """`             drawn for train: 33.3% of its tokens, 12,345; 16 documents, 2.5 times each on average`."""
    documents, distinct = drawn["documents"], drawn["distinct_documents"]
    repeated = f", {documents / distinct:.1f} times each on average" if documents > distinct else ""
    share = f"{drawn['tokens'] / tokens:.1%} of its tokens, {drawn['tokens']:,}"
    return f"             drawn for {split}: {share}; {count(distinct, 'document')}{repeated}"


def _removed_text(report: dict[str, Any]) -> str:
    lines: list[str] = []
    for source in report["sources"]:
        lines.append(f"{source['source']}: {count(source['documents'], 'document')} kept, {_size(source['bytes'])}")
        if passed_over := source["passed_over"]:
            lines.append("  files passed over: " + ", ".join(f"{n:,} {kind}" for kind, n in passed_over.items()))
        if not source["removed"]:
            lines.append("  nothing was removed")
            continue
        lines.append(f"  {'removed':<28}{'documents':>12}{'pieces':>12}{'characters':>14}")
        for kind, entry in source["removed"].items():
            lines.append(f"  {kind:<28}{entry['documents']:>12,}{entry['pieces']:>12,}{entry['characters']:>14,}")
        for kind, entry in source["removed"].items():
            lines += [f"  {kind}", *(_example_line(example, source["location"]) for example in entry["examples"])]
    return "\n".join(lines)


def _example_line(example: dict[str, Any], location: str) -> str:
    name = example["document"].removeprefix(location).lstrip("/") or location
    became = "" if example["became"] is None else f"  →  {_on_one_line(example['became'])}"
    return f"    {name}: {_on_one_line(example['text'])}{became}"


def _on_one_line(text: str) -> str:
    return " ".join(text.split()) if text.strip() else repr(text)


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


@corpus.command(epilog="Example: scratchlab corpus push corpora/mine hf:me/mine")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("destination", metavar="DIR|hf:USER/NAME")
@as_json
def push(path: Path, destination: str, as_json: bool) -> None:
    """Copy the corpus at PATH to a folder or to the Hugging Face Hub, to train elsewhere.

    The repository is made if it is not there, and is private. hf:USER/NAME?revision=BRANCH names another branch than
    main. An interrupted push goes on when it is run again.
    """
    from scratchlab.corpus.transfer import push_corpus

    show(asdict(push_corpus(path, destination)), as_json, _transfer_text)


@corpus.command(epilog="Example: scratchlab corpus pull hf:me/mine corpora/mine")
@click.argument("source", metavar="DIR|hf:USER/NAME")
@click.argument("out", metavar="DIR", type=click.Path(path_type=Path))
@as_json
def pull(source: str, out: Path, as_json: bool) -> None:
    """Bring a corpus from a folder or from the Hugging Face Hub to the folder DIR, and compare every hash.

    hf:USER/NAME?revision=REVISION names a branch, tag or commit. An interrupted pull goes on when it is run again; a
    file that has become damaged since is fetched anew.
    """
    from scratchlab.corpus.transfer import pull_corpus

    show(asdict(pull_corpus(source, out)), as_json, _transfer_text)


def _transfer_text(report: dict[str, Any]) -> str:
    moved, kept = (count(len(report[what]), "file") for what in ("moved", "kept"))
    at = f" at {report['revision'][:12]}" if report["revision"] else ""
    return (
        f"{report['destination']}{at} has the corpus {report['source']} (sha256 {report['sha256'][:12]}): "
        f"{moved} moved ({_size(report['moved_bytes'])}), {kept} there already; every hash fits"
    )


@corpus.command(epilog="Example: scratchlab corpus overlap corpora/mine hellaswag_val.jsonl")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b")
@click.option("--split", metavar="NAME", help="Of the corpus B, the split to look for.  [default: test]")
@click.option("--column", metavar="NAME", help="Of the records of B, the field to look for. All strings otherwise.")
@as_json
def overlap(a: Path, b: str, split: str | None, column: str | None, as_json: bool) -> None:
    """How much of B the training split of the corpus A contains: whole documents, and 13 words in a row.

    B is a corpus, a file of JSON Lines such as an evaluation set, or a text file or folder.
    """
    from scratchlab.corpus.overlap import overlap_of
    from scratchlab.corpus.store import open_corpus
    from scratchlab.corpus.texts import evaluation_text

    trained, test = open_corpus(a), evaluation_text(b, split, column)
    with build_progress() as report:
        found = overlap_of(trained, test, report=report)
    record = {"share": found.share, **found.model_dump(mode="json")}
    show({"train": str(a), "test": test.name, **record}, as_json, _overlap_text)


def _overlap_text(report: dict[str, Any]) -> str:
    def looked_for(what: str, of: str) -> str:
        sample = f", a sample of {report[what]:,} looked for" if report[what] < report[of] else ""
        return f"{report[of]:,}{sample}"

    def found(what: str, of: str) -> str:
        return f"{report[what]:,} ({report[what] / report[of]:.2%})" if report[what] else "none"

    n = report["n"]
    documents, ngrams = looked_for("documents_compared", "documents"), looked_for("ngrams_compared", "ngrams")
    lines = [
        f"{report['test']}: what of it is in the training split of {report['train']}",
        f"  documents  {documents}: {found('documents_copied', 'documents_compared')} there as a whole; "
        f"{report['documents_too_short']:,} shorter than {n} words",
        f"  {n}-grams   {ngrams}: {found('ngrams_found', 'ngrams_compared')} there",
    ]
    if report["ngrams_found"]:
        some, half = (found(f"documents_with_{what}", "documents_with_ngrams") for what in ("any", "half"))
        lines.append(f"             in {some} of the documents; of {half} of them, at least half of all {n}-grams")
    for shown in report["examples"]:
        lines.append(f'  most in    {shown["document"]}: {shown["found"]:,} of {shown["ngrams"]:,}, "{shown["text"]}"')
    return "\n".join(lines)
