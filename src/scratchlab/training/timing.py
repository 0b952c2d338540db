"""How long things take: measured on real steps, evaluations and checkpoints of a recipe, on this machine."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

from scratchlab import hardware
from scratchlab.corpus.loader import Loader
from scratchlab.corpus.store import Corpus
from scratchlab.evaluation.batches import tokens_at_once
from scratchlab.evaluation.loss import byte_lengths, evaluate_loss
from scratchlab.generation.engine import Settings
from scratchlab.generation.text import write
from scratchlab.recipe import Recipe
from scratchlab.runfolder import RunFolder
from scratchlab.training.checkpoint import save_checkpoint
from scratchlab.training.data import training_sequences
from scratchlab.training.measurements import Measurement, keep_measurement
from scratchlab.training.step import TorchBackend, TorchState
from scratchlab.training.world import ALONE

WARM_UP = 2  # steps: the first ones take memory, choose kernels and compile
LEAST, MOST = 3, 30  # steps that are timed
BUDGET_SECONDS = 1.0
MEASURE_SECONDS, MEASURE_MOST = 6.0, 400  # where a whole run is forecast from them
SCORE_SECONDS = 2.0


def seconds_per_step(recipe: Recipe, corpus: Corpus, budget: float = BUDGET_SECONDS) -> float:
    """The median time of a step of a resolved recipe, as many as fit the budget (three at least)."""
    threads = torch.get_num_threads()
    try:
        return statistics.median(_timed_steps(_Trial.of(recipe, corpus), budget, MOST)[WARM_UP:])
    finally:
        torch.set_num_threads(threads)


def measure(recipe: Recipe, corpus: Corpus, yardstick: Corpus) -> Measurement:
    """Take some steps, score some text, write a sample and a checkpoint (below the folder one is in), and time it all.

    Some ten seconds, or as long as ten steps take. Kept, for forecasts to come.
    """
    trial = _Trial.of(recipe, corpus)  # before the rate is measured, for it allows TF32 or forbids it
    hardware.matmul_rate(recipe.settled.device, recipe.settled.precision)  # as a run does
    steps = _timed_steps(trial, MEASURE_SECONDS / 2, MEASURE_MOST)
    seconds_per_scored_token = _seconds_per_scored_token(trial, yardstick)
    later = _timed_steps(trial, MEASURE_SECONDS / 2, MEASURE_MOST)  # after an evaluation memory lies otherwise
    usual = statistics.median(steps[WARM_UP:] + later[WARM_UP:])
    measured = Measurement(
        seconds_per_step=usual,
        first_steps=max(0.0, sum(steps[:WARM_UP]) - WARM_UP * usual),
        seconds_per_scored_token=seconds_per_scored_token,
        seconds_per_sample=_seconds(lambda: _write_sample(trial, corpus)),
        seconds_per_checkpoint=_seconds(lambda: _save(trial)),
        peak_memory=hardware.peak_memory(recipe.settled.device),
        day=date.today().isoformat(),
    )
    keep_measurement(recipe, corpus.vocab_size, measured)
    return measured


@dataclass(frozen=True, slots=True)
class _Trial:
    """A run of which nothing is kept."""

    backend: TorchBackend
    state: TorchState
    loader: Loader

    @staticmethod
    def of(recipe: Recipe, corpus: Corpus) -> "_Trial":
        backend = TorchBackend(recipe, corpus.vocab_size, corpus.tokenizer.end_of_text)
        loader = Loader(training_sequences(recipe, corpus), recipe.training.global_batch_size, recipe.seeds.data)
        return _Trial(backend, backend.init(), loader)


def _timed_steps(trial: _Trial, budget: float, most: int) -> list[float]:
    """Seconds of each step, those of the warm-up first."""
    seconds: list[float] = []
    while len(timed := seconds[WARM_UP:]) < LEAST or (sum(timed) <= budget and len(timed) < most):
        seconds.append(_seconds(lambda: _take(trial, len(seconds))))
    return seconds


def _take(trial: _Trial, step: int) -> None:
    trial.backend.step(trial.state, trial.backend.send(trial.loader.batch(step)), step)
    hardware.synchronize(trial.backend.settled.device)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _seconds_per_scored_token(trial: _Trial, yardstick: Corpus) -> float:
    """By scoring more and more of the split until it takes long enough to tell, or is all scored."""
    split = next((name for name in ("validation", "test") if name in yardstick.manifest.splits), None)
    if split is None:
        return 0.0
    model, text, sizes = trial.backend.recipe.model, yardstick.split(split), byte_lengths(yardstick.tokenizer)
    score, device = trial.backend.scorer(trial.state).windows, trial.backend.settled.device

    def seconds_for(tokens: int) -> float:
        began = time.perf_counter()
        evaluate_loss(score, text, model.context_length, tokens, model.remembers, symbol_bytes=sizes, device=device)
        return time.perf_counter() - began

    tokens = min(len(text) - 1, tokens_at_once(device))  # so that memory, too, is that of an evaluation
    while (spent := seconds_for(tokens)) < SCORE_SECONDS and tokens < len(text) - 1:
        tokens = min(len(text) - 1, 2 * tokens)
    return spent / tokens


def _write_sample(trial: _Trial, corpus: Corpus) -> None:
    if length := trial.backend.recipe.evaluation.sample_tokens:
        for _ in write(trial.backend.model(trial.state), corpus.tokenizer, "", Settings(max_tokens=length)):
            pass


def _save(trial: _Trial) -> None:
    with tempfile.TemporaryDirectory(prefix=".measured-", dir=".") as folder:
        save_checkpoint(RunFolder(Path(folder)), trial.backend, trial.state, 0, ALONE)
