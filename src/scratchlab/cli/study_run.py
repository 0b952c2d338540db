"""`scratchlab study run` and `study status`."""

import time
from typing import Any

import click

from scratchlab.cli.output import as_json, count, duration, show
from scratchlab.cli.study_text import say, standing, status_text
from scratchlab.errors import RunError, UsageError

ENGINES = ("local", "ray", "slurm")


@click.command(epilog="Example: scratchlab study run studies/nano-char.toml --workers 2")
@click.argument("path", metavar="STUDY")
@click.option("--on", type=click.Choice(ENGINES), default="local", show_default=True, help="Where runs are done.")
@click.option("--workers", type=click.IntRange(1), help="Runs at a time.  [default: all that fit]")
@click.option("--address", help="Of a Ray cluster; auto: this machine's.  [default: one of its own]")
@click.option("--slurm", multiple=True, metavar="OPTION=VALUE", help="For sbatch: partition=long; timeout=MINUTES.")
@as_json
def run(path: str, on: str, workers: int | None, address: str | None, slurm: tuple[str, ...], as_json: bool) -> None:
    """Run what is missing in STUDY, block by block, then say what came of it. Finished runs are never done again.

    Stopped by Ctrl-C or SIGTERM, its runs save checkpoints, and it exits with 143; the same command goes on.
    """
    from scratchlab.study.coordinate import coordinate
    from scratchlab.study.definition import load_study
    from scratchlab.study.engines import default_workers, engine
    from scratchlab.study.judging import judge_of
    from scratchlab.study.settle import settle_study

    study = load_study(path)
    beside = workers or default_workers(study.baseline.execution.device)
    where = engine(on, beside if on == "local" else workers, address, slurm_options(slurm))
    settled = settle_study(study, beside, say)
    now, progress = coordinate(study, settled, where, judge_of(study, settled), Lines())
    show(
        standing(study, settled, now) | {"ran": progress.ran, "failed": list(progress.failed.values())},
        as_json,
        status_text,
    )
    if progress.failed:
        raise RunError(f"{count(len(progress.failed), 'run')} failed; the same command tries them again.")


@click.command(epilog="Example: scratchlab study status studies/nano-char.toml")
@click.argument("path", metavar="STUDY")
@as_json
def status(path: str, as_json: bool) -> None:
    """Where STUDY stands: its runs, and the verdicts of its last look."""
    from scratchlab.study.definition import load_study
    from scratchlab.study.design import schedule
    from scratchlab.study.folder import known_runs
    from scratchlab.study.judging import judge_of
    from scratchlab.study.settle import settle
    from scratchlab.study.settled import read_settled

    study = load_study(path)
    before = read_settled(study)
    if before is None:
        show(
            {"study": path, "state": "not begun"}, as_json, lambda _: f"{path}: not begun. scratchlab study run {path}"
        )
        return
    settled = settle(study, before, 1, say)
    now = schedule(study, settled, known_runs(study, settled, say), judge_of(study, settled))
    show(standing(study, settled, now), as_json, status_text)


def slurm_options(given: tuple[str, ...]) -> dict[str, str]:
    """`partition=long` and the like as sbatch's options and their values."""
    for option in given:
        if not all(option.partition("=")):
            raise UsageError(f"--slurm {option}: should be OPTION=VALUE, such as partition=long or timeout=240.")
    return {name.lstrip("-"): value for name, _, value in (option.partition("=") for option in given)}


class Lines:
    """A line for each run that ends, with the time left of its phase."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._total = self._ended = 0

    def phase(self, before: Any) -> None:
        self._began, self._total, self._ended = time.monotonic(), len(before.missing), 0
        say(f"{count(len(before.counted), 'run')} there, {count(self._total, 'run')} to the next look.")

    def ended(self, run: Any, figures: Any, message: str) -> None:
        self._ended += 1
        each = (time.monotonic() - self._began) / self._ended
        left = f", {duration(each * (self._total - self._ended))} left" if self._ended < self._total else ""
        outcome = f"failed: {message}" if figures is None else figure_text(figures)
        say(f"[{self._ended}/{self._total}{left}] {run.label}: {outcome}")

    def waiting(self, runs: int) -> None:
        say(f"Waiting for {count(runs, 'run')} that others are at.")

    def damaged(self, message: str) -> None:
        say(message)


def figure_text(figures: Any) -> str:
    value = "diverged" if figures.value is None else f"{figures.value:.5g}"
    return f"{value} ({duration(figures.seconds + figures.other_seconds)})"
