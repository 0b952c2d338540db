"""Tasks shared by the processes of a run: the figures are those of one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scratchlab.evaluation.running import ask_all, score_task

sys.path.insert(0, str(Path(__file__).parent))
import test_tasks as made

ONE_OF_TWO = """
import json, sys
sys.path.insert(0, {tests!r})
import torch.distributed as distributed
import test_tasks as made
from scratchlab.evaluation.running import ask_all, score_task
distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
someone, task, read = made.subject(), made.task(21), []
whole = someone.scorer.answers
someone.scorer.answers = lambda questions: (read.extend(questions), whole(questions))[1]
result = score_task(someone, task, ask_all(someone, task))
print(json.dumps([len(read), result.to_json()]))
"""


def test_two_processes_share_a_task_and_both_know_the_whole(tmp_path: Path) -> None:
    program = ONE_OF_TWO.format(tests=str(Path(__file__).parent))
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "meeting"), str(rank)], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    told = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    someone, task = made.subject(), made.task(21)
    expected = score_task(someone, task, ask_all(someone, task)).to_json()
    assert [read for read, _ in told] == [11, 10]
    for _, result in told:
        assert result["accuracy"] == expected["accuracy"]
        assert result["bits_per_byte"]["value"] == pytest.approx(expected["bits_per_byte"]["value"], rel=1e-5)
