"""How long a step takes: measured on real steps of the recipe, on this machine."""

import itertools
import statistics
import time

import torch

from scratchlab.corpus.loader import Loader
from scratchlab.corpus.store import Corpus
from scratchlab.hardware import synchronize
from scratchlab.recipe import Recipe
from scratchlab.training.start import training_windows
from scratchlab.training.step import TorchBackend

WARM_UP = 2  # steps: the first ones take memory, choose kernels and compile
LEAST, MOST = 3, 30  # steps that are timed
BUDGET_SECONDS = 1.0


def seconds_per_step(recipe: Recipe, corpus: Corpus, budget: float = BUDGET_SECONDS) -> float:
    """The median time of a step of a resolved recipe, as many as fit the budget (three at least)."""
    threads = torch.get_num_threads()
    try:
        backend = TorchBackend(recipe, corpus.vocab_size, corpus.tokenizer.end_of_text)
        loader = Loader(training_windows(recipe, corpus), recipe.training.global_batch_size, recipe.seeds.data)
        state, device = backend.init(), recipe.settled.device
        seconds: list[float] = []
        for step in itertools.count():
            began = time.perf_counter()
            state, _ = backend.step(state, backend.send(loader.batch(step)), step)
            synchronize(device)
            seconds.append(time.perf_counter() - began)
            timed = seconds[WARM_UP:]
            if len(timed) >= LEAST and (sum(timed) > budget or len(timed) >= MOST):
                return statistics.median(timed)
        raise AssertionError("counting never ends")
    finally:
        torch.set_num_threads(threads)
