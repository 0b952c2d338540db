"""A run, or the size of one, planned: counts, forecasts for this machine and for others, and what a budget allows."""

import importlib
from collections.abc import Callable, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import Any

from scratchlab import hardware
from scratchlab.corpus.store import Corpus
from scratchlab.devices import CURRENCY, device_table, find_device, own_table
from scratchlab.errors import CorpusError, DeviceError, TooLargeError, UsageError
from scratchlab.model.count import parameter_count, trained_count, training_flops_per_token
from scratchlab.recipe import Recipe
from scratchlab.training.chinchilla import TOKENS_PER_PARAMETER, choose_size
from scratchlab.training.data import check_data, training_sequences
from scratchlab.training.forecast import (
    Forecast,
    Splits,
    forecast_here,
    forecast_there,
    seconds_of_size,
    tried_micro_batch,
)
from scratchlab.training.lighter import memory_told
from scratchlab.training.measurements import Measurement, known_measurement
from scratchlab.training.probe import probed_micro_batch
from scratchlab.training.resolve import resolve, steps_of
from scratchlab.training.source import Source, find_source
from scratchlab.training.start import open_corpora
from scratchlab.training.timing import measure
from scratchlab.training.work import split_tokens

FLOPS_CONVENTION = (
    "2mnk a product, backward twice the forward, attention at its full square, no embeddings, no recomputation"
)


@dataclass(frozen=True, slots=True)
class Text:
    """What a plan knows of the text that a run learns from."""

    vocab_size: int
    splits: Splits
    epoch: Sized = ()
    """Its sequences; none where it is not there yet."""
    corpora: tuple[Corpus, Corpus] | None = None
    """That which trains and that which scores; None before they are built."""
    source: Source | None = None

    @staticmethod
    def of(recipe: Recipe, vocab_size: int | None) -> "Text":
        """That of the recipe's corpus; or, if its vocabulary's size is given, of one that is not there yet."""
        if vocab_size is not None:
            scored = recipe.evaluation.max_tokens
            return Text(vocab_size, {} if scored is None else {"validation": scored})
        try:
            corpus, yardstick = open_corpora(recipe)
        except CorpusError as error:
            raise CorpusError(
                f"{error}\nTo plan without it: --vocab-size 50257, or however many symbols it will have."
            ) from None
        check_data(recipe, corpus, yardstick)
        sequences, source = training_sequences(recipe, corpus), find_source(recipe, corpus)
        return Text(corpus.vocab_size, split_tokens(yardstick), sequences, (corpus, yardstick), source)


@dataclass(frozen=True, slots=True)
class Planned:
    """What a recipe comes to, and what it takes where."""

    given: Recipe
    text: Text
    steps: int
    resolved: Recipe | None
    """For this machine; None where it cannot train the recipe."""
    here: Forecast | None
    refused: str | None
    """Why this machine cannot."""
    process: int
    """Bytes of main memory that a process has before it has a model."""
    tried: int | None
    """The largest micro-batch here, where it was found by trying; 0 if none fits."""
    there: tuple[Forecast, ...]

    @property
    def tokens(self) -> int:
        return self.steps * self.given.training.global_batch_size * self.given.model.context_length

    def epochs(self, tokens: int) -> float | None:
        """Of the corpus, if that is known."""
        epoch = len(self.text.epoch) * self.given.model.context_length
        return tokens / epoch if epoch else None

    def to_json(self) -> dict[str, Any]:
        model, vocab_size = self.given.model, self.text.vocab_size
        per_token = training_flops_per_token(model, vocab_size, self.given.finetuning)
        return {
            "parameters": parameter_count(model, vocab_size),
            "trained_parameters": trained_count(model, vocab_size, self.given.finetuning),
            "vocab_size": vocab_size,
            "steps": self.steps,
            "tokens": self.tokens,
            "epochs": self.epochs(self.tokens),
            "flops_per_token": per_token,
            "flops": per_token * self.tokens,
            "flops_convention": FLOPS_CONVENTION,
            "suites": self.given.evaluation.suites,
            "scored": bool(self.text.splits),
            "probed_micro_batch": self.tried,
            "here": self.here and self.here.to_json(),
            "refused": self.refused,
            "devices": [forecast.to_json() for forecast in self.there],
        }


def plan_run(
    recipe: Recipe,
    devices: Sequence[str] | None,
    say: Callable[[str], None],
    measured: bool = False,
    probed: bool = False,
    vocab_size: int | None = None,
) -> Planned:
    """Plan a recipe for this machine and for the devices named (None: all of the table).

    With `measured`, steps are timed; with `probed`, the largest micro-batch is found by trying. A `vocab_size` stands
    in for a corpus that is not built yet. What this machine cannot do is no hindrance to planning for others.
    """
    text = Text.of(recipe, vocab_size)
    found = list(device_table().items()) if devices is None else [find_device(name) for name in devices]
    settled = recipe.replaced({"training.steps": _steps(recipe, text)})
    importlib.import_module("scratchlab.training.loop")  # what a run loads takes memory, and is to be counted
    process, resolved, tried, refused = hardware.resident_memory(), None, None, None
    try:
        resolved, tried = _resolved(settled, text, say)
    except DeviceError as error:
        if measured or probed or not found:
            raise
        refused = str(error)
    if resolved is not None and probed:
        tried = _tried(resolved, text, say)
    here = None if resolved is None else _here(resolved, text, process, tried, measured)
    there = tuple(forecast_there(settled, text.vocab_size, text.splits, name, device) for name, device in found)
    return Planned(recipe, text, settled.training.steps or 0, resolved, here, refused, process, tried, there)


