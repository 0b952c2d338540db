"""`scratchlab evaluate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from scratchlab.cli.live import live_line, time_left
from scratchlab.cli.output import aligned, as_json, loss_text, show, with_error

if TYPE_CHECKING:
    from scratchlab.evaluation.texts import Text

Report = dict[str, Any]


@click.command(
    epilog="Example: scratchlab evaluate runs/a runs/b --suite hellaswag:1000,lambada --data evals; "
    "scratchlab evaluate runs/first --split validation --json"
)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--suite", metavar="NAMES", help="Tasks to ask: basic, core, or names and files (hellaswag:500,my.jsonl)."
)
@click.option("--data", type=click.Path(path_type=Path), help="Where the tasks' files lie; else from the Hub.")
@click.option(
    "--corpus", metavar="PLACE", help="Text to score: a corpus, or a file of tokens (.bin, .npy, .safetensors)."
)
@click.option("--split", help="Of a corpus: train, validation or test.  [default: test]")
@click.option("--tokens", metavar="START:STOP", help="Of the text, these tokens alone.")
@click.option("--made-by", metavar="TOKENIZER", help="The tokenizer of a file of tokens: gpt2, or its path.")
@click.option("--stride", type=click.IntRange(min=1), help="Let windows overlap, beginning so many tokens apart.")
@click.option("--truncate", is_flag=True, help="Cut off the beginning of items that are longer than a model's context.")
@click.option("--tokenizer", metavar="TOKENIZER", help="Of a model that brings none, such as an endpoint's.")
@click.option(
    "--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Weights of a run."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or mps.")
@click.option("--out", "folder", type=click.Path(path_type=Path), default=Path("evaluations"), show_default=True,
              help="Where every item's result is kept.")  # fmt: skip
@as_json
def evaluate(
    models: tuple[str, ...],
    suite: str | None,
    data: Path | None,
    corpus: str | None,
    split: str | None,
    tokens: str | None,
    made_by: str | None,
    stride: int | None,
    truncate: bool,
    tokenizer: str | None,
    at: Literal["final", "best"],
    device: str,
    folder: Path,
    as_json: bool,
) -> None:
    """The loss of each MODEL on held-out text, or how well it does on tasks: with standard errors, side by side.

    MODEL is a run, a model of Hugging Face (a folder or a name), or an endpoint (http://...; the key in OPENAI_API_KEY
    goes to the address in OPENAI_BASE_URL alone). Without --suite, runs are scored on the test split of their own
    corpus. What was scored before is not scored again, so an evaluation that was interrupted goes on.
    """
    from scratchlab.evaluation.core import core_score
    from scratchlab.evaluation.documents import evaluate_text
    from scratchlab.evaluation.running import evaluate_task
    from scratchlab.evaluation.suites import load_suite, where_from
    from scratchlab.evaluation.texts import open_text
    from scratchlab.interop.subjects import open_subject

    _check_heeded("a text", corpus or not suite, "--corpus", split=split, tokens=tokens, made_by=made_by, stride=stride)
    _check_heeded("tasks", suite, "--suite", data=data, truncate=truncate or None)
    tasks, missing = load_suite(suite, data) if suite else ([], [])
    text = _text_of(models, corpus, split, tokens, made_by, open_text) if corpus or not suite else None
    reports: list[Report] = []
    with live_line() as line:
        for model in models:
            subject = open_subject(model, tokenizer=tokenizer, at=at, device=device)
            loss = None
            if text:
                told = time_left(line, f"{model} on {text.name}")
                loss = evaluate_text(subject, text, folder, stride=stride, progress=told).to_json()
            results = [
                evaluate_task(
                    subject, task, folder, truncate=truncate, progress=time_left(line, f"{model}, {task.name}")
                )
                for task in tasks
            ]
            core = core_score(results).to_json() if suite and _asks_for_core(suite) else None
            reports.append({"model": model, "loss": loss, "tasks": [one.to_json() for one in results], "core": core})
    report = {"text": text and text.name, "missing": [task.task for task in missing], "models": reports}
    show(report, as_json, _text)
    if missing and not as_json:
        click.echo(where_from(missing), err=True)


def _check_heeded(what: str, asked: object, option: str, **given: object) -> None:
    """UsageError for an option that would mean nothing, since nothing of its kind is asked for."""
    from scratchlab.errors import UsageError

    for name, value in given.items():
        if value is not None and not asked:
            said = f"--{name.replace('_', '-')}"
            raise UsageError(f"{said} is for {what}, and none was asked for: add {option}, or leave {said} out.")


def _asks_for_core(suite: str) -> bool:
    return "core" in [part.strip().partition(":")[0] for part in suite.split(",")]


def _text_of(
    models: Sequence[str],
    corpus: str | None,
    split: str | None,
    tokens: str | None,
    made_by: str | None,
    open_text: Any,
) -> "Text":
    """The text that all models are scored on."""
    return open_text(corpus or _own_corpus(models), split or "test", _range(tokens), made_by)


def _range(tokens: str | None) -> tuple[int, int | None] | None:
    """START:STOP as numbers; either may be left out."""
    from scratchlab.errors import UsageError

    if tokens is None:
        return None
    start, colon, stop = tokens.replace(",", "").replace("_", "").partition(":")
    if not colon or not (start + stop).isdecimal():
        raise UsageError(f"--tokens {tokens}: expected the numbers of two tokens, such as 50_000_000:69_660_800.")
    return int(start or 0), int(stop) if stop else None


def _own_corpus(models: Sequence[str]) -> str:
    """The corpus that the runs were scored on while they trained, which must be the same one."""
    from scratchlab.errors import UsageError
    from scratchlab.evaluation.texts import own_corpus
    from scratchlab.runfolder import RunFolder

    own = {corpus.sha256: str(corpus.path) for corpus in (own_corpus(RunFolder.open(model)) for model in models)}
    if len(own) > 1:
        raise UsageError(
            f"These runs have different corpora of their own ({', '.join(own.values())}): name one (--corpus)."
        )
    return next(iter(own.values()))


# What people see.


def _text(report: Report) -> str:
    parts: list[str] = []
    if report["text"]:
        parts += [f"{one['model']} on {report['text']}\n  {loss_text(one['loss'])}" for one in report["models"]]
    if any(one["tasks"] for one in report["models"]):
        parts.append(_table(report["models"]))
    parts += [_core(one) for one in report["models"] if one["core"]]
    return "\n\n".join(parts)


def _table(models: Sequence[Report]) -> str:
    """A row for each task: the figure that counts and the bits per byte of the right answer, for each model."""
    rows = [["", "n", "chance", *(cell for one in models for cell in (one["model"], "bits/byte"))]]
    for place, task in enumerate(models[0]["tasks"]):
        name = f"{task['task']} ({task['metric'].replace('_', ' ')})"
        rows.append([name, f"{task['n']:,}", f"{task['chance']:.3f}"])
        for one in models:
            own = one["tasks"][place]
            main, bits = own[own["metric"]], own["bits_per_byte"]
            cut = f" ({own['cut']:,} cut)" if own["cut"] else ""
            rows[-1] += [with_error(main["value"], main["error"], 3) + cut, with_error(bits["value"], bits["error"], 3)]
    return "\n".join(aligned(rows))


def _core(one: Report) -> str:
    core = one["core"]
    return f"{one['model']}: {core['title']} {with_error(core['value'], core['error'])}"
