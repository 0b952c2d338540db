"""Charts appear whatever a run has to show."""

from pathlib import Path
from typing import Any

import pytest

from scratchlab.runfolder import RunFolder
from scratchlab.training.charts import BAND_POINTS, _gradient_norm_chart, _groups, _loss_chart, draw_charts
from tiny import tiny_recipe


def step(number: int, loss: float | None = 2.0, norm: float | None = 0.5) -> dict[str, Any]:
    skipped = norm is None
    return {"step": number, "loss": loss, "gradient_norm": norm, "skipped": skipped, "learning_rate": 0.1}


def validation(number: int, error: float | None = 0.1) -> dict[str, Any]:
    return {"step": number, "validation": {"nats_per_token": 2.0, "nats_per_token_error": error}}


RUNS = {
    "one step": [step(0), validation(1)],
    "one step and no validation": [step(0)],
    "many steps": [step(number, 3 - number / 500) for number in range(500)] + [validation(250), validation(500)],
    "losses that are null": [step(0, None, None), step(1), step(2, None, None), validation(3)],
    "no error to draw": [step(0), validation(1, None)],
    "a gradient of 0": [step(0, 2.0, 0.0), step(1)],
}


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("name", RUNS)
def test_three_pictures_appear(tmp_path: Path, name: str, clip_norm: float) -> None:
    recipe = tiny_recipe({"training.clip_norm": clip_norm})
    folder = RunFolder.create(tmp_path / "run", recipe, recipe, {}, "{}")
    folder.append_metrics(RUNS[name])
    draw_charts(folder, recipe)
    assert [path.stem for path in folder.charts()] == ["gradient_norm", "learning_rate", "loss"]
    for path in folder.charts():
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) > 5000, "more than an empty picture"


@pytest.mark.parametrize(
    ("steps", "legend"),
    [(1, "training batches"), (200, "training batches"), (500, "training batches, by 3: median, 5% to 95%")],
)
def test_the_legend_names_what_is_drawn(steps: int, legend: str) -> None:
    metrics = [step(number, 3 - number / 500) for number in range(steps)]
    figures = [_loss_chart(metrics, [], "token"), _gradient_norm_chart(metrics, 0.0)]
    for figure in figures:
        (axes,) = figure.axes
        assert axes.get_legend_handles_labels()[1] == [legend]
        assert len(axes.collections) == ("5%" in legend)  # the band


@pytest.mark.parametrize("n", [1, 200, 201, 276, 999])
def test_groups_have_as_many_steps_each(n: int) -> None:
    groups = _groups([(number, 2.0) for number in range(n)])
    assert sum(map(len, groups)) == n
    assert len(groups) <= BAND_POINTS
    assert len({len(group) for group in groups[:-1]}) <= 1
