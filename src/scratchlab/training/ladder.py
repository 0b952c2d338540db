"""The ladder: what each thing that makes a step fast is worth here, added one after another.

The first rung is a plain loop in float32: attention written out, the optimizer as PyTorch picks it, the loss on whole
logits. Each further rung adds one thing. Every rung runs in a process of its own and takes turns with the first one,
on the same weights and the same random tokens, so that both meet the same weather and their losses can be compared.
"""

import contextlib
import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from scratchlab import hardware
from scratchlab.architecture import GPTSection
from scratchlab.corpus.windows import Windows
from scratchlab.errors import RunError, ScratchlabError, UsageError
from scratchlab.model.count import parameter_count, training_flops_per_token
from scratchlab.model.loss import CHUNK_ENTRIES
from scratchlab.processes import end_with_parent
from scratchlab.recipe import Recipe
from scratchlab.training.resolve import lacks_to_compile, resolve

Record = dict[str, Any]


class NoRoomError(RunError):
    """A rung that the device has no memory for."""


LOSS_STEPS = 3  # whose losses are compared; they also warm up
TURN_SECONDS = 0.5  # a turn has as many steps as fill this
MULTIPLE = 64  # of which the padded vocabulary is one

# How far the losses of those steps may lie from those of float32, in nats.
TOLERANCE: dict[str, float] = {"float32": 1e-3, "tf32": 5e-3, "bf16": 5e-2, "fp16": 5e-2}


@dataclass(frozen=True)
class Rung:
    """One thing more than the rung before: fields of the recipe, or a part that has no field."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    fused_optimizer: bool = False
    chunked_loss: bool = False

    def upon(self, below: "Rung") -> "Rung":
        """This rung with all that lies below it."""
        return Rung(
            self.name,
            below.changes | self.changes,
            below.fused_optimizer or self.fused_optimizer,
            below.chunked_loss or self.chunked_loss,
        )


BOTTOM = Rung("float32")
FIRST: dict[str, Any] = {
    "training.precision": "float32",
    "execution.compile": False,
    "model.attention": "explicit",
    "model.vocab_multiple": 1,
}


def rungs_for(recipe: Recipe, vocab_size: int, device: str) -> tuple[list[Rung], dict[str, str]]:
    """The rungs that exist on a device for a recipe whose batch is one micro-batch, and why others are left out."""
    able, padded = hardware.precisions_of(device), -(-vocab_size // MULTIPLE) * MULTIPLE
    half = "bf16" if "bf16" in able else "fp16"
    rungs = [
        BOTTOM,
        Rung("TF32", {"training.precision": "tf32"}),
        Rung(half, {"training.precision": half}),
        Rung("compile", {"execution.compile": True}),
        Rung("fused attention", {"model.attention": "fused"}),
        Rung("padded vocabulary", {"model.vocab_multiple": MULTIPLE}),
        Rung("fused optimizer", fused_optimizer=True),
        Rung("chunked loss", chunked_loss=True),
    ]
    left_out: dict[str, str] = {}
    if "tf32" not in able:
        left_out["TF32"] = f"{device} has none"
    if lacking := lacks_to_compile(device):
        left_out["compile"] = lacking
    if padded == vocab_size:
        left_out["padded vocabulary"] = f"{vocab_size:,} symbols are a multiple of {MULTIPLE} as they are"
    if recipe.training.optimizer != "adamw":
        left_out["fused optimizer"] = f"PyTorch has no fused {recipe.training.optimizer}"
    tokens = recipe.training.global_batch_size * recipe.model.context_length
    if tokens * padded <= CHUNK_ENTRIES:
        left_out["chunked loss"] = f"the logits of {tokens:,} tokens are few enough to be made whole"
    return [rung for rung in rungs if rung.name not in left_out], left_out


def climb(recipe: Recipe, vocab_size: int, turns: int = 5, say: Callable[[str], None] = lambda text: None) -> Record:
    """Measure every rung. `UsageError` for a recipe that has no attention to write out."""
    if not isinstance(recipe.model, GPTSection) or recipe.model.attention != "fused":
        raise UsageError("A ladder is of a GPT whose model.attention is 'fused': one rung writes it out.")
    say("how much the device holds")
    plain = _bare(recipe, vocab_size)
    rungs, left_out = rungs_for(plain, vocab_size, plain.settled.device)
    upon = list(itertools.accumulate(rungs, lambda below, rung: rung.upon(below)))
    with _Climber(plain, upon[0], vocab_size) as first:
        say(rungs[0].name)
        alone = [first.turn() for _ in range(turns)]
        records = [_record(rungs[0], "float32", first, first, alone, alone)]
        for rung, whole in zip(rungs[1:], upon[1:], strict=True):
            say(rung.name)
            with _Climber(plain.replaced(whole.changes), whole, vocab_size) as climber:
                seconds, beside = _take_turns(climber, first, turns)
                precision = whole.changes.get("training.precision", "float32")
                records.append(_record(rung, precision, climber, first, seconds, beside))
                records[-1]["peak_memory_bytes"] = climber.end()
        records[0]["peak_memory_bytes"] = first.end()
    return _report(plain, recipe, vocab_size, _with_previous(records), left_out)


def _bare(recipe: Recipe, vocab_size: int) -> Recipe:
    """The first rung's recipe, resolved: one micro-batch a step, and no dropout, whose masks differ between kernels."""
    tables = recipe.replaced({"start": {}} if recipe.start.weights else {})
    dropout = {f"model.dropout{part}": None for part in ("_embedding", "_attention", "_residual", "_mlp")}
    length = {"training.steps": 10**6, "training.schedule": "constant", "training.order": "shuffled"}
    free = tables.replaced(FIRST | dropout | length | {"model.dropout": 0.0})
    windows = Windows(_Noise(vocab_size), recipe.model.context_length)
    resolved = resolve(free, vocab_size, windows, None, lambda text: None)
    found = recipe.execution.micro_batch_size == "auto" and resolved.settled.device.startswith("cuda")
    bare = _with_size(resolved, resolved.settled.micro_batch_size)
    return _sharing_the_card(bare, vocab_size) if found else bare


