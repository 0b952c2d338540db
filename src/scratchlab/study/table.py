"""The runs of a study as its analysis sees them: a table with one cell for each arm and block.

Anybody's numbers fit: a CSV file with the columns `arm,block,value`. A block is one triple of seeds that every arm
ran with, so that what the seeds do to all arms alike drops out of their differences.
"""

import csv
import difflib
import io
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from scratchlab.errors import UsageError
from scratchlab.files import write_atomically

Floats = npt.NDArray[np.float64]

NEEDED = ("arm", "block", "value")
ROLES = ("init", "data", "noise")
Seeds = tuple[int, int, int]
"""Of the roles, in this order."""
SEED_COLUMNS = tuple(f"seed_{role}" for role in ROLES)
AMOUNTS = ("seconds", "other_seconds", "price")
FACTOR = "factor."
"""How the columns of `Cell.factors` begin: factor.device, factor.processes."""
DIVERGED = ("diverged", "nan", "inf", "+inf", "-inf")
SHOWN = 20  # problems named in one message
LARGEST = 1e100
"""What is larger is no figure of a run, and its square is no number."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run."""

    arm: str
    block: str
    value: float | None
    """Its figure; None where it diverged, which is a result too."""
    seeds: Seeds | None = None
    """Init, data and noise; None where nobody wrote them down."""
    evaluation: str | None = None
    """Hash of the data that scored it."""
    hardware: str | None = None
    seconds: float | None = None
    """Device-seconds of training."""
    other_seconds: float | None = None
    """Device-seconds of evaluation, checkpoints and compilation."""
    price: float | None = None
    rerun: int = 0
    """The how-manieth exact rerun of the same seeds: shows what the machine does, and is no replicate."""
    factors: Mapping[str, str] = field(default_factory=dict[str, str])
    """What lies outside the mathematics: device, processes, accumulation, compile."""


@dataclass(frozen=True)
class Table:
    """The runs of a study. Lower is better unless `higher_is_better`."""

    cells: tuple[Cell, ...]
    baseline: str
    metric: str = "value"
    higher_is_better: bool = False
    mixed_hardware: bool = False
    """Arms of one block may have run on unlike hardware: it is then modeled as a covariate."""

    @cached_property
    def replicates(self) -> tuple[Cell, ...]:
        """The cells but for exact reruns, which say nothing about other seeds."""
        return tuple(cell for cell in self.cells if cell.rerun == 0)

    @cached_property
    def arms(self) -> tuple[str, ...]:
        """Their names: the baseline first, the others as they appear."""
        return tuple(dict.fromkeys([self.baseline, *(cell.arm for cell in self.replicates)]))

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """Their names in order, whatever the order of the rows: 2 comes before 10."""
        return tuple(sorted({cell.block for cell in self.replicates}, key=natural))

    @cached_property
    def by_place(self) -> dict[tuple[str, str], Cell]:
        return {(cell.arm, cell.block): cell for cell in self.replicates}

    def values(self, arm: str) -> dict[str, float | None]:
        """By block; None where it diverged."""
        return {block: self.by_place[arm, block].value for block in self.blocks if (arm, block) in self.by_place}

    def finished(self, arm: str) -> list[float]:
        return [value for value in self.values(arm).values() if value is not None]

    def grid(self) -> Floats:
        """The figures, (arms, blocks); NaN where a run is missing or diverged."""
        values = np.full((len(self.arms), len(self.blocks)), np.nan)
        rows, columns = ({name: i for i, name in enumerate(names)} for names in (self.arms, self.blocks))
        for cell in self.replicates:
            if cell.value is not None:
                values[rows[cell.arm], columns[cell.block]] = cell.value
        return values

    def missing(self) -> list[tuple[str, str]]:
        """The (arm, block) of which there is no run."""
        return [(arm, block) for arm in self.arms for block in self.blocks if (arm, block) not in self.by_place]

    def first(self, blocks: int) -> "Table":
        """The table as it was when it had so many blocks."""
        early = set(self.blocks[:blocks])
        return replace(self, cells=tuple(cell for cell in self.cells if cell.block in early))


