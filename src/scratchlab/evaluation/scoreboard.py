"""Models side by side: every figure that was measured of each with its error, and whether the figures agree.

Loss and other scores need not rank models alike. How far they do is Spearman's rank correlation, over the models that
have both; its p-value is exact, by all orders of the ranks, for few models are compared.
"""

import itertools
import math
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scratchlab.errors import ScratchlabError
from scratchlab.evaluation.documents import KIND as LOSS
from scratchlab.evaluation.documents import read_loss
from scratchlab.evaluation.loss import LossResult
from scratchlab.evaluation.results import Figure, read_log, summarize
from scratchlab.evaluation.subjects import BEST
from scratchlab.evaluation.tasks import Record
from scratchlab.files import file_name
from scratchlab.model.load import At
from scratchlab.runfolder import RunFolder

MOST_ORDERS = 50_000
"""Orders of ranks that are all looked at (those of eight models); of more models so many are drawn."""
FEWEST = 3
"""Models below which two columns are not compared: two are always in order, or in the opposite one."""
Asked = tuple[str, int | None]
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
    notes: tuple[str, ...] = ()
    """What was left out, and why."""

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "models": {name: {column: _cell(cell) for column, cell in row.items()} for name, row in self.rows.items()},
            "agreements": [asdict(agreement) for agreement in self.agreements],
            "notes": list(self.notes),
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

    Of a run these are the results of its final weights, or of its best ones. A column is of the same items, asked in
    the same way: what was asked of other items under the same name has a column of its own. ScratchlabError for a
    model of which nothing is known.
    """
    kept = {model: _kept(model, folder, at) for model in models}
    titles = _titles([one for own in kept.values() for one in own])
    rows: dict[str, dict[str, Figure]] = {}
    notes: list[str] = []
    for model, own in kept.items():
        newest = {one.asked: one for one in own}  # the last one stays
        rows[model] = _figures(newest.values(), titles) | _effort(Path(model))
        notes += [f"{model}: {note}" for note in _notes(own, newest, titles)]
    columns = tuple(dict.fromkeys(column for row in rows.values() for column in row))
    scored = [column for column in columns if column not in ("tokens", "seconds")]
    return Scoreboard(columns, rows, tuple(_agreements(rows, scored)), tuple(notes))


# What was kept.


@dataclass(frozen=True, slots=True)
class Kept:
    """A whole log of one model."""

    path: Path
    head: Record
    figures: Mapping[str, Figure]
    """By what follows the name of the task or text in the title of a column."""
    cut: int = 0
    """Items whose beginning was cut off."""

    @property
    def asked(self) -> Asked:
        """What was asked, and the stride of windows that overlap: equal ones can be compared."""
        stride = self.head.get("stride")
        return self.head["task_sha256"], None if stride == self.head.get("window") else stride


def _kept(model: str, folder: Path, at: At) -> list[Kept]:
    """The whole logs of a model, the newest last. ScratchlabError if there is no log of it, and it is no run."""
    is_run = RunFolder(Path(model)).exists()
    name = f"{model}{BEST * (at == 'best' and is_run)}"
    own, found = folder / file_name(name), list[Kept]()
    paths = [path for path in sorted(own.glob("*.jsonl")) if _is_of(path, name)]
    if not paths and not is_run:
        raise ScratchlabError(
            f"In {folder} there are no results of {model}, and it is no run folder. Evaluate it first: "
            f"scratchlab evaluate {shlex.quote(model)} --suite NAME"
        )
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        head, records = read_log(path)
        if head.get("kind") == LOSS:
            found.append(Kept(path, head, _loss_figures(read_loss(path)[1])))
        elif len({record["item"] for record in records}) == head["items"]:
            result = summarize(head, records)
            found.append(Kept(path, head, {"": result.main, " bits per byte": result.bits_per_byte}, result.cut))
    return found


def _is_of(path: Path, name: str) -> bool:
    """Whether a log is of the model of this name: others' may be in a folder of the same one."""
    return os.path.normpath(read_log(path)[0]["model"]) == os.path.normpath(name)


def _loss_figures(loss: LossResult) -> dict[str, Figure]:
    """Bits per byte alone where the tokens are the model's own, or nothing if the loss is not finite."""
    if not math.isfinite(loss.nats_per_token):
        return {}
    nats = Figure(loss.nats_per_token, loss.nats_per_token_error, loss.n_units)
    bits = Figure(loss.bits_per_byte, loss.bits_per_byte_error, loss.n_units)
    return {": bits per byte": bits} if loss.reencoded else {": nats per token": nats, ": bits per byte": bits}


def _titles(kept: Sequence[Kept]) -> dict[Asked, str]:
    """What the columns of each are called; more of it where several would be called the same."""
    heads = {one.asked: one.head for one in kept}
    short = {asked: head["task"] + (f", stride {asked[1]}" if asked[1] else "") for asked, head in heads.items()}
    several = {title for title, times in Counter(short.values()).items() if times > 1}
    return {
        asked: f"{title} (n = {heads[asked]['items']:,}, {asked[0][:6]})" if title in several else title
        for asked, title in short.items()
    }


def _figures(kept: Iterable[Kept], titles: Mapping[Asked, str]) -> dict[str, Figure]:
    by_title = sorted(kept, key=lambda one: titles[one.asked])
    return {f"{titles[one.asked]}{what}": figure for one in by_title for what, figure in one.figures.items()}


def _notes(own: Sequence[Kept], newest: Mapping[Asked, Kept], titles: Mapping[Asked, str]) -> Iterator[str]:
    times = Counter(one.asked for one in own)
    for asked, one in newest.items():
        if times[asked] > 1:
            yield f"{titles[asked]} was evaluated several times; the newest counts, {one.path}."
        if one.cut:
            yield f"{titles[asked]} was asked without the beginnings of {one.cut:,} of {one.head['items']:,} items."
        if not one.figures:
            yield f"its loss on {titles[asked]} is not finite, and is left out."
        elif one.head.get("reencoded"):
            yield f"{titles[asked]} was encoded again: its nats per token are of other tokens, and are left out."


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
