"""Every kind of model that is trained here, exported both ways, in two releases of transformers without scratchlab.

`make test-interop` makes the environments and runs it, for a good quarter of an hour; `make test` does a small part
(`test_exports.py`). Writes benchmarks/results/interop.json and the table of docs/interop.md.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import others
import pytest
from exported import KINDS, SIZES, expect, export, lively

from scratchlab.errors import RunError
from scratchlab.interop.hugging_face import layout_for
from scratchlab.recipe import GPTSection, load_recipe

ROOT = Path(__file__).parents[2]
LOADER = Path(__file__).with_name("load_export.py")
ENVIRONMENTS = {name: ROOT / "build/interop" / name / "bin/python" for name in ("current", "older")}
RESULTS, PAGE = ROOT / "benchmarks/results/interop.json", ROOT / "docs/interop.md"
BEGIN, END = "<!-- matrix: written by make test-interop -->\n", "<!-- end of matrix -->\n"

LARGEST = 2
"""Layers."""


def presets() -> dict[str, GPTSection]:
    """The models of the recipes at two layers; of those that differ in size alone, the first."""
    found: dict[str, GPTSection] = {}
    kinds: set[str] = set()
    for path in sorted((ROOT / "recipes").rglob("*.toml"), key=lambda path: (len(path.parts), path)):
        model = load_recipe(path).model
        if isinstance(model, GPTSection):
            small = model.model_copy(update={"n_layer": min(model.n_layer, LARGEST)})
            kind = str(small.model_dump(exclude=set(SIZES)))
            if kind not in kinds:
                kinds.add(kind)
                found[str(path.relative_to(ROOT / "recipes").with_suffix(""))] = small
    return found


def has_class(model: GPTSection) -> bool:
    try:
        layout_for(model)
    except RunError:
        return False
    return True


MODELS = presets() | {f"switches: {kind}": GPTSection(**(SIZES | fields)) for kind, (_, fields) in KINDS.items()}
CASES = [
    (name, custom)
    for name, model in MODELS.items()
    for custom in (False, True)
    if (has_class(model) if not custom else not name.startswith("switches"))  # custom and switches: test_exports.py
]


@pytest.fixture(scope="session")
def reports() -> Iterator[list[dict[str, Any]]]:
    """What was found, written down at the end beside what earlier, partial runs found of other models."""
    found: list[dict[str, Any]] = []
    yield found
    earlier = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    known = {(report["model"], report["custom"]): report for report in [*earlier, *found]}
    rows = [known[case] for case in CASES if case in known]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(rows) + END + rest.partition(END)[2], encoding="utf-8")


def table(found: list[dict[str, Any]]) -> str:
    releases = [report["transformers"] for report in found[0]["releases"].values()]
    lines = ["| model | exported as | " + " | ".join(releases) + " |", "| --- | --- |" + " --- |" * len(releases)]
    for row in found:
        cells = [_cell(report) for report in row["releases"].values()]
        lines.append(
            f"| {row['model']} | {next(iter(row['releases'].values()))['class']} | " + " | ".join(cells) + " |"
        )
    return "\n".join(lines) + "\n"


def _checks(report: dict[str, Any]) -> dict[str, str]:
    return {name: said for name, said in report.items() if name not in ("class", "transformers", "scratchlab")}


def _cell(report: dict[str, Any]) -> str:
    checks = _checks(report)
    failed = [name for name, said in checks.items() if said != "ok"]
    return f"not {', '.join(failed)}" if failed else f"all {len(checks)}"


@pytest.mark.parametrize(("name", "custom"), CASES, ids=str)
def test_it_is_used_in_both_releases(name: str, custom: bool, tmp_path: Path, reports: list[dict[str, Any]]) -> None:
    model, tokenizer = MODELS[name], others.make_tokenizer()
    ours = lively(model.model_dump(exclude_defaults=True), tokenizer, n_layer=model.n_layer)
    folder = export(ours, tmp_path / "out", tokenizer, custom)
    expect(ours, tokenizer, tmp_path / "expected.json", min(200, model.context_length - 6))
    del ours
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    running = {
        release: subprocess.Popen(
            [python, LOADER, folder, tmp_path / "expected.json", *["--custom"] * custom],
            stdout=subprocess.PIPE,
            stderr=(tmp_path / f"{release}.log").open("w"),
            text=True,
            env=os.environ | offline | {"HF_MODULES_CACHE": str(tmp_path / release)},
        )
        for release, python in ENVIRONMENTS.items()
    }
    said = {release: process.communicate()[0] for release, process in running.items()}
    for release, text in said.items():
        assert text.strip(), (tmp_path / f"{release}.log").read_text(encoding="utf-8")[-3000:]
    found = {release: json.loads(text.splitlines()[-1]) for release, text in said.items()}
    reports.append({"model": name, "custom": custom, "releases": found})
    for report in found.values():
        assert not report["scratchlab"]
        assert _checks(report) == dict.fromkeys(_checks(report), "ok")
