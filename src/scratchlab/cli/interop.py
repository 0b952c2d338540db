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

    SOURCE is a folder or a name on the Hub with Hugging Face's GPT-2, nanoGPT's ckpt.pt, a checkpoint of the book's
    GPT (.pth or .safetensors, with its model.json), or llama.cpp's GGUF. --tokenizer takes a tokenizer.json, a folder
    that has one (a corpus built here, a run), GPT-2's older files (vocab.json and merges.txt, or a .tiktoken file),
    gpt2, or a name on the Hub.
    """
    from scratchlab.cli.runs import describe, run_text
    from scratchlab.interop.imports import import_run

    show(describe(import_run(source, out, tokenizer, revision)), as_json, run_text)


# How what was exported is opened.
OPENED = {
    "hf": "AutoModelForCausalLM.from_pretrained('{to}')",
    "gguf": "ollama create NAME -f {to}/Modelfile, or llama-cli -m {to}/model.gguf",
    "onnx": "onnxruntime.InferenceSession('{to}/model.onnx')",
}


@click.command("export", epilog="Example: scratchlab export runs/first --to exports/first")
@click.argument("run")
@click.option("--to", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--format", "form", type=click.Choice(list(OPENED)), default="hf", show_default=True,
              help="For transformers, for llama.cpp and Ollama, or for onnxruntime.")  # fmt: skip
@as_json
def export_model(run: str, to: Path, at: Literal["final", "best"], form: str, as_json: bool) -> None:
    """Write RUN as a model that other programs load, with its tokenizer.

    hf is a Hugging Face GPT-2 that transformers loads by itself; gguf is for llama.cpp and Ollama, of GPT-2, GPT-NeoX,
    Llama and Qwen3; onnx is the graph of any GPT.
    """
    from scratchlab.interop.exports import FORMATS
    from scratchlab.runfolder import RunFolder

    files = FORMATS[form](RunFolder.open(run), to, at)
    report = {"run": run, "at": at, "to": str(to), "format": form, "files": files}
    show(report, as_json, lambda _: f"{to}: {', '.join(files)}\n  load it: {OPENED[form].format(to=to)}")
