"""The run folder: nothing is lost, and what is damaged is recognized and named."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scratchlab.errors import RunError, ScratchlabError
from scratchlab.runfolder import FORMAT_VERSION, RunFolder, find_runs
from tiny import tiny_recipe


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make(tmp_path / "runs" / "one")


def make(path: Path) -> RunFolder:
    recipe = tiny_recipe()
    return RunFolder.create(path, recipe, recipe, {"fingerprint": "f"}, '{"tokenizer": 1}')


def writer(step: int) -> Callable[[Path], None]:
    return lambda path: save_file({"weight": torch.full((100,), float(step))}, path)


def save(folder: RunFolder, *steps: int) -> None:
    for step in steps:
        folder.save_checkpoint(step, writer(step), {"loss_scale": 1.0, "good_steps": step})


def restored(folder: RunFolder) -> tuple[int | None, list[str]]:
    """The step whose state came back (read from the tensors themselves), and what was named as damaged."""
    found, problems = folder.last_good_checkpoint()
    if found is None:
        return None, problems
    tensors, state = found
    assert float(load_file(tensors)["weight"][0]) == state["step"] == state["good_steps"]
    return state["step"], problems


def tensors_of(folder: RunFolder, step: int) -> Path:
    return folder.checkpoint(step)[0]


def hidden(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.path.rglob(".*") if path.name != ".lock")


# Making and opening.


def test_a_new_run_explains_itself(folder: RunFolder) -> None:
    assert RunFolder.open(folder.path) == folder
    assert folder.recipe() == folder.resolved() == tiny_recipe()
    assert folder.manifest() == {"format_version": FORMAT_VERSION, "fingerprint": "f"}
    assert folder.tokenizer_path.read_text() == '{"tokenizer": 1}'
    assert (folder.metrics(), folder.meters(), folder.samples(), folder.charts()) == ([], [], [], [])
    assert folder.checkpoint_steps() == []
    assert folder.result() is None
    assert hidden(folder) == []


def test_making_the_object_touches_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"exists already.*scratchlab train --resume {folder.path}"):
        make(folder.path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunError, match="exists already") as caught:
        make(tmp_path / "mine")
    assert "--resume" not in str(caught.value), "what is no run cannot be resumed"


def test_a_folder_that_is_no_run_suggests_those_beside_it(folder: RunFolder) -> None:
    with pytest.raises(RunError, match=r"runs/oen is not a run folder \(there is .*runs/one\)"):
        RunFolder.open(folder.path.parent / "oen")


def test_a_later_format_is_refused(folder: RunFolder) -> None:
    (folder.path / "manifest.json").write_text(json.dumps({"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(RunError, match=f"format version {FORMAT_VERSION + 1}; this scratchlab reads"):
        RunFolder.open(folder.path)


@pytest.mark.parametrize("name", ["manifest.json", "resolved.json"])
def test_a_damaged_record_is_named(folder: RunFolder, name: str) -> None:
    path = folder.path / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RunError, match=rf"{name} is damaged"):
        (folder.manifest if name == "manifest.json" else folder.resolved)()
    path.unlink()
    with pytest.raises(RunError, match=rf"{name} is missing"):
        (folder.manifest if name == "manifest.json" else folder.resolved)()


def test_find_runs(folder: RunFolder, tmp_path: Path) -> None:
    two = make(tmp_path / "runs" / "two")
    (tmp_path / "runs" / "other").mkdir()
    assert find_runs(tmp_path / "runs") == [folder, two]
    with pytest.raises(RunError, match="no such folder"):
        find_runs(tmp_path / "none")


# Logs.


def test_records_come_back_in_order_and_exactly(folder: RunFolder) -> None:
    records: list[dict[str, Any]] = [{"step": 0, "loss": 0.1 + 0.2}, {"step": 1, "loss": None}, {"step": 2, "x": "é\r"}]
    folder.append_metrics(records[:2])
    folder.append_metrics(records[2:])
    assert folder.metrics() == records


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', '{"step": 3}', "\x00\x00"])
def test_a_torn_last_line_is_dropped(folder: RunFolder, torn: str) -> None:
    folder.append_metrics([{"step": 1}, {"step": 2}])
    path = folder.path / "metrics.jsonl"
    path.write_text(path.read_text() + torn)
    assert folder.metrics() == [{"step": 1}, {"step": 2}]
    folder.rewind(2)
    folder.append_metrics([{"step": 2, "again": True}])
    assert folder.metrics() == [{"step": 1}, {"step": 2, "again": True}]


def test_a_damaged_line_in_the_middle_is_named(folder: RunFolder) -> None:
    folder.append_metrics({"step": step} for step in range(5))
    path = folder.path / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"step": 2}', '{"step: 2}'))
    with pytest.raises(RunError, match=r"metrics.jsonl, line 3: damaged"):
        folder.metrics()


def test_lines_that_are_records_only_together_are_damaged(folder: RunFolder) -> None:
    log = folder.path / "metrics.jsonl"
    log.write_text('{"step": [0\n1]}\n', encoding="utf-8")
    with pytest.raises(RunError, match=r"metrics.jsonl, line 1: damaged"):
        folder.metrics()


def test_rewind_drops_later_metrics_and_samples_and_keeps_meters(folder: RunFolder) -> None:
    folder.append_metrics({"step": step} for step in range(5))
    for step in range(5):
        folder.append_meters({"step": step})
        folder.append_sample({"step": step, "text": "é"})
    folder.rewind(3)
    assert [record["step"] for record in folder.metrics()] == [0, 1, 2]
    assert [record["step"] for record in folder.samples()] == [0, 1, 2]
    assert [record["step"] for record in folder.meters()] == [0, 1, 2, 3, 4], "time that was spent stays spent"
    before = (folder.path / "metrics.jsonl").read_bytes()
    folder.rewind(3)
    assert (folder.path / "metrics.jsonl").read_bytes() == before


def test_a_run_that_trains_steps_again_is_not_finished(folder: RunFolder) -> None:
    """It was, and its last checkpoint was damaged since. Cut off on the way, it must not be taken for finished."""
    folder.finish({"steps": 5})
    folder.rewind(3)
    assert folder.result() is None


# Checkpoints.


def test_the_last_two_checkpoints_are_kept(folder: RunFolder) -> None:
    save(folder, 10, 20, 30, 100)
    assert folder.checkpoint_steps() == [30, 100]
    assert restored(folder) == (100, [])


def test_no_checkpoint_is_no_problem(folder: RunFolder) -> None:
    assert restored(folder) == (None, [])


def test_a_checkpoint_is_there_whole_or_not_at_all(folder: RunFolder) -> None:
    save(folder, 1)

    def cut_off(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.save_checkpoint(2, cut_off, {})
    assert folder.checkpoint_steps() == [1]
    assert hidden(folder) == []


def truncate(folder: RunFolder) -> str:
    path = tensors_of(folder, 20)
    path.write_bytes(path.read_bytes()[:-1])
    return "tensors.safetensors is damaged: its SHA-256"


def flip_a_bit(folder: RunFolder) -> str:
    path = tensors_of(folder, 20)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return "tensors.safetensors is damaged: its SHA-256"


def remove_tensors(folder: RunFolder) -> str:
    tensors_of(folder, 20).unlink()
    return "tensors.safetensors is missing"


def truncate_state(folder: RunFolder) -> str:
    path = tensors_of(folder, 20).with_name("state.json")
    path.write_bytes(path.read_bytes()[:20])
    return "state.json is damaged"


def remove_state(folder: RunFolder) -> str:
    tensors_of(folder, 20).with_name("state.json").unlink()
    return "state.json is missing"


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove_tensors, truncate_state, remove_state])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(
    folder: RunFolder, damage: Callable[[RunFolder], str]
) -> None:
    save(folder, 10, 20)
    named = damage(folder)
    step, problems = restored(folder)
    assert step == 10
    assert len(problems) == 1
    assert named in problems[0]
    assert "step-00000020" in problems[0]
    save(folder, 20)  # the resumed run comes there again
    assert restored(folder) == (20, [])


def test_two_damaged_checkpoints_are_both_named(folder: RunFolder) -> None:
    save(folder, 10, 20)
    for step in (10, 20):
        tensors_of(folder, step).write_bytes(b"")
    step, problems = restored(folder)
    assert step is None
    assert ["step-00000020" in problems[0], "step-00000010" in problems[1]] == [True, True]


def test_rewind_clears_what_a_killed_save_left(folder: RunFolder) -> None:
    save(folder, 1)
    leftover = folder.path / "checkpoints" / ".step-00000002.partial-xyz"
    leftover.mkdir()
    (leftover / "tensors.safetensors").write_bytes(b"half")
    assert folder.checkpoint_steps() == [1]
    folder.rewind(1)
    assert hidden(folder) == []
    assert folder.checkpoint_steps() == [1]


def test_a_snapshot_replaces_the_one_before_only_when_it_is_whole(folder: RunFolder) -> None:
    folder.save_snapshot("best", 3, writer(1))

    def cut_off(path: Path) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.save_snapshot("best", 3, cut_off)
    assert float(load_file(folder.snapshot("best")[0])["weight"][0]) == 1
    folder.save_snapshot("best", 3, writer(2))
    assert float(load_file(folder.snapshot("best")[0])["weight"][0]) == 2
    assert hidden(folder) == []


def test_the_result_ends_a_run(folder: RunFolder) -> None:
    folder.finish({"steps": 3})
    assert folder.result() == {"steps": 3}


# One writer, a full disk, deletion.

HOLD = """
import sys, time
from scratchlab.runfolder import RunFolder
with RunFolder.open(sys.argv[1]).locked():
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_lets_go(folder: RunFolder) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(RunError, match=r"is being written by another process"), folder.locked():
                pass
            with pytest.raises(RunError, match=r"is being written by another process"):
                folder.delete()
            assert folder.exists()
        finally:
            holder.kill()
    with folder.locked():
        pass


