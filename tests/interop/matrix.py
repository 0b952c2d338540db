"""Every kind of model that is trained here, exported both ways, in two releases of transformers without scratchlab;
and runs that were trained, exported by the command.

`make test-interop` makes the environments and runs it, in forty minutes; `make test` does a small part
(`test_exports.py`). Writes benchmarks/results/interop.json and the table of docs/interop.md.
"""

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import others
import pytest
from exported import KINDS, SIZES, expect, export, lively

from lessons import write_alpaca
from scratchlab.architecture import GPTSection
from scratchlab.cli.main import cli
from scratchlab.errors import RunError
from scratchlab.generation.text import run_template, run_tokenizer
from scratchlab.interop.expected import in_float32
from scratchlab.interop.hugging_face import layout_for
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import RunFolder

ROOT = Path(__file__).parents[2]
LOADER = Path(__file__).with_name("load_export.py")
ENVIRONMENTS = {name: ROOT / "build/interop" / name / "bin/python" for name in ("current", "older")}
RESULTS, PAGE = ROOT / "benchmarks/results/interop.json", ROOT / "docs/interop.md"


def presets() -> dict[str, tuple[GPTSection, list[str]]]:
    """The models of the recipes that write; of those that differ in size alone the smallest, and who the others are."""
    folder = ROOT / "recipes"
    models = {path.relative_to(folder).with_suffix(""): load_recipe(path).model for path in folder.rglob("*.toml")}
    kinds: dict[str, tuple[str, GPTSection, list[str]]] = {}
    for path, model in sorted(models.items(), key=lambda entry: (len(entry[0].parts), entry[1].d_model, entry[0])):
        if isinstance(model, GPTSection) and model.labels is None:
            _, _, alike = kinds.setdefault(str(model.model_dump(exclude=set(SIZES))), (str(path), model, []))
            alike.append(str(path))
    return {name: (model, alike[1:]) for name, model, alike in kinds.values()}


def has_class(model: GPTSection) -> bool:
    try:
        layout_for(model)
    except RunError:
        return False
    return True


PRESETS = presets()
MODELS = {name: model for name, (model, _) in PRESETS.items()}
MODELS |= {f"switches: {kind}": GPTSection(**(SIZES | fields)) for kind, (_, fields) in KINDS.items()}
CASES = [
    (name, custom)
    for name, model in MODELS.items()
    for custom in (False, True)
    if (has_class(model) if not custom else not name.startswith("switches"))  # custom and switches: test_exports.py
]


# What was trained: name: the command that makes the run after `base` was made, and how it is exported.
TINY = ["training.steps=60", "training.warmup_steps=6", "execution.threads=1", "execution.compile=false"]
TEACH = ["finetune", "base", "--data", "talk.json"]
TRAINED: dict[str, tuple[list[str], list[str]]] = {
    "run: taught by chatml": ([*TEACH, "--template", "chatml", "--out"], []),
    "run: of characters": (["train", str(ROOT / "recipes/nano-char.toml"), "corpus=characters", *TINY, "--out"], []),
    "run: adapters by peft": (
        ["finetune", "base", "--data", "talk.json", "--lora", "r=4", "--out"],
        ["--format", "peft"],
    ),
}
ROWS = [*CASES, *((name, False) for name in TRAINED)]


def record(report: dict[str, Any]) -> None:
    """Write down what was found, beside what was found of other models before."""
    earlier = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    known = {(found["model"], found["custom"]): found for found in [*earlier, report]}
    rows = [known[case] for case in ROWS if case in known]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    put_on_page("matrix", table(rows))


def put_on_page(name: str, lines: list[str]) -> None:
    """A table where the page has a place for it."""
    begin, end = f"<!-- {name}: written by make test-interop -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(before + begin + "\n".join([*lines, end]) + rest.partition(end)[2], encoding="utf-8")


