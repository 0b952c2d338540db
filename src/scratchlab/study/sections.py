"""The tables of a study file, as pydantic sections; what an arm is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from scratchlab.sections import Count, Positive, Section

Match = Literal["tokens", "flops", "seconds", "money"]
Design = Literal["paired", "stack", "screen", "sweep", "noise"]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Changes = Mapping[str, Any]
"""An intervention: dotted fields of a recipe and their new values."""

BASELINE = "baseline"
HIGHER_IS_BETTER = (
    "answers.chrf",
    "cost.training_tokens_per_second",
    *(f"{split}.accuracy" for split in ("test", "validation", "best_validation")),
)
"""Metrics of a run of which more is better, unless the study file says otherwise."""


class StudySection(Section):
    """`[study]`."""

    baseline: str
    """The recipe that everything is compared with; relative to the study file."""
    metric: str
    higher_is_better: bool = False
    smallest_effect: Positive | None = None
    """In the metric's unit. None: the larger of 0.1% of the loss and one standard deviation of the baseline."""
    looks: Annotated[tuple[Count, ...], Field(strict=False)] | None = None
    """After how many blocks the arms are judged; those that are undecided go on to the next look."""
    match: Match = "tokens"
    """What every arm is given as much of as the baseline."""
    retune: Names = ()
    """Fields that every arm tunes on the validation split before it is compared."""
    retune_trials: Annotated[int, Field(ge=3, le=99)] = 5
    """Trials of each arm, the first with the arm's own values."""
    retune_span: Annotated[float, Field(gt=1)] = 4.0
    """How many times larger, and smaller, than the arm's own the farthest values are."""
    mixed_hardware: bool = False
    """Whether the runs of a block may be on unlike hardware: it is then a covariate of the fit."""
    runs: str = "runs"
    """The folder of runs, relative to the study file. Studies that share it share their runs."""
    price: Positive | dict[str, Positive] | None = None
    """Of a device for an hour; or of each device, by a part of its name."""
    currency: str = "USD"

    @model_validator(mode="before")
    @classmethod
    def _direction(cls, given: Any) -> Any:
        known = isinstance(given, Mapping) and given.get("metric") in HIGHER_IS_BETTER
        return {"higher_is_better": True, **given} if known else given


class StackSection(Section):
    """`[stack]`: interventions that are also run together."""

    members: Names


class ScreenSection(Section):
    """`[screen]`: a resolution IV fraction of all combinations of the interventions."""


class SweepSection(Section):
    """`[sweep]`: values of one field or two, as a grid or as points."""

    grid: dict[str, list[Any]] | None = None
    points: list[dict[str, Any]] | None = None


class NoiseSection(Section):
    """`[noise]`: the baseline alone, to learn what chance does."""

    init: Count = 5
    data: Count = 5
    """The grid: so many seeds of initial weights, each with so many of the order of the data."""
    reruns: Annotated[int, Field(ge=0)] = 2
    """Exact repeats of the first cell."""
    factors: dict[str, Any] = Field(default_factory=dict)
    """Fields of `[execution]` and their values, each combination run with every seed of the grid's diagonal."""


class StudyFile(Section):
    """The tables of a study file."""

    study: StudySection
    interventions: dict[str, Any] = Field(default_factory=dict)
    stack: StackSection | None = None
    screen: ScreenSection | None = None
    sweep: SweepSection | None = None
    noise: NoiseSection | None = None


def design_of(file: StudyFile) -> Design:
    """The design that the tables of a study file ask for."""
    if file.noise is not None:
        return "noise"
    if file.sweep is not None:
        return "sweep"
    if file.screen is not None:
        return "screen"
    return "paired" if file.stack is None else "stack"


@dataclass(frozen=True, slots=True)
class Arm:
    """The baseline, or the baseline with one or more interventions."""

    name: str
    changes: Changes
    members: tuple[str, ...] = ()
    """The interventions it is made of."""
