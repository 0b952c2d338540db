"""`scratchlab corpus`: what it prints, and how it ends."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from letters import story

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


# File names are bytes.


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of letters whose names, and its own, are no UTF-8; one letter is there twice."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/m\xe9"))
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such name")
    for number in range(12):
        Path(folder, os.fsdecode(b"caf\xe9%d.txt" % number)).write_text(story(number % 11) + " \u2192", "utf-8")
    return folder


def printed(
    encoding: str, *arguments: str | Path, monkeypatch: pytest.MonkeyPatch, errors: str = "strict"
) -> tuple[int, str]:
    """The exit code of `scratchlab corpus ARGUMENTS` and what it prints where standard output has this encoding."""
    both = io.BytesIO()
    stream = io.TextIOWrapper(both, encoding, errors)
    monkeypatch.setattr(sys, "argv", ["scratchlab", "corpus", *map(str, arguments)])
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit) as caught:
            command_line.main()
    stream.flush()
    return int(caught.value.code or 0), both.getvalue().decode("utf-8" if encoding == "ascii" else encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_names_that_are_no_utf_8_are_printed_wherever_output_goes(encoding, odd, monkeypatch):
    out = odd.parent / os.fsdecode(b"out\xe9")

    def run(*arguments: str | Path) -> str:
        code, text = printed(encoding, *arguments, monkeypatch=monkeypatch)
        assert code == 0, text
        return text

    def json_of(*arguments: str | Path) -> dict[str, object]:
        return json.loads(run(*arguments, "--json"))

    assert "out? " in run("build", odd, "--out", out, "--tokenizer", "byte")
    assert "out? " in run("show", out)
    assert "caf\ufffd11.txt" in run("show", out, "--removed").replace("?11", "\ufffd11")
    assert "out? is intact" in run("verify", out)
    assert "out?, test" in run("overlap", out, out)
    assert "caf?0.txt: what of it is in" in run("overlap", out, odd / os.fsdecode(b"caf\xe90.txt"))
    assert json_of("show", out)["path"] == json_of("verify", out)["path"] == str(out)
    [source] = json_of("show", out)["sources"]
    assert source["removed"]["duplicate"]["examples"][0]["document"].endswith("/m\ufffd/caf\ufffd11.txt")
    assert json_of("overlap", out, odd)["test"] == str(odd)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_failure_names_a_file_whose_name_is_no_utf_8(encoding, odd, monkeypatch):
    Path(odd, os.fsdecode(b"caf\xe99.txt")).write_bytes(b"\0")
    code, text = printed(encoding, "build", odd, "--out", odd / "out", monkeypatch=monkeypatch)
    assert code == 1
    assert "m?/caf?9.txt is not text: there is a NUL byte" in text.replace("\ufffd", "?")
    code, text = printed(encoding, "build", odd / "none", "--out", odd / "out", monkeypatch=monkeypatch)
    assert (code, "m?/none does not exist" in text.replace("\ufffd", "?")) == (1, True)
    code, text = printed(encoding, "show", odd / "none", monkeypatch=monkeypatch)
    assert (code, "m?/none does not exist" in text) == (1, True)


def test_a_process_whose_output_is_ascii_names_such_files(odd):
    command = [sys.executable, "-m", "scratchlab", "corpus", "build", str(odd), "--tokenizer", "byte"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    built = subprocess.run([*command, "--out", str(odd) + "out"], capture_output=True, env=environment, check=False)
    assert (built.returncode, built.stderr) == (0, b"")
    assert "m\ufffd: 11 documents" in built.stdout.decode()