def natural(name: str) -> list[tuple[int, str]]:
    """A key by which "block 2" sorts before "block 10"."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


# Reading.


def read_table(
    path: Path,
    baseline: str,
    higher_is_better: bool = False,
    mixed_hardware: bool = False,
    metric: str | None = None,
) -> Table:
    """Read a CSV file with the columns arm, block and value; `metric` names another column to take as the value.

    Further columns that mean something: seed_init, seed_data, seed_noise, evaluation, hardware, seconds,
    other_seconds, price, rerun, factor.NAME. Lines that begin with # are comments. A value that is empty is a run that
    is not there (yet); nan, inf and "diverged" are a run that diverged. UsageError tells all problems at once, by line.
    """
    lines, cells, problems = read_cells(path, metric or "value")
    problems += [(lines[place], problem) for place, problem in find_problems(cells, mixed_hardware)]
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    if cells and baseline not in arms:
        problems.append((0, f"there is no arm named {baseline!r}{_suggest(baseline, arms)}"))
    refuse(path, problems)
    return Table(tuple(cells), baseline, metric or "value", higher_is_better, mixed_hardware)


def read_noise(path: Path, baseline: str | None = None) -> list[float]:
    """Figures of baseline runs with fresh seeds, from a CSV file with the column `value` and perhaps arm and block.

    Of several arms `baseline` is taken. UsageError for fewer than two runs, and for runs that share their seeds.
    """
    _, rows = _rows(path, ("value",))
    blocks = {"block": "", "arm": baseline or "baseline"}
    filled = [(line, {**blocks, "block": f"row {line}", **row}) for line, row in rows]
    lines, cells, problems = _cells(filled, "value")
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    if len(arms) > 1 and baseline not in arms:
        problems.append((0, f"it has the arms {listed(arms)}, and none is the baseline {baseline!r}"))
    wanted = [i for i, cell in enumerate(cells) if len(arms) == 1 or cell.arm == baseline]
    lines, cells = [lines[i] for i in wanted], [cells[i] for i in wanted]
    problems += [(lines[place], problem) for place, problem in find_problems(cells, mixed_hardware=True)]
    refuse(path, problems)
    values = [cell.value for cell in cells if cell.value is not None and cell.rerun == 0]
    if len(values) < 2:
        raise UsageError(f"{path}: noise takes two finished runs of the baseline at least, and there is {len(values)}.")
    return values


Problem = tuple[int, str]
"""The line it is in (0: none), and what is wrong."""


def read_cells(path: Path, metric: str) -> tuple[list[int], list[Cell], list[Problem]]:
    """The rows of a table as cells, the line of each, and what cannot be read."""
    header, rows = _rows(path, ("arm", "block", metric))
    if not rows:
        raise UsageError(f"{path}: there is no row under the header {','.join(header)}.")
    return _cells(rows, metric)


def _rows(path: Path, needed: Sequence[str]) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header and the rows with their lines, comments and empty lines left out."""
    if not path.is_file():
        raise UsageError(f"{path}: there is no such table.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: it is not text in UTF-8 ({error.reason}). Save it as CSV, UTF-8.") from None
    kept = [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.startswith("#")]
    separator = _separator(kept[0][1], needed) if kept else ","
    rows = list(csv.reader([line for _, line in kept], delimiter=separator, skipinitialspace=True))
    if not rows:
        raise UsageError(f"{path}: it is empty. Expected: a line {','.join(needed)}, then a row a run.")
    header = [name.strip() for name in rows[0]]
    absent = [name for name in needed if name not in header]
    if absent:
        hints = [f"{name!r}{_suggest(name, header)}" for name in absent]
        raise UsageError(
            f"{path}: line {kept[0][0]} should name the columns {', '.join(needed)}; "
            f"there is no {', no '.join(hints)}. It has: {', '.join(header)}."
        )
    ragged = [
        (line, f"it has {len(row)} fields, and the header {len(header)}{_comma_hint(text, len(row) > len(header))}")
        for (line, text), row in zip(kept[1:], rows[1:], strict=True)
        if len(row) != len(header)
    ]
    refuse(path, ragged)
    return header, [
        (line, dict(zip(header, (part.strip() for part in row), strict=True)))
        for (line, _), row in zip(kept[1:], rows[1:], strict=True)
    ]


def _separator(header: str, needed: Sequence[str]) -> str:
    """A comma; or the semicolon or the tab by which spreadsheets of much of the world part the columns' names."""
    return max(",;\t", key=lambda one: sum(name.strip() in needed for name in header.split(one)))


def _comma_hint(text: str, likely: bool = True) -> str:
    comma = likely and re.search(r"\d,\d", text)
    return " (a decimal comma? write the decimal point as a point)" if comma else ""