def _with_size(recipe: Recipe, size: int) -> Recipe:
    return recipe.replaced({"training.global_batch_size": size, "execution.micro_batch_size": size})


def _sharing_the_card(recipe: Recipe, vocab_size: int) -> Recipe:
    """With half as many sequences, again and again, until two of the first rung fit the card side by side.

    Of all rungs it takes the most, for it makes logits and attention whole, and every other takes turns with it.
    """
    size = recipe.settled.micro_batch_size
    while size > 1:
        size //= 2
        with (
            contextlib.suppress(NoRoomError),
            _Climber(_with_size(recipe, size), BOTTOM, vocab_size),
            _Climber(_with_size(recipe, size), BOTTOM, vocab_size),
        ):
            break
    return _with_size(recipe, size)


def _record(
    rung: Rung,
    precision: str,
    climber: "_Climber",
    first: "_Climber",
    seconds: Sequence[float],
    beside: Sequence[float],
) -> Record:
    """What is known of a rung, from its seconds a step and those of the first rung in the turns beside them."""
    difference = max(abs(a - b) for a, b in zip(climber.losses, first.losses, strict=True))
    logs = np.log(beside) - np.log(seconds)
    return {
        "name": rung.name,
        "changes": rung.changes,
        "seconds": float(np.median(seconds)),
        "turns": len(seconds),
        "steps_a_turn": climber.steps_a_turn,
        "first_step_seconds": climber.first_step_seconds,
        "times_first": _ratio(float(logs.mean()), _error(logs), len(logs) - 1),
        "log_ratio": float(logs.mean()),
        "log_ratio_error": _error(logs),
        "loss": climber.losses[-1],
        "loss_difference": difference,
        "tolerance": TOLERANCE[precision],
        "equal": bool(difference <= TOLERANCE[precision]),
    }


def _with_previous(records: list[Record]) -> list[Record]:
    """Each rung beside the one before, by way of the first rung that both took turns with."""
    for before, record in itertools.pairwise(records):
        error = math.hypot(before["log_ratio_error"], record["log_ratio_error"])
        ratio = record["log_ratio"] - before["log_ratio"]
        record["times_previous"] = _ratio(ratio, error, max(1, record["turns"] - 1))
    for record in records:
        del record["log_ratio"], record["log_ratio_error"]
    return records


def _error(logs: npt.NDArray[np.float64]) -> float:
    return float(logs.std(ddof=1) / math.sqrt(len(logs))) if len(logs) > 1 else math.nan


def _ratio(log: float, error: float, freedom: int) -> Record:
    """A ratio of speeds with its 95% t interval over turns (None where one turn gives none)."""
    if not math.isfinite(error):
        return {"ratio": math.exp(log), "low": None, "high": None}
    half = float(stats.t.ppf(0.975, freedom)) * error
    return {"ratio": math.exp(log), "low": math.exp(log - half), "high": math.exp(log + half)}


def _report(plain: Recipe, recipe: Recipe, vocab_size: int, rungs: list[Record], left_out: dict[str, str]) -> Record:
    settled, tokens = plain.settled, plain.training.global_batch_size * plain.model.context_length
    return {
        "environment": hardware.environment(settled.device),
        "threads": settled.threads,
        "date": time.strftime("%Y-%m-%d"),
        "shape": {
            "parameters": parameter_count(recipe.model, vocab_size),
            "vocab_size": vocab_size,
            "context_length": plain.model.context_length,
        },
        "sequences_a_step": plain.training.global_batch_size,
        "sequences_of_the_recipe": recipe.training.global_batch_size,
        "flops_per_token": training_flops_per_token(recipe.model, vocab_size),
        "rungs": [rung | {"tokens_per_second": tokens / rung["seconds"]} for rung in rungs],
        "left_out": left_out,
    }


