"""`scratchlab label`."""

from pathlib import Path
from typing import Any, Literal

import click

from scratchlab.cli.output import as_json, show

KEYS: dict[str, Literal["a", "b", "neither"]] = {"1": "a", "2": "b", "n": "neither"}


@click.command(epilog="Example: scratchlab label answers --out labels.jsonl")
@click.argument("answers", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ANSWERS...")
@click.option("--out", "path", type=click.Path(path_type=Path), default=Path("labels.jsonl"), show_default=True,
              help="Where labels are kept.")  # fmt: skip
@click.option("--most", type=click.IntRange(min=1), help="Stop after so many.  [default: when all is labeled]")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="Of the order.")
@as_json
def label(answers: tuple[Path, ...], path: Path, most: int | None, seed: int, as_json: bool) -> None:
    """Which answer is better? Shows two answers to a question, blind and side by side, and keeps what you say.

    Press 1 or 2 for the better one, n for neither, s to skip, q to end; run again, it goes on. scratchlab judge
    --labels says how far a judge agrees with you. A line with a preferred answer is a preference pair to learn from.
    """
    from scratchlab import lines
    from scratchlab.errors import UsageError
    from scratchlab.judging.answers import open_answers
    from scratchlab.judging.labels import check_own, choices, done, label_of

    found = open_answers(answers)
    if len(found) < 2:
        raise UsageError("two answers are compared: name the answers of two models at least.")
    made = 0
    with lines.held(path, "the labels"):
        check_own(path)
        lines.mend(path, "the labels")
        known = done(path)
        ahead = [one for one in choices(found, seed) if (one.question.id, frozenset(one.models)) not in known]
        for number, choice in enumerate(ahead[:most], 1):
            _show(choice, f"{number} of {len(ahead):,}")
            key = click.prompt("Better", type=click.Choice([*KEYS, "s", "q"]), err=True)
            if key == "q":
                break
            if key in KEYS:
                lines.append(path, [label_of(choice, KEYS[key])], "the labels")
                made += 1
    report = {"labels": str(path), "made": made, "before": len(known), "left": len(ahead) - made}
    show(report, as_json, lambda r: f"{r['made']:,} labels were added to {r['labels']}; {r['left']:,} are left.")


def _show(choice: Any, which: str) -> None:
    """A question, and both answers side by side; what models write is taken for nothing but text."""
    from rich.columns import Columns
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    from scratchlab.evaluation.gallery_page import visible

    console = Console(stderr=True, highlight=False)
    asked = "\n\n".join(message["content"] for message in choice.question.messages)
    console.rule(Text(which))
    console.print(Text(visible(asked)))
    width = max(20, (console.width - 2) // 2)
    shown = [
        Panel(Text(visible(text) or "(empty)"), title=str(number), width=width)
        for number, text in enumerate(choice.texts, 1)
    ]
    console.print(Columns(shown))
