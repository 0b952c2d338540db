"""What a worker does with one job, whichever engine it works for.

What goes wrong by no fault of the recipe, the corpus or the machine leaves its traceback in runs/failures/<name>.log.
"""

import glob
import platform
import shutil
import time
import traceback
from pathlib import Path

import torch

from scratchlab.errors import DivergedError, RunBusyError, RunError, ScratchlabError, Terminated
from scratchlab.hardware import forget_peak_memory
from scratchlab.recipe import Recipe, fingerprint
from scratchlab.runfolder import RunFolder
from scratchlab.study.folder import has_diverged
from scratchlab.study.jobs import Job, Outcome, elsewhere
from scratchlab.study.places import held
from scratchlab.training.loop import resume
from scratchlab.training.signals import StopRequest
from scratchlab.training.source import find_source
from scratchlab.training.start import create_run, open_corpora


def perform(job: Job, stop: StopRequest | None = None) -> Outcome:
    """Bring a job's run to its end from wherever it stands: finished, cut off, or not begun.

    What goes wrong is an outcome, and so is a run that diverges: it is finished, without a result.json. Only
    `Terminated` is raised, by a run that was told to stop and saved a checkpoint; `stop` says whether that was asked
    before the run could listen.
    """
    try:
        with held(job.out):
            _bring_to_its_end(job, stop or StopRequest())
        return Outcome(job, "finished")
    except RunBusyError:
        return elsewhere(job)
    except Terminated:
        raise
    except DivergedError as error:
        return Outcome(job, "finished", str(error))
    except ScratchlabError as error:
        return Outcome(job, "failed", str(error))
    except Exception as error:
        log = _keep_traceback(job)
        return Outcome(job, "failed", f"{type(error).__name__}: {error}. Where it happened is in {log}.")


def _bring_to_its_end(job: Job, stop: StopRequest) -> None:
    folder, recipe = RunFolder(job.out), _as_given(job.recipe)
    if folder.exists():
        _refuse_another(folder, recipe)
        if folder.result() is not None or has_diverged(folder):
            return
    else:
        _clear_torn(job.out)
        create_run(recipe, job.out)
    if stop.requested:
        raise Terminated(f"Stopped before {job.out} went on.")
    _forget_earlier_jobs(recipe)
    resume(job.out)


def fingerprint_of(recipe: Recipe) -> str:
    """The fingerprint of a resolved recipe, by the corpora and the starting weights that lie where it says."""
    corpus, yardstick = open_corpora(recipe)
    source = find_source(_as_given(recipe), corpus)
    if source is not None:
        recipe = recipe.replaced({"start.steps_before": source.steps, "start.sequences_before": source.sequences})
    return fingerprint(recipe, corpus.sha256, yardstick.sha256, source and source.sha256)


def _as_given(recipe: Recipe) -> Recipe:
    """Without what only making a run can settle: where the one ended whose weights it begins from."""
    if recipe.start.weights is None:
        return recipe
    return recipe.replaced({"start.steps_before": 0, "start.sequences_before": 0})


def _refuse_another(folder: RunFolder, recipe: Recipe) -> None:
    """`RunError` if the run that is there is not the one that is wanted."""
    there, wanted = RunFolder.open(folder.path).manifest().get("fingerprint"), fingerprint_of(recipe)
    if there != wanted:
        raise RunError(
            f"{folder.path} holds another run (fingerprint {str(there)[:16]}) than the study wants there "
            f"({wanted[:16]}). Nothing was changed. Move it away, or give the study another folder of runs."
        )


def _clear_torn(out: Path) -> None:
    """Remove what a process left that was killed while it made the folder; nobody else makes it now."""
    for leftover in out.parent.glob(f".{glob.escape(out.name)}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _forget_earlier_jobs(recipe: Recipe) -> None:
    """A process that does many jobs does each as if it were its first.

    Threads, deterministic kernels, TF32 and random states are set by every run for itself. What is compiled is not: a
    process that has compiled eight models runs the ninth uncompiled.
    """
    if recipe.execution.compile:
        torch.compiler.reset()
    forget_peak_memory(recipe.settled.device)


def _keep_traceback(job: Job) -> Path:
    log = job.out.parent / "failures" / f"{job.out.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        when = time.strftime("%Y-%m-%d %H:%M:%S %z")
        file.write(f"{when}, {platform.node()}, {job.label}\n{traceback.format_exc()}\n")
    return log