def _take_turns(climber: "_Climber", first: "_Climber", turns: int) -> tuple[list[float], list[float]]:
    """Seconds a step of both, turn by turn; who goes first alternates."""
    seconds: dict[_Climber, list[float]] = {climber: [], first: []}
    for turn in range(turns):
        for one in (climber, first) if turn % 2 else (first, climber):
            seconds[one].append(one.turn())
    return seconds[climber], seconds[first]


class _Climber:
    """A process that trains one rung, a turn at a time, and waits in between."""

    def __init__(self, recipe: Recipe, rung: Rung, vocab_size: int) -> None:
        context = multiprocessing.get_context("forkserver")  # which loads torch once for all rungs
        context.set_forkserver_preload(["scratchlab.training.step"])
        self._pipe, theirs = context.Pipe()
        order = recipe.model_dump(), rung, vocab_size, theirs
        self._process = context.Process(target=_work, args=order, daemon=True)
        self._process.start()
        theirs.close()
        self._name = rung.name
        self.losses, self.first_step_seconds, second = self._answer()
        self.steps_a_turn: int = max(1, min(50, round(TURN_SECONDS / second)))

    def turn(self) -> float:
        """Seconds a step."""
        return self._ask(self.steps_a_turn)

    def end(self) -> int:
        """Let it end. Gives its peak memory in bytes."""
        peak = self._ask(0)
        self._process.join()
        return peak

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def __enter__(self) -> "_Climber":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def _ask(self, steps: int) -> Any:
        with contextlib.suppress(BrokenPipeError):  # a dead one gives no answer either
            self._pipe.send(steps)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            cause = f": most likely memory ran out. {SMALLER}" if code == -9 else "; what it said is above."
            raise RunError(f"The rung {self._name!r} ended with exit code {code}{cause}") from None
        if isinstance(answer, ScratchlabError):
            raise answer
        return answer


SMALLER = "Give execution.micro_batch_size=1, or a smaller model.context_length."


def _work(tables: dict[str, Any], rung: Rung, vocab_size: int, pipe: Connection) -> None:
    """What the process of a rung does: warm up, say what the losses were, then steps as they are asked for."""
    end_with_parent()
    try:
        _serve(Recipe.model_validate(tables), rung, vocab_size, pipe)
    except Exception as error:
        said = str(error).partition("\n")[0]
        if hardware.lacks_memory(error):
            pipe.send(NoRoomError(f"The rung {rung.name!r} ran out of memory ({said}). {SMALLER}"))
        else:
            pipe.send(RunError(f"The rung {rung.name!r} failed: {type(error).__name__}: {said}"))


def _serve(recipe: Recipe, rung: Rung, vocab_size: int, pipe: Connection) -> None:
    from scratchlab.model.loss import Objective, plain_cross_entropy, weighted_cross_entropy
    from scratchlab.training.optimizers import unfused
    from scratchlab.training.step import TorchBackend

    device, size = recipe.settled.device, recipe.training.global_batch_size
    windows = Windows(_Noise(vocab_size), recipe.model.context_length)
    backend = TorchBackend(recipe, vocab_size, end_of_text=0)
    state = backend.init()
    state.objective = Objective(state.model, weighted_cross_entropy if rung.chunked_loss else plain_cross_entropy)
    if recipe.settled.compile:
        state.objective.compile(dynamic=False)
    if not rung.fused_optimizer:
        state.optimizer = unfused(state.optimizer)
    done = 0

    def steps(number: int) -> tuple[float, list[float]]:
        nonlocal state, done
        batches = [backend.send(windows.batch((done + n) * size, size, 1)) for n in range(number)]
        hardware.synchronize(device)
        began, losses = time.perf_counter(), list[Any]()
        for batch in batches:
            state, metrics = backend.step(state, batch, done)
            losses.append(metrics["loss"])
            done += 1
        hardware.synchronize(device)
        return (time.perf_counter() - began) / number, [float(loss) for loss in losses]

    warm = [steps(1) for _ in range(LOSS_STEPS)]
    pipe.send(([losses[0] for _, losses in warm], warm[0][0], warm[-1][0]))
    while number := pipe.recv():
        pipe.send(steps(number)[0])
    pipe.send(hardware.peak_memory(device))


@dataclass(frozen=True)
class _Noise:
    """Random tokens, always the same: speed does not depend on which."""

    vocab_size: int

    def __len__(self) -> int:
        return 2**24

    def read(self, start: int, stop: int, /) -> npt.NDArray[np.integer]:
        return np.random.default_rng([1, start]).integers(0, self.vocab_size, stop - start)

    def expect(self, start: int, stop: int, /) -> None:
        """Nothing to fetch."""


def wrong(report: Record) -> Sequence[str]:
    """The rungs whose loss is not that of float32."""
    return [rung["name"] for rung in report["rungs"] if not rung["equal"]]