def _steps(recipe: Recipe, text: Text) -> int:
    if not text.epoch and recipe.training.epochs is not None:
        raise UsageError(
            "training.epochs: how many steps that is depends on the corpus: leave --vocab-size out, or give "
            "training.tokens."
        )
    return steps_of(recipe, text.vocab_size, text.epoch)


def _resolved(recipe: Recipe, text: Text, say: Callable[[str], None]) -> tuple[Recipe, int | None]:
    """The recipe resolved for this machine, and its micro-batch if that was found by trying.

    Where not even one sequence fits, it is planned with one, to say what that takes.
    """
    try:
        resolved = resolve(recipe, text.vocab_size, text.epoch, text.source, say)
        return resolved, tried_micro_batch(recipe, resolved)
    except TooLargeError:
        one = recipe.replaced({"execution.micro_batch_size": 1})
        return resolve(one, text.vocab_size, text.epoch, text.source, say), 0


def _tried(resolved: Recipe, text: Text, say: Callable[[str], None]) -> int:
    try:
        return probed_micro_batch(resolved, text.vocab_size, say)
    except TooLargeError:
        return 0


def _here(resolved: Recipe, text: Text, process: int, tried: int | None, measured: bool) -> Forecast:
    def forecast(known: Measurement | None) -> Forecast:
        return forecast_here(resolved, text.vocab_size, text.splits, known, process, tried)

    before = forecast(known_measurement(resolved, text.vocab_size))
    return forecast(_measured(resolved, text, before)) if measured else before


def _measured(resolved: Recipe, text: Text, before: Forecast) -> Measurement:
    """`UsageError` for what cannot be measured, `DeviceError` where memory runs out; both say what to do."""
    if text.corpora is None:
        raise UsageError("--measure takes real steps, and needs the corpus for them: leave --vocab-size out.")
    if before.mode == "FSDP2":
        raise UsageError("--measure takes its steps in one process, and here each has a part of the weights alone.")
    if before.remedy and resolved.settled.device == "cpu":  # where nothing refuses what is too much
        raise UsageError(f"{before.device} cannot take a step of this recipe: {before.remedy}.")
    with memory_told(resolved):
        return measure(resolved, *text.corpora)


def choose(planned: Planned, hours: float | None, money: float | None) -> dict[str, Any]:
    """The size that so many hours, or so much money, allow on the one kind of device that is meant.

    That is the device named, or this machine if none is; there are as many of it as the recipe has processes.
    `UsageError` says what is missing.
    """
    if len(planned.there) > 1:
        raise UsageError("A budget is spent on one kind of device: name one with --device.")
    forecast = planned.there[0] if planned.there else planned.here
    base = planned.given if planned.there else planned.resolved
    assert forecast is not None
    assert base is not None
    _refuse_unknown_speed(planned, forecast)
    hours = _hours(forecast, money) if hours is None else hours
    rule = planned.given.training.tokens_per_parameter or TOKENS_PER_PARAMETER
    choice = choose_size(base, planned.text.vocab_size, rule, hours * 3600, lambda recipe: _takes(planned, recipe))
    if choice is None:
        raise UsageError(
            f"{hours:.3g} hours on {forecast.those} do not train even the smallest of this recipe's family."
        )
    return {
        "device": forecast.device,
        "devices": forecast.devices,
        "hours": hours,
        "price": forecast.price_per_hour and hours * forecast.devices * forecast.price_per_hour,
        "tokens_per_parameter": choice.tokens / choice.parameters,
        "epochs": planned.epochs(choice.tokens),
        **asdict(choice),
    }


def _refuse_unknown_speed(planned: Planned, forecast: Forecast) -> None:
    """Of the recipe's own size that a table's card does not hold, nothing is asked: a smaller one may do."""
    if forecast.tokens_per_second is not None or (planned.there and forecast.largest_micro_batch is None):
        return
    missing = "no steps were timed here yet: add --measure"
    if planned.there:
        missing = (
            f"the table has no peak of it in {forecast.precision}; give one with a file of your own, {own_table()}"
        )
    raise UsageError(f"{forecast.device}: {forecast.remedy or missing}.")


def _hours(forecast: Forecast, money: float | None) -> float:
    assert money is not None
    if not forecast.price_per_hour:
        raise UsageError(f"{forecast.device}: no price known; give one with a file of your own, {own_table()}.")
    return money / forecast.price_per_hour / forecast.devices


def _takes(planned: Planned, recipe: Recipe) -> float | None:
    """Seconds of a run of another size, on the device that is meant; None where it does not fit."""
    vocab_size, splits = planned.text.vocab_size, planned.text.splits
    if planned.there:
        name, device = find_device(planned.there[0].device)
        return forecast_there(recipe, vocab_size, splits, name, device).total_seconds
    assert planned.resolved is not None
    assert planned.here is not None
    return seconds_of_size(recipe, vocab_size, splits, planned.resolved, planned.here, planned.process)


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
