"""`scratchlab classify`."""

from typing import TYPE_CHECKING, Any

import click

from scratchlab.cli.output import aligned, as_json, show
from scratchlab.errors import UsageError

if TYPE_CHECKING:
    from scratchlab.evaluation.telling import Told

SHOWN = 60  # characters of a text


@click.command(epilog="Example: scratchlab classify runs/spam --text 'You have won a prize'")
@click.argument("run")
@click.argument("file", required=False, type=click.File(encoding="utf-8"), metavar="[FILE|-]")
@click.option("--text", "texts", multiple=True, metavar="TEXT", help="A text; may be given several times.")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--device", default="auto", show_default=True, metavar="NAME", help="cpu, cuda, cuda:1, mps.")
@as_json
def classify(run: str, file: Any, texts: tuple[str, ...], at: Any, device: str, as_json: bool) -> None:
    """Say which label each text has, and how likely the model of RUN finds it.

    RUN was trained on texts with labels (scratchlab finetune --labels). A FILE, or - for what comes in, has a text a
    line; blank lines are left out.
    """
    from scratchlab.evaluation.telling import tell_labels
    from scratchlab.runfolder import RunFolder

    if bool(texts) == (file is not None):
        raise UsageError("Give either a FILE with a text a line (- for standard input), or --text.")
    given = list(texts) or [line.rstrip("\r\n") for line in file if line.strip()]
    told = tell_labels(RunFolder.open(run), given, at, device)
    show({"run": run, "texts": [one.to_json() for one in told]}, as_json, lambda _: _table(told))


def _table(told: "list[Told]") -> str:
    rows = [("label", "probability", "text")]
    for one in told:
        text = " ".join(one.text.split())
        rows.append((one.label, f"{one.probability:.3f}", text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"))
    return "\n".join(aligned(rows))
