"""The notebooks run, here with few steps on a few pages; as they are kept they hold no output."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

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
    """The notebook with few steps, without what installs; then what takes the place of what it made, again."""
    notebook = nbformat.read(QUICKSTART, as_version=4)
    kept = [nbformat.v4.new_code_cell(HERE)]
    again = list[nbformat.NotebookNode]()
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", ()))
        if "install" in tags:
            continue
        if "parameters" in tags:
            cell.source = f"TEXT, STEPS = {text!r}, 3"
        if not cell.source.startswith("!scratchlab evaluate"):  # which is run as it stands
            cell.source = cell.source.replace("!scratchlab ", "%scratchlab ").replace("n_layer = 4", "n_layer = 1")
        kept.append(cell)
        if cell.source.startswith("!rm") and "slow" not in tags:
            again.append(nbformat.v4.new_code_cell(cell.source))
    notebook.cells = [*kept, *again]
    return notebook


@pytest.mark.filterwarnings("default")  # of what runs notebooks
def test_the_quickstart_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # the command
    notebook = small(f"{ROOT}/docs/*.md")
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "bits per byte" in printed
    assert re.search(r"runs/quickstart on corpora/own, test\s+.* bits/byte \(n = ", printed)
    assert (tmp_path / "exports/quickstart-gguf/model.gguf").is_file()
    assert printed.count("exports/quickstart-gguf: ") == 2, "again, in place of the first"
    assert (tmp_path / "exports/quickstart/proof.json").is_file()
    assert "would go to the Hub as me/quickstart, private" in printed


def installing() -> dict[str, Any]:
    """What the cell that installs defines, run without its last line, which is pip's, and with this clone as `..`."""
    notebook = nbformat.read(QUICKSTART, as_version=4)
    (source,) = (cell.source for cell in notebook.cells if "install" in cell.metadata.get("tags", ()))
    code, _, pip = source.rpartition("\n")
    assert pip == '%pip install --quiet "{wanted}"'
    defined = dict[str, Any]()
    exec(code.replace('".."', repr(str(ROOT))), defined)
    return defined


# A project of that name, small and with nothing to fetch before pip knows its version.
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
from pathlib import Path

def build_wheel(*_): raise NotImplementedError

def prepare_metadata_for_build_wheel(folder, settings=None):
    Path(folder, "scratchlab-9.dist-info").mkdir()
    fields = "Metadata-Version: 2.1", "Name: scratchlab", "Version: 9"
    extras = "Provides-Extra: gguf", "Provides-Extra: transformers"
    Path(folder, "scratchlab-9.dist-info/METADATA").write_text("\\n".join((*fields, *extras)))
    return "scratchlab-9.dist-info"
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a clone") / "scratchlab"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (folder / "backend.py").write_text(BACKEND, encoding="utf-8")
    git = ["git", "-C", str(folder), "-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "All"]):
        subprocess.run([*git, *words], check=True)
    archive = ["archive", "--format=zip", "--output", str(folder.parent / "scratchlab.zip"), "HEAD"]
    subprocess.run([*git, *archive], check=True)
    return folder


FORMS: dict[str, Callable[[Path], str]] = {
    "folder": str,
    "git": lambda clone: clone.as_uri().replace("file:///", "file://localhost/"),  # with a host, as https:// has
    "archive": lambda clone: str(clone.with_suffix(".zip")),
}


@pytest.mark.parametrize("form", FORMS)
def test_pip_understands_where_the_code_is(form: str, clone: Path) -> None:
    cell = installing()
    wanted = cell["requirement"](cell["find"](FORMS[form](clone)))
    offline = ["--no-deps", "--no-index", "--ignore-installed"]
    words = ["install", "--dry-run", *offline, "--quiet", "--report", "-", wanted]
    outcome = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr
    (found,) = json.loads(outcome.stdout)["install"]
    assert (found["metadata"]["version"], found["requested_extras"]) == ("9", ["gguf", "transformers"])


def test_where_no_clone_is_colab_asks_for_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere is no clone and no archive of one: say as REPOSITORY"):
        installing()["find"]("nowhere")
    files = ModuleType("google.colab.files")
    files.__dict__["upload"] = lambda: {"scratchlab.zip": b"..."}
    for name in ("google", "google.colab", "google.colab.files"):
        monkeypatch.setitem(sys.modules, name, files)
    cell = installing()
    assert cell["find"](str(tmp_path)) == "scratchlab.zip"
    assert cell["requirement"]("scratchlab.zip") == f"{Path.cwd()}/scratchlab.zip[gguf,transformers]"


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