def table(found: list[dict[str, Any]]) -> list[str]:
    releases = [report["transformers"] for report in found[0]["releases"].values()]
    lines = ["| model | exported as | " + " | ".join(releases) + " |", "| --- | --- |" + " --- |" * len(releases)]
    for row in found:
        cells = [next(iter(row["releases"].values()))["class"], *map(_cell, row["releases"].values())]
        lines.append(f"| {with_those_alike(row['model'])} | " + " | ".join(cells) + " |")
    return lines


def with_those_alike(name: str) -> str:
    """A model, and the recipes that differ from it in size alone."""
    alike = PRESETS[name][1] if name in PRESETS else []
    return f"{name} (and {', '.join(alike)})" if alike else name


def _checks(report: dict[str, Any]) -> dict[str, str]:
    return {name: said for name, said in report.items() if name not in ("class", "transformers", "scratchlab")}


def _cell(report: dict[str, Any]) -> str:
    checks = _checks(report)
    failed = [name for name, said in checks.items() if said != "ok"]
    return f"not {', '.join(failed)}" if failed else f"all {len(checks)}"


@pytest.mark.parametrize(("name", "custom"), CASES, ids=str)
def test_it_is_used_in_both_releases(name: str, custom: bool, tmp_path: Path) -> None:
    model, tokenizer = MODELS[name], others.make_tokenizer()
    ours = lively(model.model_dump(), tokenizer)
    folder = export(ours, tmp_path / "out", tokenizer, custom)
    expect(ours, tokenizer, tmp_path / "expected.json", min(200, model.context_length - 6))
    del ours
    judge(name, custom, folder, *["--custom"] * custom)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Corpora, what is to be answered, and a run of GPT-2's kind that was trained."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(f"{name}: {others.TEXT}" * 30, encoding="utf-8")
    write_alpaca(folder / "talk.json")
    texts = ["one.txt", "two.txt", "--split", "contiguous:.6,.2,.2"]
    command(folder, "corpus", "build", *texts, "--out", "text", "--tokenizer", "byte")
    command(folder, "corpus", "build", *texts, "--out", "characters", "--tokenizer", "char")
    sizes = ["model.context_length=256", "corpus=text"]  # what is answered is worded in two hundred bytes
    command(folder, "train", str(ROOT / "recipes/tiny.toml"), *sizes, *TINY, "--out", "base")
    return folder


def command(folder: Path, *words: str) -> None:
    with contextlib.chdir(folder):
        cli.main([*words], standalone_mode=False)


@pytest.mark.parametrize("name", TRAINED)
def test_a_run_that_was_trained_is_used_in_both_releases(name: str, place: Path, tmp_path: Path) -> None:
    made, how = TRAINED[name]
    command(place, *made, str(tmp_path / "run"))
    command(place, "export", str(tmp_path / "run"), "--to", str(tmp_path / "out"), *how)
    run = RunFolder.open(tmp_path / "run")
    assert run.result() is not None
    model = in_float32(run, "final")
    most = min(200, model.config.context_length - 6)
    expect(model, run_tokenizer(run), tmp_path / "expected.json", most, run_template(run))
    judge(name, False, tmp_path / "out", *["--adapters"] * bool(how))


def judge(name: str, custom: bool, folder: Path, *options: str) -> None:
    """Both environments at work on an export, and what they say written down."""
    with contextlib.ExitStack() as stack:
        running = {
            release: stack.enter_context(start(python, folder, folder.parent / release, *options))
            for release, python in ENVIRONMENTS.items()
        }
        said = {release: process.communicate() for release, process in running.items()}
    for text, complaints in said.values():
        assert text.strip(), complaints[-3000:]
    found = {release: json.loads(text.splitlines()[-1]) for release, (text, _) in said.items()}
    record({"model": name, "custom": custom, "releases": found})
    for report in found.values():
        assert not report["scratchlab"]
        assert _checks(report) == dict.fromkeys(_checks(report), "ok")


def start(python: Path, folder: Path, modules: Path, *options: str) -> subprocess.Popen[str]:
    """One environment at work on an export; code that comes along is copied to `modules`."""
    alone = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "HF_MODULES_CACHE": str(modules)}
    command = [python, LOADER, folder, folder.parent / "expected.json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | alone)
