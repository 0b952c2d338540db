"""`scratchlab import` and `scratchlab export`."""

from pathlib import Path
from typing import Literal

import click

from scratchlab.cli.output import as_json, show
from scratchlab.errors import UsageError


@click.command("import", epilog="Example: scratchlab import openai-community/gpt2 --out runs/gpt2")
@click.argument("source")
@click.option("--out", required=True, metavar="DIR", help="The run folder to make.")
@click.option("--tokenizer", metavar="PATH|gpt2|NAME", help="Where the tokenizer is, if not with the model.")
@click.option("--revision", metavar="REV", help="A branch, tag or commit on the Hub.")
@click.option("--base", metavar="RUN", help="Of adapters that peft saved: the run that they go beside.")
@as_json
def import_model(
    source: str, out: str, tokenizer: str | None, revision: str | None, base: str | None, as_json: bool
) -> None:
    """Make a run folder of a GPT that another program trained, to evaluate, sample, train on or export.

    SOURCE is a folder or a name on the Hub with Hugging Face's GPT-2, nanoGPT's ckpt.pt, or a checkpoint of the book's
    GPT (.pth or .safetensors, with its model.json). --tokenizer takes a tokenizer.json, a folder that has one (a corpus
    built here, a run), GPT-2's older files (vocab.json and merges.txt, or a .tiktoken file), gpt2, or a name on the
    Hub. A folder in which peft saved low-rank adapters of a GPT-2 needs --base, and nothing else.
    """
    from scratchlab.cli.runs import describe, run_text
    from scratchlab.interop.imports import import_run

    adapters = _holds_adapters(source)
    if adapters and (base is None or tokenizer or revision):
        raise UsageError(
            f"{source} holds adapters of peft's: say which run they go beside, and that alone: --base RUN."
        )
    if base is None:
        show(describe(import_run(source, out, tokenizer, revision)), as_json, run_text)
        return
    if not adapters:
        raise UsageError(f"--base is for adapters that peft saved, and {source} has no adapter_config.json.")
    from scratchlab.interop.adapters import import_adapters
    from scratchlab.runfolder import RunFolder

    show(describe(import_adapters(Path(source), RunFolder.open(base), out)), as_json, run_text)


def _holds_adapters(source: str) -> bool:
    return (Path(source) / "adapter_config.json").is_file()


@click.command("export", epilog="Example: scratchlab export runs/first --to exports/first")
@click.argument("run")
@click.option("--to", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--format", "form", type=click.Choice(["hf", "peft"]), default="hf", show_default=True, help="The whole "
              "model for transformers; or its low-rank adapters for peft, with what they go beside.")  # fmt: skip
@as_json
def export_model(run: str, to: Path, at: Literal["final", "best"], form: Literal["hf", "peft"], as_json: bool) -> None:
    """Write RUN as a Hugging Face GPT-2 that transformers loads by itself, with its tokenizer."""
    from scratchlab.runfolder import RunFolder

    if form == "peft":
        from scratchlab.interop.adapters import export_adapters

        files = export_adapters(RunFolder.open(run), to, at)
        hint = f"PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained('{to / 'base'}'), '{to}')"
    else:
        from scratchlab.interop.exports import export_run

        files, hint = export_run(RunFolder.open(run), to, at), f"AutoModelForCausalLM.from_pretrained('{to}')"
    report = {"run": run, "at": at, "to": str(to), "format": form, "files": files}
    show(report, as_json, lambda _: f"{to}: {', '.join(files)}\n  load it: {hint}")
