"""`scratchlab serve`."""

import sys
from typing import Literal

import click


@click.command(epilog="Example: scratchlab serve runs/first --port 8000")
@click.argument("run")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Who may ask: this machine alone.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0: any that is free.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:N or mps.")
@click.option("--precision", type=click.Choice(["float32", "bf16", "fp16"]), help="Of products. In float32 greedy "
              "answers do not depend on who else asks.  [default: float32 on a CPU, else as trained]")  # fmt: skip
@click.option("--max-rows", type=click.IntRange(min=1), default=32, show_default=True, help="Texts written at once.")
@click.option(
    "--max-waiting", type=click.IntRange(min=0), default=256, show_default=True, help="Texts that may wait; more: 429."
)
def serve(
    run: str,
    at: Literal["final", "best"],
    host: str,
    port: int,
    device: str,
    precision: Literal["float32", "bf16", "fp16"] | None,
    max_rows: int,
    max_waiting: int,
) -> None:
    """Answer requests in the words of OpenAI's API with RUN, many at once, until Ctrl-C.

    Any client of that API will do; docs/serving.md has examples, and says what is supported.
    """
    from scratchlab import hardware
    from scratchlab.extras import missing
    from scratchlab.model.load import load_model
    from scratchlab.runfolder import RunFolder

    try:
        from scratchlab.serving.app import make_app
        from scratchlab.serving.server import address_of, is_loopback, listen
        from scratchlab.serving.server import run as answer
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise missing("Serving", "serve") from None
    from scratchlab.serving.served import Served
    from scratchlab.serving.writer import Writer

    folder = RunFolder.open(run)
    if precision is None and hardware.choose_device(device) == "cpu":
        precision = "float32"
    with listen(host, port) as listening:  # before the model is read, which takes its time
        model = load_model(folder, at, device, precision)
        served = Served.run(folder, model.most_tokens)
        writer = Writer(model, served.tokenizer, max_rows, max_waiting)
        click.echo(f"{served.name} is served at {address_of(listening)} until Ctrl-C.")
        if served.template is None:
            click.echo("It has no chat template: completions only. One comes with: scratchlab finetune", err=True)
        if not is_loopback(listening):
            click.echo("Whoever reaches this machine may ask it: no key is asked for.", err=True)
        number = answer(make_app(served, writer), writer, listening)
    if number is not None:
        click.echo("Stopped. Whoever still waited was told so.", err=True)
        sys.exit(128 + number)
