"""`scratchlab compare` over logs as an evaluation leaves them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner

from scratchlab.cli.main import cli
from scratchlab.errors import ScratchlabError, UsageError
from scratchlab.evaluation.items import Item, Wording
from scratchlab.evaluation.results import FORMAT
from scratchlab.evaluation.running import evaluate_task
from scratchlab.evaluation.scorer import Answer, Question
from scratchlab.evaluation.subjects import Subject
from scratchlab.evaluation.tasks import Task
from scratchlab.files import file_name

Record = dict[str, Any]


class Bytes:
    """Encodes each byte as itself."""

    vocab_size = 256
    end_of_text = None
    meaning = "bytes"

    def encode(self, text: str) -> npt.NDArray[np.uint8]:
        return np.frombuffer(text.encode(), np.uint8)

    def token_bytes(self, token: int) -> bytes:
        return bytes([token])


class Guesser:
    """Likes the continuation `right` more than others, by so many nats, on a share of the questions."""

    def __init__(self, skill: float, seed: int) -> None:
        self.skill, self.rng = skill, np.random.default_rng(seed)

    def windows(self, tokens_BT: Any, targets_BT: Any) -> Any:
        raise NotImplementedError

    def answers(self, questions: Sequence[Question]) -> list[tuple[Answer, ...]]:
        return [tuple(self.answer(bytes(c.astype(np.uint8))) for c in q.continuations) for q in questions]

    def answer(self, text: bytes) -> Answer:
        liked = text.startswith(b" right")
        nats = self.rng.normal(3.0 - self.skill * liked, 0.5, len(text)).astype(np.float32)
        return Answer(nats, greedy=False)


def task(n: int = 120, name: str = "made-up", shots: int = 0) -> Task:
    items = tuple(
        Item(number, (f"Question {number} of {name}",) * 2, ("right one", "wrong one"), 0) for number in range(1, n + 1)
    )
    return Task(name, items, Wording(shots=shots), chance=0.5)


def evaluate(folder: Path, model: str, skill: float, made: Task, seed: int = 0) -> None:
    subject = Subject(model, f"{model} {skill} {seed}", Guesser(skill, seed), Bytes(), 0, None, 64)
    evaluate_task(subject, made, folder / "evaluations")


def write_loss(folder: Path, model: str, nats: Sequence[float | None], tokens: int = 100, sha: str = "t") -> Path:
    """A log as the evaluation of a text leaves it."""
    head = {"format": FORMAT, "kind": "loss", "model": model, "model_sha256": model + str(nats[0]), "task": "mine test"}
    head |= {"task_sha256": sha, "unit": "documents", "items": len(nats)}
    lines = [
        {"item": number, "nats": value, "tokens": tokens, "bytes": 100 + number} for number, value in enumerate(nats, 1)
    ]
    return write_log(folder / "evaluations" / file_name(model) / "mine-test.jsonl", [head, *lines])


def write_log(path: Path, lines: Sequence[Record]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def make_run(name: str, seed: int) -> None:
    """As much of a run folder as says that it is one, and its seeds."""
    Path(name).mkdir(parents=True)
    Path(name, "resolved.json").write_text("{}", encoding="utf-8")
    seeds = {"init": seed, "data": seed, "noise": 1}
    Path(name, "manifest.json").write_text(json.dumps({"format_version": 1, "seeds": seeds}), encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(*arguments: str) -> Record:
    result = CliRunner().invoke(cli, ["compare", *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def text(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["compare", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def fail(*arguments: str) -> ScratchlabError:
    result = CliRunner().invoke(cli, ["compare", *arguments])
    assert isinstance(result.exception, ScratchlabError), result.output
    return result.exception


def documents(shift: float, seed: int = 0) -> list[float]:
    """Losses of forty documents, hard and easy ones, the same for every shift."""
    hard = np.random.default_rng(1).normal(300, 40, 40)
    return [float(loss) for loss in hard + shift + np.random.default_rng(seed).normal(0, 3, 40)]


# One model against one.


def test_the_better_model_is_found_by_both_figures(here: Path) -> None:
    evaluate(here, "runs/good", 0.5, task())
    evaluate(here, "runs/bad", 0.1, task(), seed=1)
    report = compare("runs/good", "runs/bad/")
    accuracy, bits = report["comparisons"]
    assert (accuracy["figure"], bits["figure"]) == ("accuracy", "bits_per_byte")
    assert accuracy["verdict"] == bits["verdict"] == "A is better"
    assert accuracy["difference"] > 0 > bits["difference"]
    assert accuracy["low"] > 0 > bits["high"]
    assert (accuracy["n"], accuracy["unit"], accuracy["seed_error"]) == (120, "items", None)
    assert [row["verdict"] for row in compare("runs/bad", "runs/good")["comparisons"]] == ["B is better"] * 2
    shown = text("runs/good", "runs/bad")
    assert "A = runs/good" in shown
    assert "not what other seeds would" in shown


def test_a_loss_is_compared_document_by_document(here: Path) -> None:
    write_loss(here, "runs/a", documents(-2.0, seed=1))
    write_loss(here, "runs/b", documents(0.0, seed=2))
    nats, bits = compare("runs/a", "runs/b", "--loss")["comparisons"]
    assert (nats["figure"], nats["unit"], nats["verdict"]) == ("nats_per_token", "documents", "A is better")
    a, b = (np.array(documents(shift, seed)) for shift, seed in ((-2.0, 1), (0.0, 2)))
    assert nats["difference"] == pytest.approx((a - b).mean() / 100)
    assert nats["item_error"] == pytest.approx((a - b).std(ddof=1) / 100 / np.sqrt(40))
    assert nats["item_error"] < a.std() / 100 / np.sqrt(40) / 5, "what makes documents hard drops out"
    assert bits["difference"] == pytest.approx((a - b).sum() / np.log(2) / sum(range(101, 141)))


def test_of_models_with_different_tokenizers_bits_per_byte_alone_are_compared(here: Path) -> None:
    write_loss(here, "runs/a", documents(0.0, 1))
    write_loss(here, "runs/b", documents(0.0, 2), tokens=80)
    report = compare("runs/a", "runs/b")
    assert [row["figure"] for row in report["comparisons"]] == ["bits_per_byte"]
    assert "the tokenizers differ" in report["notes"][0]


def test_the_smallest_effect_decides_what_is_no_difference(here: Path) -> None:
    write_loss(here, "runs/a", documents(-0.2, 1))
    write_loss(here, "runs/b", documents(0.0, 2))
    (nats, bits) = compare("runs/a", "runs/b", "--smallest-effect", "0.05")["comparisons"]
    assert nats["sentence"] == "no difference larger than 0.05"
    assert bits["verdict"] == "undecided", "it is a difference of the figure that counts"
    assert bits["needed"] > 40
    open_ = compare("runs/a", "runs/b", "--smallest-effect", "0.001")["comparisons"][0]
    assert open_["effect"] == 0.001
    assert open_["sentence"] == f"undecided: about {open_['needed']:,} documents would be needed for 0.001"


def test_logs_can_be_named(here: Path) -> None:
    a, b = write_loss(here, "runs/a", documents(-2.0, 1)), write_loss(here, "runs/b", documents(0.0, 2))
    by_log, by_name = compare(str(a), str(b)), compare("runs/a", "runs/b")
    assert by_log["comparisons"] == by_name["comparisons"]


def test_all_tasks_that_both_have_are_compared_and_others_named(here: Path) -> None:
    for model, skill in (("a", 0.3), ("b", 0.2)):
        evaluate(here, model, skill, task(name="one"))
        evaluate(here, model, skill, task(name="two"))
        write_loss(here, model, documents(skill))
    evaluate(here, "a", 0.3, task(name="three"))
    report = compare("a", "b")
    assert [row["task"] for row in report["comparisons"]] == ["one", "one", "two", "two", "mine test", "mine test"]
    assert report["notes"] == ["Not compared, for not all have the same results of them: three."]
    assert "6 comparisons, each with its own chance of 5%" in text("a", "b")
    assert {row["task"] for row in compare("a", "b", "--task", "two")["comparisons"]} == {"two"}
    assert "Add --task NAME or --loss" in str(fail("a", "b", "--smallest-effect", "0.1"))


def test_the_newest_of_several_results_counts_and_is_named(here: Path) -> None:
    evaluate(here, "a", 0.0, task())
    evaluate(here, "b", 0.0, task(), seed=1)
    evaluate(here, "a", 0.6, task(), seed=2)
    report = compare("a", "b")
    assert report["comparisons"][0]["verdict"] == "A is better"
    assert "a was evaluated on made-up several times" in report["notes"][0]


# Several runs a side.


def several(here: Path, paired: bool = True) -> None:
    for seed in (1, 2, 3):
        make_run(f"runs/base-{seed}", seed)
        make_run(f"runs/wide-{seed}", seed if paired else 10 + seed)
        write_loss(here, f"runs/base-{seed}", documents(4.0 * seed, seed))
        write_loss(here, f"runs/wide-{seed}", documents(4.0 * seed - 5.0 + 0.1 * seed, seed + 10))


def test_runs_with_the_same_seeds_are_paired(here: Path) -> None:
    several(here)
    report = compare("runs/base-*", "runs/wide-3,runs/wide-1,runs/wide-2")
    assert report["b"] == ["runs/wide-3", "runs/wide-1", "runs/wide-2"]
    nats = report["comparisons"][0]
    values = {
        (n, s): np.mean(documents(4.0 * s - o + k, s + p)) / 100
        for s in (1, 2, 3)
        for n, o, k, p in (("base", 0, 0, 0), ("wide", 5, 0.1 * s, 10))
    }
    apart = np.array([values["base", seed] - values["wide", seed] for seed in (1, 2, 3)])
    assert nats["difference"] == pytest.approx(apart.mean())
    assert nats["seed_error"] == pytest.approx(apart.std(ddof=1) / np.sqrt(3))
    assert (nats["method"], nats["n"], nats["unit"]) == ("paired t, 3 blocks of seeds", 3, "runs a side")
    assert nats["verdict"] == "B is better"
    assert 0 < nats["item_error"] != nats["seed_error"]
    shown = text("runs/base-*", "runs/wide-*")
    assert "error over items" in shown
    assert "over seeds" in shown
    assert "The verdicts rest on the noise between seeds" in shown


def test_runs_with_other_seeds_are_not(here: Path) -> None:
    several(here, paired=False)
    nats = compare("runs/base-*", "runs/wide-*")["comparisons"][0]
    assert nats["method"] == "Welch's t, 3 and 3 runs"
    assert nats["verdict"] == "undecided"
    assert "runs a side would be needed" in nats["sentence"]
    alone = compare("runs/base-1", "runs/wide-*")["comparisons"][0]
    assert alone["method"] == "prediction interval from 3 runs"


def test_a_repeat_of_the_same_seeds_is_refused(here: Path) -> None:
    several(here)
    make_run("runs/base-4", 3)
    write_loss(here, "runs/base-4", documents(1.0, 4))
    error = fail("runs/base-*", "runs/wide-*")
    assert isinstance(error, UsageError)
    assert "runs/base-3 and runs/base-4 have the same seeds" in str(error)


def test_every_run_that_matches_must_have_results(here: Path) -> None:
    several(here)
    make_run("runs/wide-4", 4)
    assert "runs/wide-4: nothing" in str(fail("runs/base-*", "runs/wide-*"))
    assert "no run folder, and no model with results" in str(fail("runs/nose-*", "runs/wide-*"))


# What cannot be compared.


def test_where_there_are_no_results_the_command_that_makes_them_is_named(here: Path) -> None:
    evaluate(here, "runs/a", 0.3, task())
    error = str(fail("runs/a", "runs/b"))
    assert "runs/a: made-up; runs/b: nothing" in error
    assert "scratchlab evaluate runs/a runs/b --suite NAME" in error
    assert "scratchlab evaluate runs/a runs/b --suite made-up" in str(fail("runs/a", "runs/b", "--task", "made-up"))
    assert str(fail("runs/a", "runs/b", "--loss")).endswith("scratchlab evaluate runs/a runs/b")


def test_other_items_are_refused_and_named(here: Path) -> None:
    evaluate(here, "a", 0.3, task(20))
    evaluate(here, "b", 0.3, task(23))
    error = fail("a", "b")
    assert error.exit_code == 2
    assert "only b has items 21, 22, 23" in str(error)
    evaluate(here, "c", 0.3, task(20, shots=2))
    assert "another wording" in str(fail("a", "c"))
    short = write_loss(here, "d", documents(0.0)[:39])
    long = write_loss(here, "e", documents(0.0))
    assert "only e has documents 40" in str(fail(str(short), str(long)))
    (log,) = (here / "evaluations/a").glob("*.jsonl")
    assert "one is of a loss, the other of choices" in str(fail(str(log), str(long)))


def test_an_item_that_changed_is_named(here: Path) -> None:
    log = write_loss(here, "a", documents(0.0))
    other = write_loss(here, "b", documents(1.0), sha="u")
    head, *lines = map(json.loads, other.read_text(encoding="utf-8").splitlines())
    lines[6]["bytes"] += 1
    write_log(other, [head, *lines])
    assert "other texts have documents 7" in str(fail(str(log), str(other)))


def test_unfinished_and_damaged_logs_are_refused(here: Path) -> None:
    whole, log = write_loss(here, "a", documents(0.0)), write_loss(here, "b", documents(1.0))
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    write_log(log, lines[:30])
    assert "b has answered 29 of 40 documents of mine test" in str(fail("a", "b"))
    write_log(log, [*lines, lines[-1]])
    assert "an item is in it twice" in str(fail(str(whole), str(log)))
    lines[3]["nats"] = float("nan")
    write_log(log, lines)
    assert "not finite on documents 3" in str(fail("a", "b"))


def test_a_line_that_is_no_result_is_named(here: Path) -> None:
    evaluate(here, "a", 0.3, task())
    evaluate(here, "b", 0.1, task())
    (log,) = (here / "evaluations" / "a").glob("*.jsonl")
    head, *lines = log.read_text(encoding="utf-8").splitlines()
    for wrong in ("5", '{"gold": 1}', '{"item": 3}', head):
        log.write_text("\n".join([head, lines[0], wrong, *lines[1:]]) + "\n", encoding="utf-8")
        assert "damaged: line 3 is no result of an item" in str(fail("a", "b"))


def test_a_loss_that_was_kept_as_not_finite_is_refused(here: Path) -> None:
    write_loss(here, "a", [*documents(0.0)[:5], None])
    write_loss(here, "b", documents(1.0)[:6])
    assert "not finite on documents 6" in str(fail("a", "b"))


def test_items_whose_beginning_was_cut_off_are_said(here: Path) -> None:
    """Of the items, not of the option: with --truncate most models are asked whole."""
    for model, skill in (("a", 0.3), ("b", 0.1)):
        evaluate(here, model, skill, task())
    assert "beginnings" not in text("a", "b")
    (log,) = (here / "evaluations" / "a").glob("*.jsonl")
    head, first, *lines = log.read_text(encoding="utf-8").splitlines()
    log.write_text("\n".join([head, first.replace('"cut": 0', '"cut": 7'), *lines]) + "\n", encoding="utf-8")
    assert "a was asked made-up without the beginnings of 1 of 120 items." in text("a", "b")


@pytest.mark.parametrize("effect", ["nan", "inf"])
def test_an_effect_that_is_no_number_is_refused(effect: str, here: Path) -> None:
    assert f"--smallest-effect {effect}: expected a number" in str(fail("a", "b", "--smallest-effect", effect))


def test_every_figure_by_which_a_task_may_be_judged_has_a_name(here: Path) -> None:
    for model, skill in (("a", 0.3), ("b", 0.1)):
        evaluate(here, model, skill, replace(task(), metric="accuracy_token"))
    assert "accuracy by token" in text("a", "b")


def test_a_model_is_not_compared_with_itself(here: Path) -> None:
    evaluate(here, "a", 0.3, task())
    assert "a and a are the same model" in str(fail("a", "a"))
    assert fail("a", "").exit_code == 2
