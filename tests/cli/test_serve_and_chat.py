"""`scratchlab serve` and `scratchlab chat` as a person uses them."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import torch
from click.testing import CliRunner, Result

from scratchlab.cli.main import cli
from scratchlab.corpus.chat import CHATML, SPECIALS, ChatTemplate, Message
from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.errors import RunError, ScratchlabError, UsageError
from scratchlab.generation.engine import Settings, generate
from scratchlab.generation.text import stream_text
from scratchlab.model.build import Model
from scratchlab.model.load import load_model
from scratchlab.runfolder import RunFolder
from tiny_run import make_run

TOKENIZER = train_tokenizer("char", ["abcdefghij klmno\n system user assistant"], specials=SPECIALS["chatml"][1:])
CONTEXT = 160


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    make_run(folder, TOKENIZER, CHATML, context_length=CONTEXT, tie_weights=False)
    return folder


@pytest.fixture(scope="module")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "base"
    make_run(folder, train_tokenizer("char", ["ab"], end_of_text=False))
    return folder


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recurrent network, whose answers no context limits, and which never ends one by itself."""
    folder = tmp_path_factory.mktemp("runs") / "endless"

    @torch.no_grad()
    def never_end(model: Model) -> None:
        model.head_weight[list(TOKENIZER.specials.values()), -1] = -1000  # the bias

    make_run(folder, TOKENIZER, CHATML, never_end, architecture="rnn")
    return folder


def chat(run: Path, lines: str, *options: str) -> Result:
    arguments = ["chat", str(run), "--device", "cpu", *options]
    return CliRunner().invoke(cli, arguments, input=lines, catch_exceptions=False)


def answer(run: Path, messages: list[Message], settings: Settings) -> str:
    template = ChatTemplate(CHATML)
    prompt = template.prompt(TOKENIZER, messages)
    model = load_model(RunFolder.open(run), device="cpu")
    ends = TOKENIZER.end_of_text, template.end_of_turn(TOKENIZER)
    return "".join(stream_text(generate(model, prompt, settings, *ends), TOKENIZER.token_bytes))


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def test_piped_there_is_an_answer_to_each_line_and_nothing_else(run: Path) -> None:
    result = chat(run, "ab\n\ncd\n", "--max-tokens", "9", "--temperature", "0", "--system", "be")
    system: Message = {"role": "system", "content": "be"}
    settings = Settings(max_tokens=9, temperature=0)
    first = answer(run, [system, user("ab")], settings)
    second = answer(run, [system, user("ab"), {"role": "assistant", "content": first}, user("cd")], settings)
    assert result.stdout == f"{first}\n{second}\n"
    assert result.exit_code == 0


def test_as_json_there_is_a_line_for_each_answer(run: Path) -> None:
    result = chat(run, "ab\ncd\n", "--max-tokens", "9", "--json")
    said = [json.loads(line) for line in result.stdout.splitlines()]
    assert [one["question"] for one in said] == ["ab", "cd"]
    assert said[0]["answer"] == answer(run, [user("ab")], Settings(max_tokens=9, temperature=0.7))
    assert {one["ending"] for one in said} <= {"stop", "length"}


def test_each_answer_has_a_seed_of_its_own_and_retry_the_next(run: Path) -> None:
    result = chat(run, "ab\n/retry\n/set seed 1\n/retry\n", "--max-tokens", "9", "--json")
    said = [json.loads(line)["answer"] for line in result.stdout.splitlines()]
    assert said[0] == said[2] != said[1]
    assert said[1] == answer(run, [user("ab")], Settings(max_tokens=9, temperature=0.7, seed=2))


def test_what_does_not_fit_any_more_is_forgotten_and_said(run: Path) -> None:
    result = chat(run, "".join(f"{word}\n" for word in ["abcdef"] * 6), "--max-tokens", "12", "--json")
    forgotten = [json.loads(line)["forgotten"] for line in result.stdout.splitlines()]
    assert forgotten[:2] == [0, 0]
    assert 1 in forgotten
    assert "no longer fit into the context" in result.stderr


