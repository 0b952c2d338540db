"""`scratchlab import` and `scratchlab export`."""

import shlex
from pathlib import Path
from typing import Literal

import click

from scratchlab.cli.ending import ends_cleanly
from scratchlab.cli.output import as_json, show
from scratchlab.cli.publish import languages_option, license_option
from scratchlab.errors import UsageError


@click.command("import", epilog="Example: scratchlab import openai-community/gpt2 --out runs/gpt2")
@click.argument("source")
@click.option("--out", required=True, metavar="DIR", help="The run folder to make.")
@click.option("--tokenizer", metavar="PATH|gpt2|NAME", help="Where the tokenizer is, if not with the model.")
@click.option("--revision", metavar="REV", help="A branch, tag or commit on the Hub.")
@click.option("--base", metavar="RUN", help="Of adapters that peft saved: the run that they go beside.")
@as_json
@ends_cleanly
def import_model(
    source: str, out: str, tokenizer: str | None, revision: str | None, base: str | None, as_json: bool
) -> None:
    """Make a run folder of a GPT that another program trained, to evaluate, sample, train on or export.

    SOURCE is a folder or a name on the Hub with a model of Hugging Face's (GPT-2, Llama, SmolLM3, Qwen2, Qwen3,
    Starcoder2 or Arcee, or one that was exported here with --custom), nanoGPT's ckpt.pt, a checkpoint of the book's GPT
    (.pth or .safetensors, with its model.json), llama.cpp's GGUF, or an ONNX graph from here. --tokenizer takes a
    tokenizer.json, a folder that has one (a corpus built here, a run), GPT-2's older files (vocab.json and merges.txt,
    or a .tiktoken file), gpt2, or a name on the Hub. A folder in which peft saved low-rank adapters of a GPT-2 needs
    --base, and nothing else.
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


def _opened(form: str, to: Path) -> str:
    """How what was exported is opened, quoted for Python or for a shell."""
    folder, model, base = repr(str(to)), "AutoModelForCausalLM.from_pretrained", repr(str(to / "base"))
    modelfile, weights = (shlex.quote(str(to / name)) for name in ("Modelfile", "model.gguf"))
    return {
        "hf": f"{model}({folder})",
        "custom": f"{model}({folder}, trust_remote_code=True)",
        "gguf": f"ollama create NAME -f {modelfile}, or llama-cli -m {weights}",
        "onnx": f"onnxruntime.InferenceSession({str(to / 'model.onnx')!r})",
        "peft": f"PeftModel.from_pretrained({model}({base}), {folder})",
    }[form]


@click.command("export", epilog="Example: scratchlab export runs/first --to exports/first")
@click.argument("run")
@click.option("--to", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The folder to make.")
@click.option("--at", type=click.Choice(["final", "best"]), default="final", show_default=True, help="Which weights.")
@click.option("--format", "form", type=click.Choice(["hf", "gguf", "onnx", "peft"]), default="hf", show_default=True,
              help="For transformers; llama.cpp and Ollama; onnxruntime; or its low-rank adapters for peft, with what "
              "they go beside.")  # fmt: skip
@click.option("--custom", is_flag=True, help="Bring the model's own code: for what transformers has no class for.")
@license_option
@languages_option
@as_json
@ends_cleanly
def export_model(
    run: str,
    to: Path,
    at: Literal["final", "best"],
    form: str,
    custom: bool,
    license: str | None,
    languages: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write RUN as a model that other programs load, with its tokenizer.

    hf is a GPT-2, Llama or whichever class of transformers' own it is. transformers then computes with it, in a process
    of its own, and is compared with the run: logits, a text, tokens, parameters. What differs is named, and nothing is
    kept. What was compared is in proof.json (scratchlab verify), and README.md is a card for the Hub, filled from the
    run.
    """
    from scratchlab.interop.card import About
    from scratchlab.interop.card_training import not_finished
    from scratchlab.interop.exports import OTHERS, export_run
    from scratchlab.runfolder import RunFolder
    from scratchlab.study.origin import origin_of

    folder = RunFolder.open(run)
    if form == "hf":
        about = About(load_as=to.as_posix(), license=license, languages=languages, studies=origin_of(folder))
        files = export_run(folder, to, at, custom, about)
    elif custom or license or languages:
        raise UsageError(f"--custom, --license and --language are for --format hf: leave them out of --format {form}.")
    else:
        files = OTHERS[form](folder, to, at)
    unfinished = not_finished(folder)
    report = {"run": run, "at": at, "to": str(to), "format": form, "custom": custom, "files": files}
    report["finished"] = unfinished is None
    opened = _opened("custom" if custom else form, to)
    lines = [f"{to}: {', '.join(files)}", f"  load it: {opened}", *([f"  {unfinished}"] if unfinished else [])]
    show(report, as_json, lambda _: "\n".join(lines))
