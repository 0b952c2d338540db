"""Tasks by name, and suites of them: what suites.toml says, made into tasks from files at hand or from the Hub.

A file in one of the layouts of `items` is a task by itself, under its own name. docs/suites.md is for people.
"""

import difflib
import functools
import os
import random
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from scratchlab.corpus.sources.rows import Row, Rows, file_rows, hub_rows
from scratchlab.errors import CorpusError, UsageError
from scratchlab.evaluation.items import LAYOUTS, Item, Wording, is_laid_out, read_items
from scratchlab.evaluation.layouts import ORIGINALS
from scratchlab.evaluation.tasks import Metric, Task

BUNDLE = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
"""Where nanochat has DCLM's files: eval_data/ in it. llm-foundry's repository has them too."""

CORE = "core"
ORDER_SEED = 1337
"""Of the order in which items are taken, which is nanochat's: so a part of a task is not the file's beginning, where
items are alike, and examples are drawn for an item as there."""

Files = Mapping[str, Sequence[Path]]
"""Those of a folder and of the folders in it, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A task that has a name."""

    name: str
    files: tuple[str, ...]
    """What its file may be called; the first, with its folder, as llm-foundry and DCLM have it."""
    original: str | None
    """The key in `ORIGINALS` of rows as they were published, if such are understood."""
    hub: str | None
    """Where those rows are on the Hub."""
    wording: Wording
    metric: Metric
    chance: float | None
    """None: it follows from the numbers of candidates."""
    chance_v1: float | None
    """Of CORE: the chance by which figures were centered before September 2025."""
    items: int | None
    """Of CORE: how many there are."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A task whose items are not at hand."""

    task: str
    file: str
    """Its file, with the folder where it is in the places that `where_from` names."""
    hub: str | None
    """Where else its items can be had."""

    @classmethod
    def of(cls, definition: Definition) -> "Missing":
        return cls(definition.name, definition.files[0], definition.hub)


def where_from(missing: Sequence[Missing]) -> str:
    """What is missing, and where it can be had, for people."""
    listed = "\n".join(f"  {task.task}: {task.file}" for task in missing)
    remedy = (
        f"They are below eval_data/ in {BUNDLE} (unzip it) and below scripts/eval/local_data/ in "
        "github.com/mosaicml/llm-foundry: give the folder where they are (--data FOLDER)."
    )
    if on_hub := [task.task for task in missing if task.hub]:
        remedy += f" Without --data, {', '.join(on_hub)} can be read from the Hugging Face Hub."
    return f"No file was found for these tasks:\n{listed}\n{remedy}"