def test_a_question_that_never_fits_is_an_error(run: Path) -> None:
    with pytest.raises(UsageError, match=rf"the model sees {CONTEXT} at once. Say it in fewer words"):
        chat(run, "a" * CONTEXT)


def test_commands(run: Path, tmp_path: Path) -> None:
    saved = tmp_path / "said.jsonl"
    lines = f"ab\n/save {saved}\n/system be\n/undo\n/undo\n//cd\n/save {saved}\n/reset\n/set\n/help\n/quit\nnever\n"
    result = chat(run, lines.replace("//cd", "cd"), "--max-tokens", "5", "--temperature", "0", "--top-k", "3")
    first, second = (json.loads(line)["messages"] for line in saved.read_text(encoding="utf-8").splitlines())
    assert [message["role"] for message in first] == ["user", "assistant"]
    assert [message["content"] for message in second][:2] == ["be", "cd"]
    assert second[2]["content"] == answer(run, second[:2], Settings(max_tokens=5, temperature=0))
    for words in ("taken back: ab", "nothing was said yet", "top_k = 3", "/retry", "a new conversation"):
        assert words in result.stderr
    assert "never" not in result.stderr


def test_settings_may_be_changed(run: Path) -> None:
    result = chat(run, "/set temperature 0\n/set max_tokens 4\n/set top_k none\nab\n", "--top-k", "2")
    assert result.stdout == answer(run, [user("ab")], Settings(max_tokens=4, temperature=0)) + "\n"
    assert "cut off after 4 tokens" in result.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nonsense", "there is no command /nonsense; /help lists them"),
        ("/set heat 3", "there are temperature, top_k"),
        ("/set top_k 1.5", "expected a whole number, or none, as in /set top_k 50"),
        ("/set temperature -1", "temperature must be at least 0"),
        ("/retry", "nothing was asked yet"),
        ("/save", "needs the name of a file"),
    ],
)
def test_lines_that_cannot_be_obeyed(run: Path, line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chat(run, line)


def test_a_run_that_was_not_taught_to_answer_says_what_teaches_it(untaught: Path) -> None:
    with pytest.raises(RunError, match=r"has no chat template.*scratchlab finetune") as caught:
        chat(untaught, "ab\n")
    assert caught.value.exit_code == 1
    (untaught / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    with pytest.raises(UsageError, match="does not end the assistant's turn"):
        chat(untaught, "a\n")
    (untaught / "chat_template.jinja").write_text("{% if %}", encoding="utf-8")
    with pytest.raises(ScratchlabError, match=r"chat_template\.jinja: the chat template is not valid Jinja"):
        chat(untaught, "ab\n")
    (untaught / "chat_template.jinja").unlink()


class Terminal:
    """A program in a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "scratchlab", *arguments]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        """At the prompt alone: a Ctrl-D that comes before the line is edited reads as nothing at all."""
        os.write(self.master, text.encode())

    def interrupt(self, pattern: str) -> None:
        """Ctrl-C, until it is answered so: one that comes while a line is about to be read is lost, as in any shell."""
        self.wait_for(pattern, lambda: os.kill(self.process.pid, signal.SIGINT))

    def wait_for(self, pattern: str, again: Callable[[], None] = lambda: None) -> None:
        """Until what was not yet waited for has it; what is done `again` is done every five seconds."""
        deadline, due = time.monotonic() + 60, 0.0
        while not (found := re.search(pattern, self.seen)):
            assert time.monotonic() < deadline, self.seen
            if time.monotonic() >= due:
                again()
                due = time.monotonic() + 5
            if select.select([self.master], [], [], 0.2)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
        self.seen = self.seen[found.end() :]


def test_in_a_terminal_ctrl_c_stops_the_answer_and_not_the_program(endless: Path) -> None:
    terminal = Terminal("chat", str(endless), "--device", "cpu", "--max-tokens", "1000000")
    try:
        terminal.wait_for("/help lists")
        terminal.wait_for("> ")
        terminal.type("/set nonsense\n")
        terminal.wait_for("there is no such setting")
        terminal.wait_for("> ")
        terminal.type("ab\n")
        terminal.wait_for("[a-o]{3}")
        terminal.interrupt("stopped; what was said is kept")
        terminal.wait_for("> ")
        terminal.interrupt("ends the conversation")
        terminal.wait_for("> ")
        terminal.type("/undo\n")
        terminal.wait_for("taken back: ab")
        terminal.wait_for("> ")
        terminal.type("\x04")
        assert terminal.process.wait(20) == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)


def test_serve_answers_until_it_is_told_to_end(endless: Path) -> None:
    command = [sys.executable, "-m", "scratchlab", "serve", str(endless), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/v1", first)
            assert found, first
            signal_amid_a_stream(found[0], endless.name, process.pid, signal.SIGTERM)
            assert process.wait(20) == 143
            told = process.stderr.read() if process.stderr else ""
        finally:
            process.kill()
    assert "Traceback" not in told
    assert "completions only" not in told


def test_serve_ends_with_ctrl_c_too_and_says_what_a_run_cannot_do(untaught: Path) -> None:
    """In this process, and with the handlers of signals as they were afterwards."""
    before = signal.getsignal(signal.SIGINT)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ThreadPoolExecutor(1) as pool:
        url = f"http://127.0.0.1:{port}/v1"
        asking = pool.submit(signal_amid_a_stream, url, untaught.name, os.getpid(), signal.SIGINT)
        result = CliRunner().invoke(cli, ["serve", str(untaught), "--port", str(port), "--device", "cpu"])
        asking.result(timeout=20)
    assert result.exit_code == 130
    assert "completions only" in result.stderr
    assert "Traceback" not in result.stderr
    assert signal.getsignal(signal.SIGINT) is before


def signal_amid_a_stream(url: str, name: str, process: int, number: int) -> None:
    """Ask a server as soon as it is there, and send it the signal meanwhile: the stream ends with a word of that."""
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=20)
    assert client.models.list().data[0].id == name
    stream = client.completions.create(model=name, prompt="ab", max_tokens=4000, stream=True)
    assert next(iter(stream)).choices[0].text
    os.kill(process, number)
    with pytest.raises(openai.APIError, match="shutting down"):
        list(stream)


@pytest.mark.parametrize(("options", "precision"), [((), "float32"), (("--precision", "bf16"), "bf16")])
def test_on_a_cpu_a_run_is_served_in_float32_unless_told_otherwise(
    options: tuple[str, ...], precision: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(folder: RunFolder, at: str, device: str, precision: str) -> Model:
        raise RunError(f"loaded in {precision}")

    monkeypatch.setattr("scratchlab.model.load.load_model", load)
    with pytest.raises(RunError, match=f"loaded in {precision}"):
        CliRunner().invoke(cli, ["serve", str(run), "--port", "0", "--device", "cpu", *options], catch_exceptions=False)


def test_serve_says_what_it_cannot_do(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(ScratchlabError, match=rf"port {port}: .*Choose another --port"):
            CliRunner().invoke(cli, ["serve", str(run), "--port", port], catch_exceptions=False)
    with pytest.raises(ScratchlabError, match="Choose another --"):
        CliRunner().invoke(cli, ["serve", str(run), "--host", "256.0.0.1"], catch_exceptions=False)
    with pytest.raises(RunError, match="is not a run folder"):
        CliRunner().invoke(cli, ["serve", str(tmp_path)], catch_exceptions=False)
    for name in [name for name in sys.modules if name.startswith(("scratchlab.serving", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ScratchlabError, match=r"pip install .*\[serve\]"):
        CliRunner().invoke(cli, ["serve", str(run)], catch_exceptions=False)
