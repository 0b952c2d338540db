"""The commands: by references, by judges, by a person."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from contests import Server, question, serving, worth, write_answers

from scratchlab.cli.main import cli
from scratchlab.errors import ScratchlabError, UnfinishedError, UsageError
from scratchlab.judging import client


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(client, "WAITS", (0.01, 0.02))
    with serving(Server()) as server:
        yield server


def scratchlab(*arguments: str, input: str | None = None) -> str:
    outcome = CliRunner().invoke(cli, arguments, input=input, catch_exceptions=True)
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def reported(*arguments: str) -> dict[str, Any]:
    return json.loads(scratchlab(*arguments, "--json"))


def three_models(n: int = 12) -> None:
    for name, base in (("base", 40), ("tuned", 60), ("twin", 40)):
        write_answers(Path("answers"), name, worth([base + 3 * (number % 3) for number in range(n)]))


# By references.


def test_without_a_judge_answers_are_held_against_their_references(here: Path) -> None:
    right = [question(number).reference or "" for number in range(1, 13)]
    losses = [10.0 + number % 4 for number in range(12)]
    write_answers(here / "answers", "echo", right, nats=losses)
    write_answers(
        here / "answers", "mute", ["", *["Something else entirely."] * 11], nats=[2 * loss for loss in losses]
    )
    found = reported("judge", "answers", "--baseline", "mute")
    echo, mute = found["models"]
    assert (echo["chrf"]["value"], echo["corpus_chrf"]) == (pytest.approx(100), pytest.approx(100))
    assert mute["empty"] == 1
    assert mute["chrf"]["value"] < 25
    assert echo["nats_per_token"]["value"] == pytest.approx(sum(losses) / (7 * 12))
    assert echo["nats_per_byte"]["value"] == pytest.approx(sum(losses) / (25 * 12))
    assert [one["verdict"] for one in found["chrf"] + found["nats_per_byte"]] == ["helps", "helps"]
    text = scratchlab("judge", "answers", "--markdown", "page.md")
    assert "No judge was asked: chrF counts letter sequences" in text
    assert "mute: 1 answers are empty (their chrF is 0)" in text
    assert "| echo" in Path("page.md").read_text()


def test_chrf_is_sacrebleus(here: Path) -> None:
    from sacrebleu.metrics.chrf import CHRF

    texts = worth([50.0] * 5)
    write_answers(here / "answers", "one", texts)
    (one,) = reported("judge", "answers")["models"]
    references = [question(number).reference or "" for number in range(1, 6)]
    single = [CHRF().sentence_score(text, [ref]).score for text, ref in zip(texts, references, strict=True)]
    assert one["chrf"]["value"] == pytest.approx(sum(single) / 5)
    assert one["corpus_chrf"] == pytest.approx(CHRF().corpus_score(texts, [references]).score)
    assert one["nats_per_byte"] is None


def test_what_means_nothing_without_a_judge_is_refused(here: Path) -> None:
    three_models()
    for option in (["--repeats", "3"], ["--one-by-one"], ["--price", "1,1"], ["--out", "x"], ["--dry-run"]):
        with pytest.raises(UsageError, match=f"{option[0]} is for judges"):
            scratchlab("judge", "answers", *option)
    with pytest.raises(UsageError, match="there are answers of base, tuned, twin"):
        scratchlab("judge", "answers", "--baseline", "nobody")
    write_answers(here / "bare", "base", ["a", "b"], referenced=False)
    with pytest.raises(UsageError, match=r"has 0 reference answers, .* name a judge"):
        scratchlab("judge", "bare")


# By judges.


def test_a_judge_says_who_is_better_and_whether_it_can_be_trusted(here: Path, server: Server) -> None:
    three_models()
    arguments = ["judge", "answers", "--judge", server.url, "--repeats", "2", "--price", "1,10"]
    found = reported(*arguments)
    (panel,) = found["panels"]
    assert {one["model"]: one["verdict"] for one in panel["verdicts"]} == {"tuned": "helps", "twin": "negligible"}
    assert [one["value"] for one in panel["scores"][-2:]] == [95.0, 5.0]
    assert [(one["model"], one["best"], one["worst"]) for one in panel["ranking"]] == [
        ("tuned", 1, 1),
        ("base", 2, 3),
        ("twin", 2, 3),
    ]
    assert panel["checks"]["reference_above_bad"]["value"] == 1
    assert panel["flags"] == []
    assert panel["repeats_agree"]["alpha"] == 1
    assert panel["cost"] == {"requests": 24, "tokens_in": 2400, "tokens_out": 240, "dollars": pytest.approx(0.0048)}
    text = scratchlab(*arguments, "--markdown", "page.md")
    assert len(server.asked) == 24
    for part in (
        "tuned: helps: 20",
        "1       tuned",
        "0 failed",
        "$0.0048",
        "above the bad answer in 100%",
        "json_schema",
    ):
        assert part in text
    assert "| tuned" in Path("page.md").read_text()


def test_what_fails_is_counted_and_shown(here: Path, server: Server) -> None:
    three_models()
    server.change = lambda text, wish: "no" if "number 4?" in wish["messages"][1]["content"] else text
    text = scratchlab("judge", "answers", "--judge", server.url, "--tries", "2")
    assert "11 judged, 1 failed (no score, not counted as 0); 2 malformed replies" in text
    assert "Failed: question 4, repeat 1: 2 malformed replies, the last one: it is not JSON alone" in text
    (panel,) = reported("judge", "answers", "--judge", server.url, "--tries", "2")["panels"]
    assert [one["n"] for one in panel["scores"]] == [11] * 5


def test_one_by_one_is_set_beside_all_together(here: Path, server: Server) -> None:
    three_models()
    unsteady = iter(range(10**6))

    def judge(messages: Any) -> dict[str, float]:
        """Sure where it can compare; alone in a prompt an answer gets anything."""
        from contests import fair

        scores = fair(messages)
        return scores if len(scores) > 1 else {label: float(next(unsteady) * 37 % 100) for label in scores}

    server.judge = judge
    found = reported("judge", "answers", "--judge", server.url, "--repeats", "2", "--one-by-one", "--at-once", "1")
    assert [(panel["way"], panel["prompts"]["all"]) for panel in found["panels"]] == [
        ("together", 24),
        ("one by one", 120),
    ]
    (steadier,) = found["steadier"]
    assert steadier["steadier"] == "together"
    assert steadier["together"]["value"] > 0.8 > steadier["one_by_one"]["value"]
    assert found["between_judges"][0]["alpha"] < 0.8
    assert "together is steadier" in scratchlab(
        "judge", "answers", "--judge", server.url, "--repeats", "2", "--one-by-one", "--at-once", "1"
    )


def test_two_judges_and_a_person_are_compared(here: Path, server: Server) -> None:
    three_models()
    labels = [{"question": str(n), "a": "tuned", "b": "base", "preferred": "a"} for n in range(1, 11)]
    labels += [
        {"question": "11", "a": "base", "b": "tuned", "preferred": "a"},
        {"question": "12", "model": "base", "score": 3},
    ]
    labels += [{"question": "12", "model": "tuned", "score": 4}]
    Path("labels.jsonl").write_text("".join(json.dumps(label) + "\n" for label in labels))
    program = (
        "import json,sys; a=json.load(sys.stdin)['labels']; print(json.dumps({b: 9 * i for i, b in enumerate(a)}))"
    )
    Path("judge.py").write_text(program)
    command = f"command:{sys.executable} -S judge.py"
    found = reported("judge", "answers", "--judge", server.url, "--judge", command, "--labels", "labels.jsonl")
    fair, by_place = found["panels"]
    assert fair["flags"] == []
    assert [flag.partition(":")[0] for flag in by_place["flags"]] == ["blind", "partial"]
    assert abs(by_place["verdicts"][0]["effect"]) < 10  # the order is balanced: places make no model better
    (between,) = found["between_judges"]
    assert between["alpha"] < 0.6
    with_fair, with_other = found["with_labels"]
    assert with_fair["same"]["value"] == pytest.approx(11 / 12)
    assert with_fair["questions"] == 12
    assert with_fair["alpha"] > with_other["alpha"]
    Path("labels.jsonl").write_text('{"question": "99"}\n{"question": "1", "a": "x", "b": "y", "preferred": "a"}\nno\n')
    with pytest.raises(UsageError, match="3 lines:"):
        scratchlab("judge", "answers", "--judge", server.url, "--labels", "labels.jsonl")


def test_a_dry_run_asks_nothing(here: Path, server: Server) -> None:
    three_models()
    arguments = ["judge", "answers", "--judge", server.url, "--price", "1,10", "--repeats", "2"]
    (ahead,) = reported(*arguments, "--dry-run")["dry_run"]
    assert (ahead["prompts"], ahead["kept"], ahead["guess"]["requests"]) == (24, 0, 24)
    assert ahead["guess"]["dollars"] > 0
    assert server.asked == []
    scratchlab("judge", "answers", "--judge", server.url)
    text = scratchlab(*arguments, "--dry-run")
    assert "24 prompts, 12 of them replied to before. About 12 requests" in text
    assert "Nothing was asked." in text


def test_the_money_that_was_named_is_not_gone_beyond(here: Path, server: Server) -> None:
    three_models()
    with pytest.raises(UsageError, match="--max-cost needs a price"):
        scratchlab("judge", "answers", "--judge", server.url, "--max-cost", "1")
    with pytest.raises(UsageError, match="expected dollars for a million tokens"):
        scratchlab("judge", "answers", "--judge", server.url, "--price", "cheap")
    arguments = ["judge", "answers", "--judge", server.url, "--price", "1,10", "--max-cost"]
    outcome = CliRunner().invoke(cli, [*arguments, "0.0021"])
    assert isinstance(outcome.exception, UnfinishedError)
    assert "prompts were not asked: they may have cost more than --max-cost 0.0021" in str(outcome.exception)
    assert "not asked for want of money" in outcome.stdout
    assert 3 <= len(server.asked) <= 10
    scratchlab(*arguments, "1")
    assert len(server.asked) == 12


def test_pairs_to_learn_from_are_the_best_and_the_worst(here: Path, server: Server) -> None:
    three_models()
    found = reported("judge", "answers", "--judge", server.url, "--pairs", "pairs.jsonl")
    pairs = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    assert found["pairs"] == len(pairs) == 12
    assert all("worth 6" in pair["chosen"] and "worth 4" in pair["rejected"] for pair in pairs)
    assert pairs[0]["prompt"] == list(question(int(pairs[0]["question"])).messages)


def test_without_references_there_are_no_anchors_and_it_is_said(here: Path, server: Server) -> None:
    server.judge = lambda messages: {"A": 50.0, "B": 50.0}
    for name in ("base", "tuned"):
        write_answers(here / "answers", name, worth([40.0] * 10), referenced=False)
    text = scratchlab("judge", "answers", "--judge", server.url)
    assert "10 of 10 questions have no reference answer, so that there are no anchors" in text
    assert "This judge is lazy: in 100%" in text


def test_one_model_is_judged_too(here: Path, server: Server) -> None:
    write_answers(here / "answers", "base", worth([40.0] * 10))
    (panel,) = reported("judge", "answers", "--judge", server.url, "--repeats", "2")["panels"]
    assert [one["value"] for one in panel["scores"]] == [40.0, 95.0, 5.0]
    assert (panel["verdicts"], panel["ranking"], panel["repeats_agree"]) == ([], [], None)
    assert "base" in scratchlab("judge", "answers", "--judge", server.url)
    Path("labels.jsonl").write_text("")
    with pytest.raises(UsageError, match="answers of one model"):
        scratchlab("judge", "answers", "--judge", server.url, "--labels", "labels.jsonl")
    write_answers(here / "lonely", "base", worth([40.0]))
    with pytest.raises(UsageError, match="two questions at least"):
        scratchlab("judge", "lonely", "--judge", server.url)


def test_a_judge_that_refuses_everything_is_an_error(here: Path, server: Server) -> None:
    three_models()
    server.change = lambda text, wish: (400, {}, '{"error": {"message": "too long"}}')
    with pytest.raises(ScratchlabError, match="judges nothing"):
        scratchlab("judge", "answers", "--judge", server.url)
    with pytest.raises(UsageError, match="a judge is named twice"):
        scratchlab("judge", "answers", "--judge", server.url, "--judge", server.url)


# By a person.


def test_a_person_labels_blind_and_goes_on_where_they_stopped(here: Path, server: Server) -> None:
    write_answers(here / "answers", "base", ["same", *worth([40.0] * 5)[1:]])
    write_answers(here / "answers", "tuned", ["same", *worth([60.0] * 5)[1:]])
    outcome = CliRunner().invoke(cli, ["label", "answers"], input="1\nn\nq\n")
    assert outcome.exit_code == 0, outcome.output
    assert "2 labels were added to labels.jsonl; 2 are left." in outcome.stdout
    assert "base" not in outcome.stderr  # blind
    assert "tuned" not in outcome.stderr
    assert "worth 40" in outcome.stderr
    first, second = [json.loads(line) for line in Path("labels.jsonl").read_text().splitlines()]
    better = "60" if first["a"] == "tuned" else "40"
    assert f"worth {better}." in first["chosen"]
    assert first["prompt"][0]["content"].endswith(f"number {first['question']}?")
    assert second["preferred"] == "neither"
    assert "chosen" not in second
    outcome = CliRunner().invoke(cli, ["label", "answers", "--json"], input="s\n2\n")
    assert json.loads(outcome.stdout) == {"labels": "labels.jsonl", "made": 1, "before": 2, "left": 1}
    asked = [json.loads(line)["question"] for line in Path("labels.jsonl").read_text().splitlines()]
    assert len(set(asked)) == 3
    assert "1" not in asked  # where both say the same there is nothing to choose
    found = reported("judge", "answers", "--judge", server.url, "--labels", "labels.jsonl")
    assert found["with_labels"][0]["pairs"] == 3
    with pytest.raises(UsageError, match="two models at least"):
        scratchlab("label", "answers/base.jsonl")


def test_what_a_model_writes_does_nothing_to_the_terminal(here: Path) -> None:
    write_answers(here / "answers", "base", ["\x1b[2J[bold]gone[/bold]", "a"])
    write_answers(here / "answers", "tuned", ["b", "c"])
    outcome = CliRunner().invoke(cli, ["label", "answers"], input="q\n")
    outcome = CliRunner().invoke(cli, ["label", "answers"], input="s\nq\n")
    assert "\x1b" not in outcome.stderr
    assert "[bold]gone" in outcome.stderr


# The way of the answers: a run answers, and is judged.


def test_answer_says_what_it_wrote_and_what_is_next(here: Path, server: Server) -> None:
    rows = [{"instruction": f"What is the name of number {n}?", "output": "It."} for n in range(1, 4)]
    Path("test.json").write_text(json.dumps(rows))
    server.change = lambda text, wish: "" if "number 2" in wish["messages"][0]["content"] else "It is it."
    server.judge = lambda messages: {}
    text = scratchlab("answer", server.url, "--data", "test.json", "--out", "mine")
    assert f"{server.url}: 3 answers (1 empty) in mine/" in text
    assert "Next: scratchlab judge mine/" in text
    found = reported("answer", server.url, "--data", "test.json", "--out", "mine", "--max-tokens", "7")
    assert found["answers"][0]["settings"]["max_tokens"] == 7
    assert len(server.asked) == 6