def load_task(name_or_path: str, data: Path | None = None, limit: int | None = None) -> Task:
    """A task by its name, from a file below the folder `data` or else from the Hub; or a JSON Lines file as a task.

    Items come in a fixed order that is not the file's; `limit` takes the first so many. UsageError for a name that
    means nothing, CorpusError for items that are missing or damaged.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"{name_or_path}: the number of items is {limit}; expected 1 or more.")
    definition = _find_definition(name_or_path)
    if definition is None:
        return _own_task(Path(name_or_path), limit)
    task = _load(definition, None if data is None else _files_below(data), limit)
    if isinstance(task, Missing):
        raise CorpusError(where_from([task]))
    return task


def load_suite(name: str, data: Path | None = None) -> tuple[list[Task], list[Missing]]:
    """The tasks of a suite, and those of which there is no file: `core`, or names and paths with commas between them.

    `hellaswag:500` asks 500 of a task's items, `core:100` so many of each task. CorpusError if nothing is there.
    """
    requests = list(dict.fromkeys(request for part in name.split(",") for request in _requests(part.strip())))
    found = [(_find_definition(task), task, limit) for task, limit in requests]  # mistakes, before anything is read
    files = None if data is None else _files_below(data)
    loaded = [
        _load(definition, files, limit) if definition else _own_task(Path(task), limit)
        for definition, task, limit in found
    ]
    tasks = [task for task in loaded if isinstance(task, Task)]
    missing = [task for task in loaded if isinstance(task, Missing)]
    if not tasks:
        raise CorpusError(where_from(missing))
    return tasks, missing


@functools.cache
def definitions() -> Mapping[str, Definition]:
    """All tasks that have a name; CORE's with `core_` before DCLM's own."""
    tables = _tables()
    named = [(name, table) for name, table in tables["tasks"].items()]
    core = [(f"{CORE}_{name}", table) for name, table in tables[CORE].items()]
    return {name: _definition(name, table) for name, table in [*named, *core]}


@functools.cache
def suites() -> Mapping[str, tuple[str, ...]]:
    """The names of the tasks of each suite."""
    tables = _tables()
    return {"basic": tuple(tables["basic"]), CORE: tuple(f"{CORE}_{name}" for name in tables[CORE])}


@functools.cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((resources.files("scratchlab.evaluation") / "suites.toml").read_text(encoding="utf-8"))


def _definition(name: str, table: Mapping[str, Any]) -> Definition:
    kind = table.get("kind")
    metric = table["metric"] if kind is None else "accuracy" if kind == "completion" else "accuracy_token"
    assert metric in get_args(Metric)
    return Definition(
        name=name,
        files=tuple(table["files"]),
        original=table.get("original"),
        hub=table.get("hub"),
        wording=Wording(**{field: table[field] for field in ("shots", "delimiter") if field in table}),
        metric=metric,
        chance=table.get("chance"),
        chance_v1=table.get("chance_v1", table.get("chance")),
        items=table.get("items"),
    )


# What was asked for.


def _requests(part: str) -> list[tuple[str, int | None]]:
    """`core:100`, `hellaswag` or `my/own.jsonl`, as tasks and how many items of each."""
    what, colon, number = part.rpartition(":")
    limit = int(number) if colon and number.isdecimal() else None
    if limit is None:
        what = part
    elif limit < 1:
        raise UsageError(f"{part}: expected 1 item or more.")
    return [(task, limit) for task in suites().get(what, (what,))]


def _find_definition(name: str) -> Definition | None:
    """None for a file. UsageError for what is neither a name nor a file."""
    if (found := definitions().get(name)) or Path(name).is_file():
        return found
    if name.endswith((".jsonl", ".gz")) or "/" in name:
        raise UsageError(f"There is no file {name}. Expected a task's name or a JSON Lines file of items.")
    known = [*suites(), *definitions()]
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(
        f"There is no suite or task {name!r}. {hint}There are: {', '.join(known)}; or give a file of items."
    )


# Items.


def _load(definition: Definition, files: Files | None, limit: int | None) -> Task | Missing:
    """From `files`, or from the Hub where there are none to be searched."""
    path = _find_file(definition, files or {})
    if path is None and (files is not None or definition.hub is None):
        return Missing.of(definition)
    rows, where = (hub_rows(definition.hub or ""), definition.hub) if path is None else (file_rows(path), path)
    laid_out = [(place, _laid_out(row, definition)) for place, row in rows]
    items = _items(iter(laid_out), str(where), limit)
    chance = _chance(items) if definition.chance is None else definition.chance
    return Task(definition.name, items, definition.wording, definition.metric, chance)


def _own_task(path: Path, limit: int | None) -> Task:
    """A file's items, each asked as it is written, with a space before what follows."""
    items = _items(file_rows(path), str(path), limit)
    name = path.name.removesuffix(".gz").removesuffix(".jsonl")
    return Task(name, items, Wording(), "accuracy", _chance(items))


def _items(rows: Rows, where: str, limit: int | None) -> tuple[Item, ...]:
    read = list(rows)
    try:
        items = read_items(read)
    except CorpusError as error:
        text = str(error)
        raise CorpusError(f"{where}:{chr(10) if chr(10) in text else ' '}{text}") from error
    random.Random(ORDER_SEED).shuffle(items)
    return tuple(items[:limit])


def _laid_out(row: Row | ValueError, definition: Definition) -> Row | ValueError:
    """A row as items have it, from one as it was published or from DCLM's.

    DCLM's files have white space around some texts. For CORE it stays, as nanochat leaves it; else it goes, so that a
    delimiter alone says what stands between texts.
    """
    if isinstance(row, ValueError) or definition.original is None:
        return row
    if is_laid_out(row):
        return {field: _stripped(value) for field, value in row.items()}
    original = ORIGINALS[definition.original]
    if len(row.keys() & set(original.fields)) <= max(len(row.keys() & fields) for fields in LAYOUTS):
        return row  # which lacks a field
    try:
        return original.convert(row)
    except ValueError as error:
        return ValueError(f"{error} Expected the fields {', '.join(original.fields)}.")


def _stripped(value: Any) -> Any:
    if isinstance(value, list):
        return [_stripped(entry) for entry in value]
    return value.strip() if isinstance(value, str) else value


def _chance(items: Iterable[Item]) -> float:
    """The accuracy of guessing; of writing what is to be written, none."""
    shares = [1 / len(item.continuations) if len(item.continuations) > 1 else 0.0 for item in items]
    return sum(shares) / len(shares)


# Files.


def _files_below(folder: Path) -> Files:
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}. Expected one that holds the files of the tasks.")
    found: dict[str, list[Path]] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            found.setdefault(name, []).append(Path(place, name))
    return found


def _find_file(definition: Definition, files: Files) -> Path | None:
    """The file that has the first of the definition's names. UsageError if there are two."""
    for name in (f"{file.rpartition('/')[2]}{suffix}" for file in definition.files for suffix in ("", ".gz")):
        found = sorted(files.get(name, ()))
        if len(found) > 1:
            listed = ", ".join(map(str, found))
            raise UsageError(f"{name} is there {len(found)} times: {listed}. Give a folder that holds one of them.")
        if found:
            return found[0]
    return None
