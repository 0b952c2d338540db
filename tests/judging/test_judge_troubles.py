"""A judge of which nothing can be made, programs and files that are none, and Ctrl-C: said in words, nothing lost."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from contests import Server, serving, worth, write_answers

from scratchlab.cli.main import cli
from scratchlab.errors import ScratchlabError, Terminated, UnreachableError, UsageError
from scratchlab.judging import asking, client, judges
from scratchlab.judging.checks import check, share
from scratchlab.judging.judges import open_judge
from scratchlab.judging.paid import path_of, read_replies
from scratchlab.judging.replies import parse_scores
from scratchlab.judging.scores import Scores
from scratchlab.lines import encoded

N = 12
"""Questions."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, base in (("base", 40), ("tuned", 60)):
        write_answers(Path("answers"), name, worth([base + number % 3 for number in range(N)]))
    return tmp_path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(client, "WAITS", (0.01, 0.02))
    monkeypatch.setattr(judges, "WAITS", (0.01, 0.02))
    with serving(Server()) as server:
        yield server


def invoked(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=input)


def judged(*judges: str, more: tuple[str, ...] = ()) -> Result:
    return invoked("judge", "answers", *(word for judge in judges for word in ("--judge", judge)), *more)


def script(path: str, text: str, mode: int = 0o755) -> str:
    Path(path).write_text(text)
    os.chmod(path, mode)
    return path


GOOD = "import json, sys; print(json.dumps({label: WORTH for label in json.load(sys.stdin)['labels']}))"


def program(path: str, text: str) -> str:
    return f"command:{sys.executable} -S {script(path, text)}"


# Nothing was judged.


def test_a_judge_that_says_nothing_usable_is_reported_in_words(here: Path, server: Server) -> None:
    server.change = lambda text, wish: "All of them are good."
    outcome = judged(server.url, more=("--tries", "2", "--markdown", "page.md"))
    assert isinstance(outcome.exception, ScratchlabError)
    assert outcome.exception.exit_code == 1
    for text in (str(outcome.exception), outcome.stdout, Path("page.md").read_text()):
        assert "nothing was judged" in text
        assert "12 of 12 prompts failed, 24 replies were malformed, and nothing counts as 0" in text
        assert "more --tries" in text
    path = path_of(Path("judgments"), server.url)
    assert str(path) in str(outcome.exception)
    assert len(read_replies(path)) == len(server.asked) == 24
    report = json.loads(judged(server.url, more=("--tries", "2", "--json", "--pairs", "pairs.jsonl")).stdout)
    (panel,) = report["panels"]
    assert (panel["scores"], panel["verdicts"], panel["checks"], panel["questions_judged"]) == ([], [], None, 0)
    assert report["pairs"] == 0
    assert len(server.asked) == 24  # nothing was paid twice


def test_one_question_judged_is_too_little_and_other_judges_are_reported(here: Path, server: Server) -> None:
    server.change = lambda text, wish: text if "number 4?" in wish["messages"][1]["content"] else "no"
    other = program("judge.py", GOOD.replace("WORTH", "70"))
    outcome = judged(server.url, other, more=("--repeats", "2", "--tries", "1"))
    assert isinstance(outcome.exception, ScratchlabError)
    assert f"{server.url}, together: 1 question was judged in full, and figures take two" in str(outcome.exception)
    assert other not in str(outcome.exception)
    assert "Scores, 0 to 100" in outcome.stdout


def test_one_by_one_an_entry_may_be_all_that_is_missing(here: Path, server: Server) -> None:
    server.change = lambda text, wish: "no" if json.loads(text) == {"A": 95} else text  # the reference, alone
    outcome = judged(server.url, more=("--one-by-one", "--tries", "1"))
    assert isinstance(outcome.exception, ScratchlabError)
    assert "one by one: no question was judged in full, and figures take two" in str(outcome.exception)
    assert "together: " not in str(outcome.exception)


def test_no_share_and_no_trend_is_made_of_nothing() -> None:
    assert share(np.full(12, np.nan)) is None
    values = np.random.default_rng(1).normal(50, 9, (N, 2, 4))
    values[1:, 1] = np.nan  # one question alone was judged twice
    turns = np.where(np.isnan(values), np.nan, np.linspace(-0.5, 0.5, N * 2).reshape(N, 2, 1))
    scores = Scores(("a", "b", "the reference", "a bad answer"), 2, values, values * 0 + np.arange(4), turns)
    found = check(scores, np.ones((N, 4)))
    assert (found.drift, found.spread_drift) == (None, None)
    assert found.reference_above_bad is not None


