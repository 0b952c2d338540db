"""`scratchlab gallery`."""

from pathlib import Path
from typing import Any

import click

from scratchlab.cli.output import as_json, show


@click.command(epilog='Example: scratchlab gallery runs/first --losses 4,3,2.5 --prompt "Every effort moves you"')
@click.argument("run")
@click.option("--losses", metavar="L,...", help="The weights nearest to these losses, in nats per token; else all.")
@click.option("--prompt", "prompts", multiple=True, help='A text to go on from (several times for several; "": none).')
@click.option("--max-tokens", type=click.IntRange(min=1), default=200, show_default=True, help="The most to write.")
@click.option("--temperature", type=click.FloatRange(min=0), default=0.8, show_default=True, help="0: the likeliest.")
@click.option("--top-k", type=click.IntRange(min=1), default=50, show_default=True, help="Draw from the k likeliest.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="Another, other texts.")
@click.option("--out", metavar="PAGE.html", help="Where the page goes, and PAGE.md; else gallery.html in the run.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or mps.")
@as_json
def gallery(
    run: str,
    losses: str | None,
    prompts: tuple[str, ...],
    max_tokens: int,
    temperature: float,
    top_k: int,
    seed: int,
    out: str | None,
    device: str,
    as_json: bool,
) -> None:
    """What RUN wrote at which loss: the same prompts and seed at every place of its training that was kept.

    That is before its first step, at the snapshots on the way (its recipe's evaluation.snapshots says how many), at its
    best validation loss and at its end. Without --prompt it begins a document, and goes on from three openings of
    the validation split. Written as a page and as Markdown.
    """
    from scratchlab.errors import UsageError
    from scratchlab.evaluation.gallery import make_gallery
    from scratchlab.evaluation.gallery_page import write_pages
    from scratchlab.generation.engine import Settings
    from scratchlab.runfolder import RunFolder

    folder = RunFolder.open(run)
    if out is not None and (Path(out).suffix != ".html" or Path(out).is_dir()):
        raise UsageError(f"--out {out}: expected the name of a page, such as {Path(out).with_suffix('.html')}.")
    settings = Settings(max_tokens=max_tokens, temperature=temperature, top_k=top_k, seed=seed)
    made = make_gallery(
        folder, prompts, _parse_losses(losses), settings, device, lambda line: click.echo(line, err=True)
    )
    pages = write_pages(made, Path(out) if out else folder.gallery_path)
    show({**made.to_json(), "pages": list(map(str, pages))}, as_json, _text)


def _parse_losses(text: str | None) -> list[float]:
    from scratchlab.errors import UsageError

    try:
        losses = [float(part) for part in (text or "").split(",") if text]
    except ValueError:
        losses = [-1.0]
    if not all(0 <= loss < float("inf") for loss in losses):
        raise UsageError(f"--losses {text}: expected losses in nats per token, parted by commas, as in 4,3,2.5.")
    return losses


def _text(report: dict[str, Any]) -> str:
    lines = [f"{report['run']}: {len(report['entries'])} places of its training"]
    for entry in report["entries"]:
        loss = entry["loss"]["nats_per_token"]
        begun = " ".join(entry["samples"][0].split())[:60] if entry["samples"] else "cannot write"
        shown = "not finite" if loss is None else f"{loss:.4f} nats/token"
        lines.append(f"  step {entry['step']:>8,}  {shown}  {begun}")
    lines += [*report["notes"], f"page: {report['pages'][0]}", f"text: {report['pages'][1]}"]
    return "\n".join(lines)
