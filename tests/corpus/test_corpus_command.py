"""`scratchlab corpus`: what it prints, and how it ends."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from scratchlab.cli import main as command_line


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The exit code, standard output and standard error of `scratchlab corpus ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["scratchlab", "corpus", *arguments])
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    captured = capsys.readouterr()
    return int(caught.value.code or 0), captured.out, captured.err


@pytest.fixture
def corpus_command(monkeypatch, capsys):
    return lambda *arguments: run(*map(str, arguments), monkeypatch=monkeypatch, capsys=capsys)


def test_build_show_and_verify_in_words_and_in_json(corpus_command, letters, tmp_path):
    out = tmp_path / "mine"
    code, text, errors = corpus_command("build", letters, "--out", out, "--tokenizer", "bpe:300")
    assert (code, errors) == (0, "")
    assert "30 documents" in text
    assert "bpe:300, 300 symbols, stored as uint16" in text
    assert corpus_command("show", out)[1] == text
    shown = json.loads(corpus_command("show", out, "--json")[1])
    assert {key: shown[key] for key in ("path", "format_version")} == {"path": str(out), "format_version": 2}
    assert set(shown["splits"]) == {"train", "validation", "test"}
    assert "is intact: 7 files" in corpus_command("verify", out)[1]
    verified = json.loads(corpus_command("verify", out, "--json")[1])
    assert (verified["intact"], verified["sha256"]) == (True, shown["sha256"])
    again = json.loads(corpus_command("build", letters, "--out", tmp_path / "two", "--tokenizer=bpe:300", "--json")[1])
    assert again["sha256"] == shown["sha256"]


def test_damage_is_a_failure_that_names_the_file(corpus_command, letters, tmp_path):
    corpus_command("build", letters, "--out", tmp_path / "mine", "--tokenizer", "byte")
    shard = tmp_path / "mine" / "train-00000.bin"
    shard.write_bytes(bytes(shard.stat().st_size))
    code, text, errors = corpus_command("verify", tmp_path / "mine")
    assert (code, text) == (1, "")
    assert "train-00000.bin has changed" in errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["build", "--out", "x"], 2, "Missing argument 'TEXT...'"),
        (["build", "python-docs"], 2, "Missing option '--out'"),
        (["build", "python-docs", "--out", "x", "--tokenizer", "word"], 2, "tokenizer 'word'"),
        (["build", "python-docs", "--out", "x", "--split", "hash:1"], 2, "split 'hash:1'"),
        (["build", "no-such-file.txt", "--out", "x"], 1, "no-such-file.txt does not exist"),
        (["show", "no-such-corpus"], 1, "no-such-corpus does not exist"),
        (["verify", "no-such-corpus"], 1, "no-such-corpus does not exist"),
    ],
)
def test_mistakes_exit_2_and_failures_1(corpus_command, arguments, code, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, text, errors = corpus_command(*arguments)
    assert (found, text) == (code, "")
    assert message in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [[], ["build"], ["show"], ["verify"]])
def test_help_has_an_example(command):
    result = CliRunner().invoke(command_line.cli, ["corpus", *command, "--help"])
    assert result.exit_code == 0
    assert "Example: scratchlab corpus" in result.output


def test_help_imports_nothing_heavy():
    script = (
        "import sys; from scratchlab.cli.main import cli; cli(['corpus', '--help'], standalone_mode=False); "
        "print([name for name in ('torch', 'numpy', 'pydantic', 'tokenizers', 'tiktoken') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
