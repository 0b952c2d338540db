"""`scratchlab answer`."""

from pathlib import Path
from typing import Any, Literal

import click

from scratchlab.cli.live import live_line, time_left
from scratchlab.cli.output import as_json, show
from scratchlab.cli.writing import choosing


@click.command(epilog="Example: scratchlab answer runs/base runs/tuned --data test.json --out answers")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", required=True, metavar="FILE", help="Questions: Alpaca's JSON, or chat messages (JSON Lines).")
@click.option("--out", "folder", type=click.Path(path_type=Path), default=Path("answers"), show_default=True,
              help="Where answers are kept, a file a model.")  # fmt: skip
@click.option("--template", metavar="NAME", help="How to ask runs without a chat template: alpaca, chatml or a file.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="The most to write.")
@choosing(0.0)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="Another, other answers.")
@click.option(
    "--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Weights of a run."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or mps.")
@as_json
def answer(
    models: tuple[str, ...],
    data: str,
    folder: Path,
    template: str | None,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    at: Literal["final", "best"],
    device: str,
    as_json: bool,
) -> None:
    """Let each MODEL answer the questions of a file: what scratchlab judge compares.

    MODEL is a run, a model of Hugging Face with a chat template (a folder or a name), or an OpenAI-compatible endpoint
    (http://HOST:PORT/v1#MODEL; the key in OPENAI_API_KEY goes to OpenAI alone, or where OPENAI_BASE_URL is set to that
    address alone). Answers are kept as they come: run again, it goes on where it stopped. Each question has a seed of
    its own, by --seed and the question. Reference answers are kept beside, with their loss.
    """
    from scratchlab.corpus.examples.rows import read_conversations
    from scratchlab.generation.engine import Settings
    from scratchlab.judging.answering import answer_questions
    from scratchlab.judging.answers import questions_of
    from scratchlab.judging.authors import open_author

    settings = Settings(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    questions = questions_of(read_conversations(data))
    reports: list[dict[str, Any]] = []
    with live_line() as line:
        for name in models:
            author = open_author(name, template=template, at=at, device=device)
            path = answer_questions(author, questions, data, settings, folder, time_left(line, f"{name} answers"))
            reports.append(_report(path))
    show({"data": data, "questions": len(questions), "answers": reports}, as_json, _text)


def _report(path: Path) -> dict[str, Any]:
    """What there is in a file of answers."""
    from scratchlab.judging.answers import open_answers

    (found,) = open_answers([path])
    return {
        "model": found.model,
        "path": str(path),
        "template": found.head["template"],
        "settings": found.head["settings"],
        "questions": len(found.answers),
        "empty": sum(not text for text in found.texts),
        "cut_off": sum(not one.written.ended for one in found.answers),
        "question_cut": sum(one.written.cut > 0 for one in found.answers),
    }


def _text(report: dict[str, Any]) -> str:
    lines: list[str] = []
    for one in report["answers"]:
        wrong = [
            f"{one[field]:,} {what}"
            for field, what in (
                ("empty", "empty"),
                ("cut_off", "cut off at --max-tokens or the end of the context"),
                ("question_cut", "to questions that did not fit the context whole"),
            )
            if one[field]
        ]
        noted = f" ({', '.join(wrong)})" if wrong else ""
        lines.append(f"{one['model']}: {one['questions']:,} answers{noted} in {one['path']}")
    paths = " ".join(one["path"] for one in report["answers"])
    return "\n".join([*lines, f"Next: scratchlab judge {paths}"])