# Replies that are none.


@pytest.mark.parametrize("digits", [400, 5_000])
def test_a_huge_whole_number_is_malformed(digits: int) -> None:
    with pytest.raises(ValueError, match=r"not a number from 0 to 100|digits"):
        parse_scores(f'{{"A": {"9" * digits}, "B": 1}}', "AB")


@pytest.mark.parametrize(
    "usage", [[1], "many", 5, {"prompt_tokens": "ten", "completion_tokens": -1}, {"prompt_tokens": 10**400}]
)
def test_tokens_that_are_no_numbers_are_not_counted(usage: Any, here: Path, server: Server) -> None:
    def change(text: str, wish: dict[str, Any]) -> Any:
        whole = json.loads(server.wrapped(text, wish)) | {"usage": usage}
        del whole["choices"][0]["finish_reason"]
        return 200, {}, json.dumps(whole)

    server.change = change
    outcome = judged(server.url, more=("--json", "--price", "1,1"))
    assert outcome.exit_code == 0, outcome.exception
    (panel,) = json.loads(outcome.stdout)["panels"]
    assert (panel["cost"]["tokens_in"], panel["prompts"]["judged"]) == (None, N)


def test_half_a_surrogate_pair_is_kept_and_asked_about(here: Path, server: Server) -> None:
    first = iter([f"\ud83d is {n}" for n in range(3)])
    server.change = lambda text, wish: next(first, text)
    outcome = judged(server.url, more=("--at-once", "1", "--json"))
    assert outcome.exit_code == 0, outcome.exception
    kept = [one.reply.text for one in read_replies(path_of(Path("judgments"), server.url)).values()]
    assert {f"\ud83d is {n}" for n in range(3)} < set(kept)
    assert "\ufffd is 0" in {message["content"] for wish in server.asked for message in wish["messages"]}
    before = len(server.asked)
    assert judged(server.url).exit_code == 0
    assert len(server.asked) == before
    assert json.loads(encoded({"text": "\ud83d", "more": "ü"})) == {"text": "\ud83d", "more": "ü"}


def test_answers_with_half_a_surrogate_pair_are_judged_and_learned_from(here: Path, server: Server) -> None:
    write_answers(Path("answers"), "torn", [f"Number {n} is well known, worth 90.\ud83d" for n in range(1, N + 1)])
    outcome = judged(server.url, more=("--pairs", "pairs.jsonl"))
    assert outcome.exit_code == 0, outcome.exception
    pairs = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    assert [pair["chosen"][-2:] for pair in pairs] == [".\ud83d"] * N


# Files and programs that are none.


@pytest.mark.parametrize(
    "text", ["my diary", "my diary\nof a year", '{"kind": "answers"}\n', '{"question": "x"}', "[1]"]
)
def test_labels_are_not_written_into_another_file(text: str, here: Path) -> None:
    Path("diary").write_text(text)
    outcome = invoked("label", "answers", "--out", "diary", input="1\nq\n")
    assert isinstance(outcome.exception, UsageError)
    assert "--out diary: line 1 is no label, and nothing was written there" in str(outcome.exception)
    assert Path("diary").read_text() == text


def test_labels_that_a_kill_has_torn_go_on(here: Path) -> None:
    own = '{"question": "1", "model": "base", "score": 3}\n'
    Path("labels.jsonl").write_text(f'{own}\n{{"question": "2", "a": "ba')
    assert invoked("label", "answers", input="1\nq\n").exit_code == 0
    assert invoked("label", "answers", input="2\nq\n").exit_code == 0
    text = Path("labels.jsonl").read_text()
    assert text.startswith(own)
    assert [json.loads(line).get("preferred") for line in text.splitlines() if line] == [None, "a", "b"]


def test_a_program_that_cannot_be_started_is_said(here: Path, server: Server) -> None:
    script("bare", "echo 1\n")
    script("lost", "#!/nowhere/python\n")
    script("plain", "echo 1\n", mode=0o644)
    for command, message in (
        ("./bare", r"'./bare' cannot be started: Exec format error. A script must say in its first line"),
        ("./lost", r"'./lost' cannot be started: No such file"),
        ("./plain", r"'./plain' cannot be executed: chmod \+x"),
        ("nowhere at all", "there is no program 'nowhere'"),
        ("bare", r"there is no program 'bare'. It is in this folder: say ./bare"),
        ("./bare/x", "there is no program"),
    ):
        outcome = judged(f"command:{command}")
        assert isinstance(outcome.exception, UsageError), command
        assert re.search(message, str(outcome.exception))