def _cells(rows: list[tuple[int, dict[str, str]]], metric: str) -> tuple[list[int], list[Cell], list[Problem]]:
    lines: list[int] = []
    cells: list[Cell] = []
    problems: list[Problem] = []
    for line, row in rows:
        try:
            cell = _cell(row, metric)
        except ValueError as error:
            problems.append((line, str(error)))
            continue
        if cell is not None:
            lines.append(line)
            cells.append(cell)
    return lines, cells, problems


def _cell(row: dict[str, str], metric: str) -> Cell | None:
    """None where the value is empty: no such run. ValueError says what cannot be read."""
    unnamed = [name for name in ("arm", "block") if not row[name]]
    if unnamed:
        raise ValueError(f"its {unnamed[0]} is empty")
    if not row[metric]:
        return None
    return Cell(
        arm=row["arm"],
        block=row["block"],
        value=_value(row[metric], metric),
        seeds=_seeds(row),
        evaluation=row.get("evaluation") or None,
        hardware=row.get("hardware") or None,
        rerun=_integer(row.get("rerun") or "0", "rerun"),
        factors={name.removeprefix(FACTOR): text for name, text in row.items() if name.startswith(FACTOR) and text},
        **{name: _number(row[name], name) for name in AMOUNTS if row.get(name)},
    )


def _value(text: str, metric: str) -> float | None:
    return None if text.lower() in DIVERGED else _number(text, metric, ", or nan for a run that diverged")


def _number(text: str, name: str, otherwise: str = "") -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name} should be a number{otherwise}, not {text!r}{_comma_hint(text)}")
    if abs(value) > LARGEST:
        raise ValueError(f"{name} is {text}: no figure of a run is so large, and none above {LARGEST:g} is compared")
    return value


def _integer(text: str, name: str) -> int:
    if not re.fullmatch(r"\d+", text):
        raise ValueError(f"{name} should be a whole number, not {text!r}")
    return int(text)


def _seeds(row: dict[str, str]) -> Seeds | None:
    given = [name for name in SEED_COLUMNS if row.get(name)]
    if given and len(given) < len(SEED_COLUMNS):
        absent = [name for name in SEED_COLUMNS if name not in given]
        raise ValueError(f"it has {', '.join(given)} and no {', '.join(absent)}: give all three seeds, or none")
    return cast(Seeds, tuple(_integer(row[name], name) for name in SEED_COLUMNS)) if given else None


# What cannot be judged.


def find_problems(cells: Sequence[Cell], mixed_hardware: bool = False) -> list[tuple[int, str]]:
    """What forbids a verdict on these runs: the place of the offending cell, and what is wrong with it."""
    problems = [
        *_twice(cells),
        *_shared_seeds(cells),
        *_crossed(cells),
        *_unlike_seeds(cells),
        *_other_evaluation(cells),
    ]
    return problems if mixed_hardware else [*problems, *_mixed_hardware(cells)]


def check_table(table: Table) -> None:
    """UsageError, with all of them, if there are runs in the table that forbid a verdict."""
    found = find_problems(table.cells, table.mixed_hardware)
    named = [f"{table.cells[i].arm}, block {table.cells[i].block}: {problem}" for i, problem in found]
    if table.baseline not in {cell.arm for cell in table.cells}:
        named.append(f"there is no run of the baseline {table.baseline!r}")
    _refuse(named, "The runs cannot be compared")


def _twice(cells: Sequence[Cell]) -> Iterator[tuple[int, str]]:
    """A run is known by arm, block and rerun; in a noise study by what it ran on as well."""
    seen: set[tuple[object, ...]] = set()
    for i, cell in enumerate(cells):
        key = (cell.arm, cell.block, cell.rerun, *sorted(cell.factors.items()))
        if key in seen:
            text = (
                f"arm {cell.arm!r} has block {cell.block!r} twice. Each run needs a block of its own (fresh seeds); "
                "delete one, or name an exact repeat by a column rerun"
            )
            yield i, text
        seen.add(key)


def _shared_seeds(cells: Sequence[Cell]) -> Iterator[tuple[int, str]]:
    """Repeats of one seed triple show what the machine does, not what other seeds would."""
    seen: dict[tuple[object, ...], Cell] = {}
    for i, cell in enumerate(cells):
        if cell.seeds is None or cell.rerun or cell.factors:
            continue
        twin = seen.setdefault((cell.arm, cell.seeds), cell)
        if twin is not cell and twin.block != cell.block:
            text = (
                f"block {cell.block!r} of {cell.arm!r} has the seeds of block {twin.block!r} "
                f"({_seed_words(cell.seeds)}). A repeat is no replicate: run it with other seeds, or leave it out"
            )
            yield i, text


