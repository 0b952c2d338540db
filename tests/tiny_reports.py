"""Studies whose runs were written, not trained: folders with the files that a report reads, in any state and number."""

import json
from collections.abc import Callable
from typing import Any

from scratchlab.recipe import fingerprint
from scratchlab.study.definition import Study
from scratchlab.study.design import PlannedRun, schedule
from scratchlab.study.folder import known_runs, write_results
from scratchlab.study.judging import judge_of
from scratchlab.study.sections import Arm
from scratchlab.study.settle import declaration, family_of, given_recipe
from scratchlab.study.settled import SettledArm, SettledStudy, read_settled, write_settled

ENVIRONMENT = {
    "scratchlab": "0",
    "python": "3",
    "torch": "2",
    "numpy": "2",
    "device": "a processor",
    "platform": "here",
}
FIXED = {
    "execution.threads": 1,
    "execution.compile": False,
    "execution.micro_batch_size": 4,
    "training.precision": "float32",
}

Value = Callable[[PlannedRun], float | None]
"""The figure of a run; None: it diverged."""


def settle_on_paper(study: Study) -> SettledStudy:
    """As `study run` settles, without a corpus; kept in the study's folder."""

    def settle(arm: Arm) -> SettledArm:
        recipe = given_recipe(study, arm)
        given = fingerprint(recipe, recipe.corpus, "c", None)
        return SettledArm(given, recipe.replaced(FIXED), recipe.corpus, "c", None)

    arms = {arm.name: settle(arm) for arm in study.arms}
    family = family_of(study, read_settled(study), {name: arm.given for name, arm in arms.items()}, print)
    settled = SettledStudy(declaration(study), ENVIRONMENT, arms, family)
    write_settled(study, settled)
    return settled


def run_on_paper(
    study: Study, value: Value, most: int = 10_000, metrics: str | None = None, sample: str = "so"
) -> None:
    """Write at most so many of the runs that are missing, phase by phase, as if they had been trained."""
    settled = settle_on_paper(study)
    while most > 0:
        known = known_runs(study, settled, print)
        now = schedule(study, settled, known, judge_of(study, settled))
        if not now.missing:
            break
        for run in now.missing[:most]:
            write_run(study, run, value(run), metrics, sample)
        most -= len(now.missing[:most])
    known = known_runs(study, settled, print)
    write_results(study, schedule(study, settled, known, judge_of(study, settled)))


def write_run(study: Study, run: PlannedRun, value: float | None, metrics: str | None, sample: str) -> None:
    """The folder of a finished run with this figure."""
    folder = study.runs / run.name
    folder.mkdir(parents=True, exist_ok=True)  # a factor's first value may be what the baseline has
    loss = dict.fromkeys(("bits_per_byte", "nats_per_token", "perplexity"), value)
    loss |= {f"{name}_error": 0.01 for name in loss}
    cost = {"seconds": {"training": 60.0, "evaluation": 12.0}, "total_seconds": 72.0}
    files: dict[str, Any] = {
        "resolved.json": {},
        "manifest.json": {"environment": ENVIRONMENT, "evaluation_corpus": {"sha256": "c"}, "format_version": 1},
        "result.json": {"test": loss, "validation": loss, "cost": cost},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "metrics.jsonl").write_text(metrics or lines_of(4, value), encoding="utf-8")
    (folder / "samples.jsonl").write_text(json.dumps({"step": 4, "text": sample}) + "\n", encoding="utf-8")


def lines_of(steps: int, value: float | None, every: int = 1) -> str:
    """A log that falls to `value`, evaluated every so many steps; without a value, losses that are not finite."""
    records: list[dict[str, Any]] = []
    for step in range(steps):
        loss = None if value is None else value + 1 / (step + 1)
        step_record = {"step": step, "loss": loss, "gradient_norm": 1.0123456789, "skipped": value is None}
        records.append({**step_record, "learning_rate": 0.0012345678901234})
        if (step + 1) % every == 0:
            records.append({"step": step + 1, "validation": {"bits_per_byte": loss, "nats_per_token": loss}})
    return "".join(json.dumps(record) + "\n" for record in records)


def hexes(run: PlannedRun, numbers: int = 1) -> list[float]:
    """Chance of the run's own: numbers from -1 to 1, the same wherever it is run."""
    return [int(run.fingerprint[8 * i : 8 * i + 8], 16) / 2**31 - 1 for i in range(numbers)]


def noisy(**effects: float) -> Value:
    """A baseline of 2 with noise of .01 about it, and arms that are away from it by so much (0 for those not named)."""

    def value(run: PlannedRun) -> float:
        return 2.0 + effects.get(run.arm.replace("-", "_"), 0.0) + 0.01 * hexes(run)[0]

    return value
