"""A run, or the size of one, planned: counts, forecasts for this machine and for others, and what a budget allows."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scratchlab import hardware
from scratchlab.corpus.store import Corpus
from scratchlab.devices import CURRENCY, device_table, find_device, own_table
from scratchlab.errors import UsageError
from scratchlab.model.count import parameter_count, training_flops_per_token
from scratchlab.recipe import Recipe
from scratchlab.training.chinchilla import choose_size
from scratchlab.training.data import check_data, training_sequences
from scratchlab.training.forecast import Forecast, forecast_here, forecast_there, seconds_of_size
from scratchlab.training.measurements import known_measurement
from scratchlab.training.probe import probed_micro_batch
from scratchlab.training.resolve import resolve
from scratchlab.training.source import find_source
from scratchlab.training.start import open_corpora
from scratchlab.training.timing import measure

FLOPS_CONVENTION = (
    "2mnk a product, backward twice the forward, attention at its full square, no embeddings, no recomputation"
)


@dataclass(frozen=True, slots=True)
class Planned:
    """What a recipe comes to, and what it takes where."""

    recipe: Recipe
    """Resolved for this machine."""
    precision: str
    """As the recipe was given: `auto` is another on another device."""
    yardstick: Corpus
    vocab_size: int
    epochs: float
    probed: int | None
    """The largest micro-batch, where it was found by trying."""
    here: Forecast
    there: tuple[Forecast, ...]

    @property
    def tokens(self) -> int:
        return self.recipe.settled.steps * self.recipe.training.global_batch_size * self.recipe.model.context_length

    def to_json(self) -> dict[str, Any]:
        per_token = training_flops_per_token(self.recipe.model, self.vocab_size)
        return {
            "parameters": parameter_count(self.recipe.model, self.vocab_size),
            "vocab_size": self.vocab_size,
            "steps": self.recipe.settled.steps,
            "tokens": self.tokens,
            "epochs": self.epochs,
            "flops_per_token": per_token,
            "flops": per_token * self.tokens,
            "flops_convention": FLOPS_CONVENTION,
            "suites": self.recipe.evaluation.suites,
            "probed_micro_batch": self.probed,
            "here": self.here.to_json(),
            "devices": [forecast.to_json() for forecast in self.there],
        }


def plan_run(
    recipe: Recipe,
    devices: Sequence[str] | None,
    say: Callable[[str], None],
    measured: bool = False,
    probed: bool = False,
) -> Planned:
    """Plan a recipe for this machine and for the devices named (None: all of the table).

    With `measured`, steps are timed; with `probed`, the largest micro-batch is found by trying.
    """
    corpus, yardstick = open_corpora(recipe)
    check_data(recipe, corpus, yardstick)
    sequences, vocab_size = training_sequences(recipe, corpus), corpus.vocab_size
    resolved = resolve(recipe, vocab_size, sequences, find_source(recipe, corpus), say)
    found = device_table().items() if devices is None else [find_device(name) for name in devices]
    elsewhere = resolved.replaced({"training.precision": recipe.training.precision})
    taken = resolved.settled.steps * recipe.training.global_batch_size
    return Planned(
        recipe=resolved,
        precision=recipe.training.precision,
        yardstick=yardstick,
        vocab_size=vocab_size,
        epochs=taken / len(sequences),
        probed=probed_micro_batch(resolved, vocab_size) if probed else None,
        here=_here(resolved, corpus, yardstick, measured),
        there=tuple(forecast_there(elsewhere, vocab_size, yardstick, name, device) for name, device in found),
    )


def _here(resolved: Recipe, corpus: Corpus, yardstick: Corpus, measured: bool) -> Forecast:
    importlib.import_module("scratchlab.training.loop")  # what a run loads takes memory, and is to be counted
    process, vocab_size = hardware.resident_memory(), corpus.vocab_size
    before = forecast_here(resolved, vocab_size, yardstick, known_measurement(resolved, vocab_size), process)
    if not measured:
        return before
    if before.largest_micro_batch is None:
        raise UsageError(f"{before.device} cannot take a step of this recipe: {before.remedy}.")
    return forecast_here(resolved, vocab_size, yardstick, measure(resolved, corpus, yardstick), process)


def choose(planned: Planned, hours: float | None, money: float | None) -> dict[str, Any]:
    """The size that so many hours, or so much money, allow on the one device that is meant.

    That is the device named, or this machine if none is. `UsageError` says what is missing.
    """
    if len(planned.there) > 1:
        raise UsageError("A budget is spent on one device: name one with --device.")
    forecast = planned.there[0] if planned.there else planned.here
    if money is not None:
        if not forecast.price_per_hour:
            raise UsageError(f"{forecast.device}: no price known; give one with a file of your own, {own_table()}.")
        hours = money / forecast.price_per_hour
    assert hours is not None
    if forecast.seconds is None:
        raise UsageError(f"{forecast.device}: its time rests on {forecast.basis}. {forecast.remedy or ''}".strip())
    choice = choose_size(planned.recipe, planned.vocab_size, hours * 3600, lambda recipe: _takes(planned, recipe))
    if choice is None:
        raise UsageError(f"{hours:.3g} hours on {forecast.device} do not even train one layer of this recipe's family.")
    rule = choice.tokens / choice.parameters
    return {"device": forecast.device, "hours": hours, "tokens_per_parameter": rule, **asdict(choice)}


def _takes(planned: Planned, recipe: Recipe) -> float | None:
    """Seconds of a run of another size, on the device that is meant."""
    if not planned.there:
        return seconds_of_size(recipe, planned.vocab_size, planned.yardstick, planned.recipe, planned.here)
    name, device = find_device(planned.there[0].device)
    wanted = recipe.replaced({"training.precision": planned.precision})
    return forecast_there(wanted, planned.vocab_size, planned.yardstick, name, device).total_seconds


def parse_budget(text: str) -> float:
    """`35usd`, `$35` or `35` in dollars. `UsageError` for anything else."""
    number = text.strip().lower().removesuffix(CURRENCY).removeprefix("$").strip()
    try:
        amount = float(number)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise UsageError(f"--budget {text!r}: a budget is an amount in US dollars, such as 35usd.")
    return amount