def _crossed(cells: Sequence[Cell]) -> Iterator[tuple[int, str]]:
    """Runs of a grid of seeds are not independent: 16 of them taken as 16 pairs made p = .024 of what was .22."""
    by_arm: dict[str, dict[Seeds, int]] = {}
    for i, cell in enumerate(cells):
        if cell.seeds is not None and not cell.rerun:
            by_arm.setdefault(cell.arm, {}).setdefault(cell.seeds, i)
    for arm, places in by_arm.items():
        for role, column in zip(ROLES, zip(*places, strict=True), strict=True):
            if 1 < len(set(column)) < len(column):
                text = (
                    f"runs of {arm!r} share {role} seeds in part ({len(set(column))} of them in {len(column)} runs). "
                    "Such runs are not independent replicates: keep those whose seeds are all fresh"
                )
                yield min(places.values()), text


def _unlike_seeds(cells: Sequence[Cell]) -> Iterator[tuple[int, str]]:
    """Arms of one block share its seeds: that is what a block is."""
    first: dict[str, Cell] = {}
    for i, cell in enumerate(cells):
        if cell.seeds is None:
            continue
        other = first.setdefault(cell.block, cell)
        if other.seeds is not None and other.seeds != cell.seeds:
            text = (
                f"block {cell.block!r} has other seeds here ({_seed_words(cell.seeds)}) than for {other.arm!r} "
                f"({_seed_words(other.seeds)}). All arms of a block run with the same seeds; name the blocks apart"
            )
            yield i, text


def _seed_words(seeds: Seeds) -> str:
    return ", ".join(f"{role} {seed}" for role, seed in zip(ROLES, seeds, strict=True))


def _other_evaluation(cells: Sequence[Cell]) -> Iterator[tuple[int, str]]:
    """Figures on other data are of another metric."""
    known = Counter(cell.evaluation for cell in cells if cell.evaluation is not None)
    usual = known.most_common(1)[0][0] if known else None
    for i, cell in enumerate(cells):
        if cell.evaluation is not None and cell.evaluation != usual:
            text = (
                f"{cell.arm!r} was scored on other data ({cell.evaluation[:12]}) than most runs "
                f"({str(usual)[:12]}). Score all runs on one split (evaluation.corpus), or leave this one out"
            )
            yield i, text


def _mixed_hardware(cells: Sequence[Cell]) -> Iterator[tuple[int, str]]:
    """Where arms of a block ran on unlike machines, the machine may be the difference."""
    first: dict[str, Cell] = {}
    for i, cell in enumerate(cells):
        if cell.hardware is None or "device" in cell.factors:
            continue
        other = first.setdefault(cell.block, cell)
        if other.hardware != cell.hardware:
            text = (
                f"block {cell.block!r} ran on {cell.hardware} here and on {other.hardware} for {other.arm!r}. Run all "
                "arms of a block on like hardware, or say --mixed-hardware (of a study: mixed_hardware = true): it is "
                "then modeled as a covariate"
            )
            yield i, text


def refuse(path: Path, problems: Sequence[Problem]) -> None:
    """UsageError with all problems of a file, by line, if there are any."""
    _refuse([f"line {line}: {text}" if line else text for line, text in sorted(problems)], f"{path} cannot be judged")


def _refuse(problems: Sequence[str], what: str) -> None:
    if problems:
        more = [f"and {len(problems) - SHOWN:,} more"] if len(problems) > SHOWN else []
        raise UsageError("\n  ".join([f"{what}:", *(f"{problem}." for problem in problems[:SHOWN]), *more]))


def _suggest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else f"; there is {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: the first few, and how many more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# Writing.


def write_table(table: Table, path: Path) -> None:
    """Write a table as `read_table` reads it; columns of which nothing is known are left out."""
    rows = [_row(cell, table.metric) for cell in table.cells]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    order = ["arm", "block", table.metric]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*order, *(name for name in columns if name not in order)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _row(cell: Cell, metric: str) -> dict[str, str]:
    seeds = {} if cell.seeds is None else dict(zip(SEED_COLUMNS, map(str, cell.seeds), strict=True))
    amounts = {name: getattr(cell, name) for name in ("evaluation", "hardware", *AMOUNTS)}
    return {
        "arm": cell.arm,
        "block": cell.block,
        metric: "diverged" if cell.value is None else repr(cell.value),
        **seeds,
        **{name: str(value) for name, value in amounts.items() if value is not None},
        **({"rerun": str(cell.rerun)} if cell.rerun else {}),
        **{FACTOR + name: value for name, value in cell.factors.items()},
    }
