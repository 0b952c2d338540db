"""Models side by side: every figure that was measured of each with its error, and whether the figures agree.

Loss and other scores need not rank models alike. How far they do is Spearman's rank correlation, over the models that
have both; its p-value is exact, by all orders of the ranks, for few models are compared.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scratchlab.evaluation.documents import KIND as LOSS
from scratchlab.evaluation.documents import read_loss
from scratchlab.evaluation.loss import LossResult
from scratchlab.evaluation.results import Figure, file_name, read_log, summarize
from scratchlab.evaluation.subjects import BEST
from scratchlab.model.load import At
from scratchlab.runfolder import RunFolder

MOST_ORDERS = 50_000
"""Orders of ranks that are all looked at (those of eight models); of more models so many are drawn."""
FEWEST = 3
"""Models below which two columns are not compared: two are always in order, or in the opposite one."""
LOWER_IS_BETTER = ("nats per token", "bits per byte", "tokens", "seconds")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two columns put the models in the same order, from -1 to 1, better being first in both."""

    columns: tuple[str, str]
    correlation: float
    p: float
    """How often a correlation at least so far from 0 comes of columns that have nothing to do with each other."""
    n: int


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """A row for each model: its figures by column."""

    columns: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Figure]]
    agreements: tuple[Agreement, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "models": {name: {column: _cell(cell) for column, cell in row.items()} for name, row in self.rows.items()},
            "agreements": [asdict(agreement) for agreement in self.agreements],
        }


def _cell(figure: Figure) -> dict[str, Any]:
    low, high = interval(figure) or (None, None)
    return asdict(figure) | {"low": low, "high": high}


def interval(figure: Figure) -> tuple[float, float] | None:
    """The 95% interval of a figure by Student's t; None where there is no error to give."""
    from scipy.stats import t

    if figure.error is None:
        return None
    half = float(t.ppf(0.975, figure.n - 1)) * figure.error
    return figure.value - half, figure.value + half


def scoreboard(models: Sequence[str], folder: Path, at: At = "final") -> Scoreboard:
    """What is known of each model: the results in `folder`, and of run folders what training took.

    Of a run these are the results of its final weights, or of its best ones.
    """
    rows: dict[str, dict[str, Figure]] = {}
    for model in models:
        own = at == "best" and RunFolder(Path(model)).exists()
        rows[model] = {**figures_of(folder / file_name(model + BEST * own)), **_effort(Path(model))}
    columns = tuple(dict.fromkeys(column for row in rows.values() for column in row))
    scored = [column for column in columns if column not in ("tokens", "seconds")]
    return Scoreboard(columns, rows, tuple(_agreements(rows, scored)))


def figures_of(folder: Path) -> dict[str, Figure]:
    """The figures of all whole logs of one model, by column."""
    figures: dict[str, Figure] = {}
    for path in sorted(folder.glob("*.jsonl")):
        head, records = read_log(path)
        if head.get("kind") == LOSS:
            figures |= _loss_figures(head["task"], read_loss(path)[1])
        elif len(records) == head["items"]:
            result = summarize(head, records)
            figures |= {head["task"]: result.main, f"{head['task']} bits per byte": result.bits_per_byte}
    return figures


def _loss_figures(text: str, loss: LossResult) -> dict[str, Figure]:
    nats = Figure(loss.nats_per_token, loss.nats_per_token_error, loss.n_units)
    bits = Figure(loss.bits_per_byte, loss.bits_per_byte_error, loss.n_units)
    return {f"{text}: nats per token": nats, f"{text}: bits per byte": bits}


def _effort(run: Path) -> dict[str, Figure]:
    """The tokens that a run was trained on, and the seconds that took."""
    result = RunFolder.open(run).result() if (run / "resolved.json").exists() else None
    if result is None:
        return {}
    tokens = result.get("tokens_with_lineage") or result["cost"]["tokens"]
    return {"tokens": Figure(tokens, None, 1), "seconds": Figure(result["cost"]["total_seconds"], None, 1)}


def _agreements(rows: Mapping[str, Mapping[str, Figure]], columns: Sequence[str]) -> list[Agreement]:
    found: list[Agreement] = []
    for pair in itertools.combinations(columns, 2):
        both = [row for row in rows.values() if all(column in row for column in pair)]
        if len(both) >= FEWEST:
            left, right = (np.array([_goodness(column, row[column]) for row in both]) for column in pair)
            if len(set(left)) > 1 and len(set(right)) > 1:
                found.append(Agreement(pair, *rank_correlation(left, right), len(both)))
    return found


def _goodness(column: str, figure: Figure) -> float:
    return -figure.value if column.endswith(LOWER_IS_BETTER) else figure.value


def rank_correlation(left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation of two columns that each hold two values or more, and its two-sided p-value."""
    from scipy.stats import rankdata

    a, b = (_standardized(rankdata(column)) for column in (left, right))
    found, n = float(a @ b), len(a)
    if math.factorial(n) <= MOST_ORDERS:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        orders = np.random.default_rng(1).permuted(np.tile(np.arange(n), (MOST_ORDERS, 1)), axis=1)
    chance = np.abs(b[orders] @ a) >= abs(found) - 1e-12
    drawn = math.factorial(n) > MOST_ORDERS  # then the order that was found counts as one of them
    return found, float((chance.sum() + drawn) / (len(chance) + drawn))


def _standardized(ranks: np.ndarray) -> np.ndarray:
    centered = ranks - ranks.mean()
    return centered / np.sqrt((centered**2).sum())