def test_the_lock_is_let_go_after_an_error(folder: RunFolder) -> None:
    with pytest.raises(KeyError), folder.locked():
        raise KeyError
    with folder.locked(), pytest.raises(RunError, match="another process"), RunFolder(folder.path).locked():
        pass


def test_delete_removes_everything(folder: RunFolder) -> None:
    save(folder, 1)
    assert folder.size() > 400
    folder.delete()
    assert not folder.path.exists()
    assert find_runs(folder.path.parent) == []


FULL = """
import resource, sys
from pathlib import Path
from scratchlab.errors import ScratchlabError
from scratchlab.runfolder import RunFolder
folder = RunFolder.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))  # what is written beyond it fails as on a full disk
def write(path: Path) -> None:
    path.write_bytes(bytes(50_000))
def write_weights(path: Path) -> None:
    import torch
    from scratchlab.training.checkpoint import write_tensors
    write_tensors({"weight": torch.zeros(50_000)}, path)
actions = {
    "checkpoint": lambda: folder.save_checkpoint(20, write_weights, {}),
    "snapshot": lambda: folder.save_snapshot("best", 3, write),
    "metrics": lambda: folder.append_metrics({"step": step} for step in range(5_000)),
    "result": lambda: folder.finish({"x": "y" * 50_000}),
}
try:
    actions[sys.argv[2]]()
except ScratchlabError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("checkpoint", "the checkpoint of step 20 could not be written"),
        ("snapshot", "the snapshot best could not be written"),
        ("metrics", "metrics.jsonl could not be written"),
        ("result", "result.json could not be written"),
    ],
)
def test_a_full_disk_is_said_and_loses_nothing(folder: RunFolder, what: str, named: str) -> None:
    save(folder, 5, 10)
    folder.save_snapshot("best", 3, writer(7))
    folder.append_metrics([{"step": 1}, {"step": 2}])
    command = [sys.executable, "-c", FULL, str(folder.path), what]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert outcome.returncode == 1, outcome.stderr
    assert named in outcome.stdout
    assert re.search("Free some space .*run the same command again", outcome.stdout)
    assert restored(folder) == (10, [])
    assert folder.checkpoint_steps() == [5, 10]
    assert float(load_file(folder.snapshot("best")[0])["weight"][0]) == 7
    assert folder.result() is None
    assert [record["step"] for record in folder.metrics()[:2]] == [1, 2]
    folder.rewind(10)
    assert folder.checkpoint_steps() == [5, 10]


def test_a_file_in_the_way_is_said(folder: RunFolder) -> None:
    (folder.path / "snapshots").write_text("in the way")
    with pytest.raises(ScratchlabError, match=r"the snapshot best could not be written to .*snapshots/best"):
        folder.save_snapshot("best", 3, writer(1))


def test_a_flipped_bit_of_the_state_is_recognized(folder: RunFolder) -> None:
    save(folder, 10)
    path = tensors_of(folder, 10).with_name("state.json")
    good, state = path.read_bytes(), folder.checkpoint(10)[1]
    unnoticed: list[int] = []
    for place in range(len(good)):
        content = bytearray(good)
        content[place] ^= 1
        path.write_bytes(content)
        try:
            if folder.checkpoint(10)[1] != state:
                unnoticed.append(place)
        except RunError:
            pass
    assert not unnoticed


def test_other_names_among_the_checkpoints(folder: RunFolder) -> None:
    save(folder, 10)
    (folder.path / "checkpoints" / "step-00000010.bak").mkdir()
    assert folder.checkpoint_steps() == [10]


def test_killed_writes_leave_no_litter(folder: RunFolder) -> None:
    (folder.path / ".metrics.jsonl.abc").write_text("half")
    (folder.path / "snapshots/.best.partial-abc").mkdir(parents=True)
    folder.rewind(0)
    assert hidden(folder) == []


def test_a_damaged_snapshot_is_named(folder: RunFolder) -> None:
    folder.save_snapshot("best", 3, writer(1))
    tensors, _ = folder.snapshot("best")
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    with pytest.raises(RunError, match=r"snapshots/best/tensors.safetensors is damaged"):
        folder.snapshot("best")


def test_damaged_checkpoints_make_way_for_the_good_ones_that_follow(folder: RunFolder) -> None:
    for step in (5, 10):
        save(folder, step)
    tensors_of(folder, 10).write_bytes(b"torn")
    folder.rewind(5)
    assert folder.checkpoint_steps() == [5]
    save(folder, 7)
    assert folder.checkpoint_steps() == [5, 7]
    assert restored(folder) == (7, [])
