"""The charts of a run, as PNG files: loss, learning rate, gradient norm."""

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from scratchlab.architecture import GPTSection
from scratchlab.files import write_atomically
from scratchlab.recipe import Recipe
from scratchlab.runfolder import Record, RunFolder
from scratchlab.training.summary import step_records, validation_records

if TYPE_CHECKING:  # of the processes of a run one alone draws, and at its end
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BAND_POINTS = 200  # at most: a longer run is drawn by groups of as many steps each, their median between 5% and 95%

Floats = npt.NDArray[np.float64]


def draw_charts(folder: RunFolder, recipe: Recipe) -> None:
    """Draw what the run's metrics say into its charts folder."""
    metrics = folder.metrics()
    steps = step_records(metrics)
    charts = {
        "loss": _loss_chart(steps, validation_records(metrics), _unit(recipe, steps)),
        "learning_rate": _learning_rate_chart(steps),
        "gradient_norm": _gradient_norm_chart(steps, recipe.training.clip_norm),
    }
    for name, figure in charts.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=150)
        write_atomically(folder.chart(name), picture.getvalue())


def _unit(recipe: Recipe, steps: Sequence[Record]) -> str:
    """What the loss of a step is a mean over."""
    if isinstance(recipe.model, GPTSection) and recipe.model.labels is not None:
        return "text"
    return "pair" if any("margin" in record for record in steps) else "token"


def _loss_chart(steps: Sequence[Record], validations: Sequence[Record], of: str) -> "Figure":
    figure, axes = _axes(f"loss (nats per {of})")
    _draw_band(axes, steps, "loss", "training batches")
    unit = "loss" if any("loss" in record["validation"] for record in validations) else "nats_per_token"
    if of == "pair" and unit != "loss":  # instructions that a run of pairs is scored by: in another unit
        validations = []
    validations = [record for record in validations if record["validation"][unit] is not None]
    losses = [record["validation"] for record in validations]
    if validations:
        axes.errorbar(
            [record["step"] for record in validations],
            [loss[unit] for loss in losses],
            [loss[f"{unit}_error"] or 0.0 for loss in losses],
            fmt="o-",
            color="tab:orange",
            capsize=3,
            label="validation, with standard error",
        )
    # The first steps fall from ln(vocabulary) and would flatten all that is worth seeing.
    shown = [r["loss"] for r in steps[len(steps) // 50 :] if r["loss"] is not None]
    shown += [loss[unit] for loss in losses]
    if shown:
        low, high = min(shown), max(shown)
        axes.set_ylim(low - 0.05 * (high - low) - 0.01, high + 0.05 * (high - low) + 0.01)
    _legend(axes)
    return figure


def _learning_rate_chart(steps: Sequence[Record]) -> "Figure":
    figure, axes = _axes("learning rate")
    axes.plot([record["step"] for record in steps], [record["learning_rate"] for record in steps])
    axes.set_ylim(bottom=0)
    return figure


def _gradient_norm_chart(steps: Sequence[Record], clip_norm: float) -> "Figure":
    figure, axes = _axes("global gradient norm, before clipping")
    _draw_band(axes, steps, "gradient_norm", "training batches")
    if clip_norm:
        axes.axhline(clip_norm, color="tab:red", linestyle="--", label=f"clipped above {clip_norm:g}")
    axes.set_yscale("log")
    _legend(axes)
    return figure


def _axes(ylabel: str) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes: Any = figure.subplots()
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    return figure, axes


def _legend(axes: "Axes") -> None:
    if axes.get_legend_handles_labels()[0]:  # a run without a single finite loss has nothing to name
        axes.legend()


def _groups(known: Sequence[tuple[int, float]]) -> list[Floats]:
    """Of as many steps each, but for the last: a band that changes its width says something of the run."""
    size = math.ceil(len(known) / BAND_POINTS)
    return [np.array(known[start : start + size]) for start in range(0, len(known), size)]


def _draw_band(axes: "Axes", steps: Sequence[Record], name: str, label: str) -> None:
    known = [(record["step"], record[name]) for record in steps if record[name] is not None]
    if not known:
        return
    groups = _groups(known)
    centers = [group[:, 0].mean() for group in groups]
    low, middle, high = (np.array([np.quantile(group[:, 1], q) for group in groups]) for q in (0.05, 0.5, 0.95))
    if (size := len(groups[0])) > 1:  # of single steps there is no band, and none is named
        axes.fill_between(centers, low, high, alpha=0.3, linewidth=0)
        label += f", by {size:,}: median, 5% to 95%"
    axes.plot(centers, middle, label=label)