@pytest.mark.parametrize("address", ["http://localhost:port/v1#m", "http://localhost:99999/v1", "http://[::1/v1#m"])
def test_an_address_that_is_none_is_said(address: str, here: Path) -> None:
    Path("test.json").write_text('[{"instruction": "Say it."}]')
    for outcome in (judged(address), invoked("answer", address, "--data", "test.json")):
        assert isinstance(outcome.exception, UsageError)
        assert "is no address" in str(outcome.exception)


def test_a_program_that_was_edited_judges_anew(here: Path, server: Server) -> None:
    def score(*more: str) -> float:
        return json.loads(judged(command, more=("--json",)).stdout)["panels"][0]["scores"][0]["value"]

    command = program("judge.py", GOOD.replace("WORTH", "70")) + " --rubric=rubric.txt"
    assert score() == 70
    assert "12 of them replied to before" in judged(command, more=("--dry-run",)).stdout
    program("judge.py", GOOD.replace("WORTH", "20"))
    assert score() == 20
    Path("rubric.txt").write_text("Be stern.")
    assert "0 of them replied to before" in judged(command, more=("--dry-run",)).stdout
    program("judge.py", GOOD.replace("WORTH", "70"))
    Path("rubric.txt").unlink()
    assert "12 of them replied to before" in judged(command, more=("--dry-run",)).stdout


# Ctrl-C.


def interrupted_once(due: Callable[[], bool], *arguments: str, more: tuple[str, ...] = ()) -> tuple[Result, float]:
    """A judgment that gets Ctrl-C when `due`; with the seconds that it took to stop."""
    sent: list[float] = []

    def press() -> None:
        while not due():
            time.sleep(0.01)
        time.sleep(0.1)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    outcome = judged(*arguments, more=more)
    return outcome, time.monotonic() - sent[0]


def check_stopped(outcome: Result, seconds: float) -> None:
    assert isinstance(outcome.exception, Terminated)
    assert "is kept: run the same command again, and it goes on from there" in str(outcome.exception)
    assert seconds < 3


def test_ctrl_c_does_not_wait_for_the_next_try(here: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "WAITS", (60.0, 60.0))
    seen = iter(range(10**6))
    server.change = lambda text, wish: text if next(seen) < 5 else (503, {"Retry-After": "100"}, "busy")
    check_stopped(*interrupted_once(lambda: len(server.asked) >= 5 + 3, server.url, more=("--at-once", "3")))
    assert len(server.asked) == 8
    server.change = lambda text, wish: text
    assert judged(server.url).exit_code == 0
    assert len(server.asked) == 8 + N - 5


def test_ctrl_c_waits_a_little_for_what_is_paid(here: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pause = 0.4
    check_stopped(*interrupted_once(lambda: len(server.asked) == 2, server.url, more=("--at-once", "2")))
    assert len(read_replies(path_of(Path("judgments"), server.url))) == len(server.asked) == 2
    monkeypatch.setattr(asking, "GRACE", 0.2)
    server.pause = 6.0
    check_stopped(*interrupted_once(lambda: len(server.asked) == 4, server.url, more=("--at-once", "2")))


def test_ctrl_c_ends_programs(here: Path, server: Server) -> None:
    command = program("judge.py", "import pathlib, time; pathlib.Path('runs').touch(); time.sleep(60)")
    check_stopped(*interrupted_once(Path("runs").exists, command))


def test_a_judge_that_was_stopped_tries_nothing_again(here: Path, server: Server) -> None:
    from scratchlab.judging.prompts import make_prompt

    for spec in (server.url, program("judge.py", "raise SystemExit(3)")):
        judge = open_judge(spec, None, 5.0)
        judge.stop()
        server.instead = [(500, {}, "gone")]
        prompt = make_prompt(write_answers(Path("more"), "one", ["a"]).questions[0], ["a"], 1, 0)
        with pytest.raises(UnreachableError, match=", 1 times"):
            judge.ask(prompt, "question 1")
