"""One job: done, cut off, not begun, held by another, or in the way of something else; and what earlier jobs leave."""

import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from crew import losses
from scratchlab.errors import RunBusyError, Terminated
from scratchlab.evaluation.loss import UnitLosses
from scratchlab.runfolder import RunFolder
from scratchlab.study.perform import fingerprint_of, perform
from scratchlab.study.places import held
from scratchlab.training.loop import train
from scratchlab.training.signals import StopRequest
from tiny_jobs import bits, job, reached, resolved_recipe, steps_trained, tiny_corpus, wait_until


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The run as a process of its own trains it."""
    out = tmp_path_factory.mktemp("alone") / "run"
    recipe = out.with_suffix(".toml")
    recipe.write_text(resolved_recipe(corpus).to_toml(), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "scratchlab", "train", str(recipe), "--out", str(out)], check=True)
    return bits(out)


def test_a_job_after_another_ends_as_it_does_alone(corpus: Path, alone: dict[str, str], tmp_path: Path) -> None:
    """The one before it has other threads, kernels and layers, and leaves another random state."""
    other = {"execution.threads": 2, "execution.deterministic": True, "model.n_layer": 1, "training.steps": 4}
    first, second = job(resolved_recipe(corpus, other), tmp_path), job(resolved_recipe(corpus), tmp_path)
    assert perform(first).state == "finished"
    assert torch.get_num_threads() == 2
    torch.manual_seed(999)
    assert perform(second).state == "finished"
    assert bits(second.out) == alone


def test_what_is_done_is_not_done_again(corpus: Path, tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    assert perform(wanted).state == "finished"
    before = {path: path.stat().st_mtime_ns for path in wanted.out.rglob("*")}
    assert perform(wanted).state == "finished"
    assert {path: path.stat().st_mtime_ns for path in wanted.out.rglob("*")} == before


def test_a_finished_run_keeps_its_loss_by_document(corpus: Path, tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    perform(wanted)
    kept, result = RunFolder(wanted.out).test_units(), RunFolder(wanted.out).result()
    assert kept is not None
    assert result is not None
    assert UnitLosses.from_json(kept).summary().to_json() == result["test"], "figures and errors, to the bit"


def test_paths_and_cadences_make_no_other_run(corpus: Path, tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    perform(wanted)
    moved = shutil.copytree(corpus, tmp_path / "moved")
    same = job(resolved_recipe(moved, {"evaluation.every": 7}), tmp_path)
    assert same.out == wanted.out
    assert perform(same).state == "finished"
    assert steps_trained(wanted.out) == 24


def test_a_run_that_was_cut_off_goes_on(corpus: Path, alone: dict[str, str], tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    code = "import sys, pickle; from scratchlab.study.perform import perform; perform(pickle.load(sys.stdin.buffer))"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(pickle.dumps(wanted))
        process.stdin.close()
        wait_until(lambda: reached(wanted.out, 8))
        process.kill()
    assert RunFolder(wanted.out).result() is None
    assert perform(wanted).state == "finished"
    assert bits(wanted.out) == alone


def test_one_that_is_told_to_stop_has_begun_nothing(corpus: Path, tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    with pytest.raises(Terminated):
        perform(wanted, StopRequest(requested=True))
    assert RunFolder(wanted.out).checkpoint_steps() == []


def test_a_place_is_held_by_one(corpus: Path, tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    with held(wanted.out):
        outcome = perform(wanted)
        assert outcome.state == "elsewhere"
        assert str(wanted.out) in outcome.message
        with pytest.raises(RunBusyError):
            held(wanted.out).__enter__()
    assert not wanted.out.exists()


def test_a_run_that_somebody_resumed_by_hand_is_elsewhere(corpus: Path, tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    with pytest.raises(Terminated):
        perform(wanted, StopRequest(requested=True))
    with RunFolder(wanted.out).locked():
        assert perform(wanted).state == "elsewhere"


def test_of_many_at_once_one_trains(corpus: Path, tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    states: list[str] = []
    threads = [threading.Thread(target=lambda: states.append(perform(wanted).state)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states.count("elsewhere") == 3
    assert steps_trained(wanted.out) == 24


def test_what_a_torn_create_left_is_removed(corpus: Path, tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    torn, others = (tmp_path / f".{name}.partial-abc" for name in (wanted.out.name, "another"))
    for folder in (torn, others):
        folder.mkdir()
        (folder / "recipe.toml").write_text("torn", encoding="utf-8")
    perform(wanted)
    assert not torn.exists()
    assert others.exists()


def test_another_run_in_its_place_is_named_and_kept(corpus: Path, tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    train(resolved_recipe(corpus, {"training.steps": 4}), wanted.out)
    before = (wanted.out / "metrics.jsonl").read_bytes()
    outcome = perform(wanted)
    assert outcome.state == "failed"
    assert f"{wanted.out} holds another run" in outcome.message
    assert fingerprint_of(wanted.recipe)[:16] in outcome.message
    assert (wanted.out / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(("file", "content"), [("notes.txt", "mine"), ("manifest.json", "{")])
def test_a_foreign_or_damaged_folder_is_named_and_kept(corpus: Path, tmp_path: Path, file: str, content: str) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    wanted.out.mkdir()
    (wanted.out / "resolved.json").write_text("{}", encoding="utf-8")
    (wanted.out / file).write_text(content, encoding="utf-8")
    outcome = perform(wanted)
    assert outcome.state == "failed"
    assert str(wanted.out) in outcome.message
    assert (wanted.out / file).read_text(encoding="utf-8") == content


def test_a_mistake_of_the_user_is_told_as_it_is(corpus: Path, tmp_path: Path) -> None:
    wanted = job(resolved_recipe(corpus), tmp_path)
    shutil.move(corpus, tmp_path / "away")
    try:
        outcome = perform(wanted)
    finally:
        shutil.move(tmp_path / "away", corpus)
    assert outcome.state == "failed"
    assert str(corpus) in outcome.message
    assert not (tmp_path / "failures").exists()


def test_a_fault_of_ours_keeps_its_traceback(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("who would have thought")

    monkeypatch.setattr("scratchlab.study.perform.resume", broken)
    wanted = job(resolved_recipe(corpus), tmp_path)
    outcome = perform(wanted)
    log = tmp_path / "failures" / f"{wanted.out.name}.log"
    assert outcome.state == "failed"
    assert "ZeroDivisionError: who would have thought" in outcome.message
    assert str(log) in outcome.message
    assert "in broken" in log.read_text(encoding="utf-8")


def test_a_run_that_diverges_is_finished_and_not_tried_again(corpus: Path, tmp_path: Path) -> None:
    changes = {"training.steps": 120, "training.learning_rate": 1e30, "training.clip_norm": 0.0}
    wanted = job(resolved_recipe(corpus, changes), tmp_path)
    outcome = perform(wanted)
    assert outcome.state == "finished"
    assert "the run has diverged" in outcome.message
    before = (wanted.out / "metrics.jsonl").stat().st_mtime_ns
    assert perform(wanted).state == "finished"
    assert (wanted.out / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_run_from_anothers_weights_knows_itself_again(corpus: Path, tmp_path: Path) -> None:
    """What making a run settles, of where the other ended, may stand in the job's recipe or not."""
    train(resolved_recipe(corpus, {"training.steps": 4}), tmp_path / "first")
    changes = {"start.weights": str(tmp_path / "first"), "training.steps": 4, "start.schedule": "extended"}
    wanted = job(resolved_recipe(corpus, changes), tmp_path)
    assert perform(wanted).state == "finished"
    again = job(RunFolder(wanted.out).resolved(), tmp_path)
    assert again.recipe.start.steps_before == 4
    assert again.out == wanted.out
    assert perform(again).state == "finished"


def test_a_run_of_several_processes_is_trained_by_as_many(corpus: Path, tmp_path: Path) -> None:
    """As the factor of a noise study asks for it."""
    few = {"training.steps": 4, "model.dropout": 0.0}
    one, two = (job(resolved_recipe(corpus, few | {"execution.processes": n}), tmp_path) for n in (1, 2))
    assert one.out != two.out
    assert perform(one).state == perform(two).state == "finished"
    assert {record["processes"] for record in RunFolder(two.out).meters()} == {2}
    assert losses(two.out) == pytest.approx(losses(one.out), rel=1e-5)
    assert one.out == job(resolved_recipe(corpus, few), tmp_path).out, "one process is what there was before"
