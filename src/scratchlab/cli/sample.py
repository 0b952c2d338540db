"""`scratchlab sample`."""

from typing import Literal

import click

from scratchlab.cli.writing import choosing


@click.command(epilog='Example: scratchlab sample runs/first --prompt "Every effort moves you" --top-k 25 --seed 1')
@click.argument("run")
@click.option("--prompt", default="", help="The text to go on from; without one, the start of a document.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=100, show_default=True, help="The most to write.")
@choosing(1.0)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="Another, another text.")
@click.option("--stop", multiple=True, help="End before this text (may be given several times).")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, when all is written.")
def sample(
    run: str,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    stop: tuple[str, ...],
    at: Literal["final", "best"],
    device: str,
    as_json: bool,
) -> None:
    """Let RUN write, token by token as it comes."""
    from scratchlab.files import pretty_json
    from scratchlab.generation.engine import Settings
    from scratchlab.generation.text import run_tokenizer, write
    from scratchlab.model.load import load_model
    from scratchlab.runfolder import RunFolder

    folder = RunFolder.open(run)
    tokenizer = run_tokenizer(folder)
    model = load_model(folder, at, device)
    settings = Settings(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop)
    pieces = write(model, tokenizer, prompt, settings)
    if as_json:
        click.echo(pretty_json({"run": run, "prompt": prompt, "seed": seed, "text": "".join(pieces)}).rstrip())
        return
    click.echo(prompt, nl=False)
    for piece in pieces:
        click.echo(piece, nl=False)
    click.echo()
