"""The notebooks run, here with few steps on a few pages; as they are kept they hold no output."""

import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "notebooks/quickstart.ipynb"
# The commands of the notebook in the process of its kernel: faster than a new one each, and none fails unnoticed.
HERE = """
import shlex
from IPython.core.magic import register_line_magic
from scratchlab.cli.main import cli

@register_line_magic
def scratchlab(line):
    cli.main(shlex.split(line), prog_name="scratchlab", standalone_mode=False)
del scratchlab
"""


def small(text: str) -> nbformat.NotebookNode:
    """The notebook with few steps, without what installs."""
    notebook = nbformat.read(QUICKSTART, as_version=4)
    kept = [nbformat.v4.new_code_cell(HERE)]
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", ()))
        if tags & {"install", "again"}:  # publishing exports and proves too
            continue
        if "parameters" in tags:
            cell.source = f"TEXT, STEPS = {text!r}, 3"
        cell.source = cell.source.replace("!scratchlab ", "%scratchlab ").replace("n_layer = 4", "n_layer = 1")
        kept.append(cell)
    notebook.cells = kept
    return notebook


@pytest.mark.filterwarnings("default")  # of what runs notebooks
def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = small(f"{ROOT}/docs/*.md")
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "bits per byte" in printed
    assert (tmp_path / "exports/quickstart-gguf/model.gguf").is_file()
    assert "proof.json" in printed


def test_the_quickstart_is_kept_plain_and_trains_the_recipe_of_that_name() -> None:
    notebook = nbformat.read(QUICKSTART, as_version=4)
    nbformat.validate(notebook)
    codes = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in codes)
    (written,) = [cell.source for cell in codes if cell.source.startswith("%%writefile quickstart.toml\n")]
    recipe = (ROOT / "recipes/quickstart.toml").read_text(encoding="utf-8")
    assert tomllib.loads(written.partition("\n")[2]) == tomllib.loads(recipe)
    steps = tomllib.loads(recipe)["training"]["steps"]
    assert any(cell.source.endswith(f"STEPS = {steps}") for cell in codes)
