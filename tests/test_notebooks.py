"""The notebooks run, here with few steps on a few pages; as they are kept they hold no output."""

import re
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from scratchlab.interop.proof import verify

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
    """The notebook with few steps, without what installs; then all that makes something again."""
    notebook = nbformat.read(QUICKSTART, as_version=4)
    kept = [nbformat.v4.new_code_cell(HERE)]
    again = list[nbformat.NotebookNode]()
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", ()))
        if "install" in tags:
            continue
        if "parameters" in tags:
            cell.source = f"TEXT, STEPS = {text!r}, 3"
        cell.source = cell.source.replace("!scratchlab ", "%scratchlab ").replace("n_layer = 4", "n_layer = 1")
        kept.append(cell)
        if cell.cell_type == "code" and "slow" not in tags:
            again.append(nbformat.v4.new_code_cell(cell.source))
    notebook.cells = [*kept, *again]
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
    assert printed.count("exports/quickstart: ") == printed.count("exports/quickstart-gguf: ") == 2, "each cell, twice"
    assert verify(tmp_path / "exports/quickstart")["passed"]
    assert "would go to the Hub as me/quickstart, private" in printed


def test_what_is_not_released_is_installed_from_a_clone() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "is not on PyPI yet" in readme
    for page in [*ROOT.glob("docs/**/*.md"), ROOT / "README.md", QUICKSTART]:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"pip install[^#`]{1,40}\bscratchlab\b", text), page
        assert "clone" in text or not re.search(r"pip install[^#`]*\[", text), page


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
