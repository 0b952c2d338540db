"""What README.md shows really runs."""

import re
from pathlib import Path

import pytest

from scratchlab.cli.main import COMMANDS
from scratchlab.corpus.build import build_corpus

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    few = '"training.steps=3", "training.warmup_steps=0", "execution.threads=1"'
    assert '"training.steps=500"' in code
    writing = tmp_path / "writing.txt"
    writing.write_text("Every effort moves you. " * 2000, encoding="utf-8")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    build_corpus([str(writing)], "corpora/mine", tokenizer="char")
    exec(code.replace('"training.steps=500"', few), {})
    assert re.fullmatch(r"\d+\.\d+ ± \d+\.\d+\n", capsys.readouterr().out)


def test_every_command_of_the_readme_exists() -> None:
    named = set(re.findall(r"^    scratchlab (\w+)", README, re.MULTILINE))
    assert named <= set(COMMANDS)
    assert named >= {"corpus", "train", "evaluate", "sample", "show", "runs"}
    targets = set(re.findall(r"^    make (\w+)", README, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
