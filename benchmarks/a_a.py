"""A/A: real runs of one baseline, dealt out to two arms that do not exist. Whatever the analysis then claims is false.

    python benchmarks/a_a.py studies/nano-char.toml [--runs 40] [--deals 200] [--workers 2]

The runs are those of the study's baseline in blocks 0, 1, 2, ...; those that the study has made are used, others are
made now, in its folder of runs. Each deal puts them at random into two arms of as many blocks, and `analyze` judges it.
Its p values should be uniform (Kolmogorov-Smirnov), and a twentieth of them below .05. Of fewer blocks, as a study has
them, other deals of some of the runs are judged too. Writes benchmarks/results/a_a.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from scratchlab import hardware

hardware.prepare_process()  # as the `scratchlab` command does, before torch is loaded

import contest  # noqa: E402
from scratchlab.study.analysis import analyze  # noqa: E402
from scratchlab.study.definition import Study, load_study  # noqa: E402
from scratchlab.study.design import PlannedRun, block_runs  # noqa: E402
from scratchlab.study.folder import job_of, known_runs  # noqa: E402
from scratchlab.study.jobs import Outcome  # noqa: E402
from scratchlab.study.local import LocalEngine  # noqa: E402
from scratchlab.study.sections import BASELINE  # noqa: E402
from scratchlab.study.settle import settle_study  # noqa: E402
from scratchlab.study.settled import SettledStudy  # noqa: E402
from scratchlab.study.table import Cell, Table  # noqa: E402

ROOT = Path(__file__).parent.parent
STUDY_SIZES = (3, 5, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--deals", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/a_a.json")
    arguments = parser.parse_args()
    study = load_study(arguments.study)
    settled = settle_study(study, arguments.workers, print)
    values = baseline_values(study, settled, arguments.runs, arguments.workers)
    rng = np.random.default_rng(1)
    report = {
        "machine": contest.machine(),
        "study": study.path.name,
        "metric": study.file.study.metric,
        "runs": len(values),
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)),
        "values": values.tolist(),
        "deals": {
            f"{blocks} blocks": judged([deal(values, blocks, rng) for _ in range(arguments.deals)])
            for blocks in (len(values) // 2, *STUDY_SIZES)
        },
    }
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report | {"values": "..."}, indent=2))


def baseline_values(study: Study, settled: SettledStudy, runs: int, workers: int) -> np.ndarray:
    """The study's metric of the baseline in the first `runs` blocks, each with fresh seeds."""
    planned = block_runs(settled, [BASELINE], range(runs), {})
    known = known_runs(study, settled, print)
    missing = [run for run in planned if known(run.name) is None]
    ended: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        ended.append(outcome)
        print(f"[{len(ended)}/{len(missing)}] {outcome.job.label}: {outcome.state} {outcome.message}", flush=True)

    LocalEngine(workers).run([job_of(study, run) for run in missing], tell)
    return np.array([value_of(known, run) for run in planned])


def value_of(known: Any, run: PlannedRun) -> float:
    figures = known(run.name)
    assert figures is not None, f"{run.label} was not finished"
    assert figures.value is not None, f"{run.label} diverged"
    return figures.value


def deal(values: np.ndarray, blocks: int, rng: np.random.Generator) -> Table:
    """Two arms of so many blocks, from runs drawn without putting any back."""
    drawn = rng.permutation(values)[: 2 * blocks].reshape(2, blocks)
    return Table(
        tuple(
            Cell(arm, str(block), float(drawn[row, block]))
            for row, arm in enumerate((BASELINE, "the same"))
            for block in range(blocks)
        ),
        BASELINE,
    )


def judged(tables: list[Table]) -> dict[str, Any]:
    """What the analysis says of deals in which nothing is true."""
    found = [analyze(table)["the same"] for table in tables]
    p = [arm.p for arm in found]
    test = stats.kstest(p, "uniform")
    claims = sum(arm.p_holm < 0.05 for arm in found)
    interval = stats.binomtest(claims, len(found)).proportion_ci()
    return {
        "n": len(found),
        "kolmogorov_smirnov_p": float(test.pvalue),
        "false_claims": claims / len(found),
        "false_claims_95": [float(interval.low), float(interval.high)],
        "verdicts": {word: sum(arm.verdict == word for arm in found) for word in sorted({a.verdict for a in found})},
    }


if __name__ == "__main__":
    main()
