"""`scratchlab import` and `scratchlab export`."""

from pathlib import Path
from typing import Literal

import click

from scratchlab.cli.output import as_json, show


@click.command("import", epilog="Example: scratchlab import openai-community/gpt2 --out runs/gpt2")
@click.argument("source")
@click.option("--out", required=True, metavar="DIR", help="The run folder to make.")
@click.option("--tokenizer", metavar="PATH|gpt2|NAME", help="Where the tokenizer is, if not with the model.")
@click.option("--revision", metavar="REV", help="A branch, tag or commit on the Hub.")
@as_json
def import_model(source: str, out: str, tokenizer: str | None, revision: str | None, as_json: bool) -> None:
    """Make a run folder of a GPT that another program trained, to evaluate, sample, train on or export.

    SOURCE is a folder or a name on the Hub with a model of Hugging Face's (GPT-2, Llama, Qwen2, Qwen3, Starcoder2 or
    Arcee, or one that was exported here with --custom), nanoGPT's ckpt.pt, or a checkpoint of the book's GPT (.pth or
    .safetensors, with its model.json). --tokenizer takes a tokenizer.json, a folder that has one (a corpus built here,
    a run), GPT-2's older files (vocab.json and merges.txt, or a .tiktoken file), gpt2, or a name on the Hub.
    """
    from scratchlab.cli.runs import describe, run_text
    from scratchlab.interop.imports import import_run

    show(describe(import_run(source, out, tokenizer, revision)), as_json, run_text)


@click.command("export", epilog="Example: scratchlab export runs/first --to exports/first")
@click.argument("run")
@click.option("--to", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--custom", is_flag=True, help="Bring the model's own code: for what transformers has no class for.")
@as_json
def export_model(run: str, to: Path, at: Literal["final", "best"], custom: bool, as_json: bool) -> None:
    """Write RUN as a model that transformers loads by itself, with its tokenizer: a GPT-2, Llama or whichever it is."""
    from scratchlab.interop.exports import export_run
    from scratchlab.runfolder import RunFolder

    files = export_run(RunFolder.open(run), to, at, custom)
    report = {"run": run, "at": at, "to": str(to), "files": files}
    call = f"AutoModelForCausalLM.from_pretrained('{to}'{', trust_remote_code=True' if custom else ''})"
    show(report, as_json, lambda _: f"{to}: {', '.join(files)}\n  load it: {call}")
