"""The layout of a run folder. The only module that knows its file names.

recipe.toml      the recipe as it was given
resolved.json    the recipe with every `auto` settled: what the run is a function of
manifest.json    fingerprint, seeds, hashes, environment, command
metrics.jsonl    a record a step: losses, gradient norm, learning rate (a function of the recipe, to the bit)
meters.jsonl     time, tokens/s, MFU, memory (not a function of the recipe)
samples.jsonl    what the model wrote along the way
answers.jsonl    what it answered at its end to questions of the test split, if it was asked
checkpoints/     the full state of the last two saves
snapshots/       weights alone: the best, and some on the way
reference/       of a run that learns from pairs: how the model it began from told their answers apart
tokenizer.json   the corpus's, so that the run needs nothing else to write
chat_template.jinja   the corpus's too, where that is of examples: how the run is spoken to
charts/          PNG files
gallery.html     what the model wrote at which loss, once it was asked for; gallery.md the same
test_units.json  the final loss on the test split by document: what errors of differences between runs are made from
result.json      the final figures; it is there when the run is finished
"""

import difflib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import orjson

from scratchlab.errors import RunBusyError, RunError
from scratchlab.files import (
    disk_errors,
    folder_in_one_piece,
    pretty_json,
    sha256_of_file,
    sha256_of_json,
    write_atomically,
)
from scratchlab.recipe import Recipe, recipe_from
from scratchlab.recipe_files import load_recipe

FORMAT_VERSION = 1
KEPT_CHECKPOINTS = 2
BASE = "base"  # the snapshot of the weights that a run of adapters leaves as they are

Record = dict[str, Any]
WriteTensors = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder at `path`. Making the object touches nothing on disk."""

    path: Path

    @classmethod
    def create(
        cls,
        path: str | Path,
        recipe: Recipe,
        resolved: Recipe,
        manifest: Record,
        tokenizer: str,
        begin: tuple[WriteTensors, Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        base: WriteTensors | None = None,
    ) -> "RunFolder":
        """Make a new run folder in one piece. `RunError` if something is there already.

        `begin` is the state before the first step (tensors, and what else a checkpoint holds), where the run does not
        begin from fresh weights; `chat_template` is how it is spoken to, if it is; `base` are the weights that stay as
        they are, where the run trains adapters beside them: no checkpoint holds them then.
        """
        folder = cls(Path(path))
        folder.refuse_existing()
        with folder_in_one_piece(folder.path, "the run folder") as partial:
            write_atomically(partial / "recipe.toml", recipe.to_toml())
            write_atomically(partial / "resolved.json", pretty_json(resolved.model_dump()))
            write_atomically(partial / "manifest.json", pretty_json({"format_version": FORMAT_VERSION, **manifest}))
            write_atomically(partial / "tokenizer.json", tokenizer)
            if chat_template is not None:
                write_atomically(partial / "chat_template.jinja", chat_template)
            if base is not None:
                cls(partial).save_snapshot(BASE, 0, base)
            if begin is not None:
                cls(partial).save_checkpoint(0, *begin)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """An existing run folder. `RunError` if there is none at `path` or it is of a later format."""
        folder = cls(Path(path))
        if not folder.exists():
            raise RunError(f"{path} is not a run folder{_near_runs(folder.path)}.")
        version = folder.manifest().get("format_version")
        if version != FORMAT_VERSION:
            raise RunError(f"{path}: format version {version!r}; this scratchlab reads version {FORMAT_VERSION}.")
        return folder

    def refuse_existing(self) -> None:
        """`RunError` if there is something already where a new run is to be."""
        if self.path.exists():
            hint = f" To go on with it: scratchlab train --resume {self.path}." if self.exists() else ""
            raise RunError(f"{self.path} exists already; a new run needs a folder of its own.{hint}")

    def exists(self) -> bool:
        """Whether a run is there: a corpus has a manifest too, but no resolved recipe."""
        return all((self.path / name).is_file() for name in ("manifest.json", "resolved.json"))

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the run for writing. `RunBusyError` if another process does; the lock dies with its process."""
        lock = filelock.FileLock(self.path / ".lock")
        with disk_errors(self.path, "the lock of the run"):
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise RunBusyError(f"{self.path} is being written by another process; wait for it or end it.") from None
        try:
            yield
        finally:
            lock.release()

    # What it is.

    def recipe(self) -> Recipe:
        """The recipe as it was given."""
        return load_recipe(self.path / "recipe.toml")

    def resolved(self) -> Recipe:
        """The recipe with every `auto` settled."""
        path = self.path / "resolved.json"
        return recipe_from(_read_json(path), where=str(path))

    def manifest(self) -> Record:
        return _read_json(self.path / "manifest.json")

    @property
    def tokenizer_path(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def chat_template_path(self) -> Path:
        """Not there in a run that was taught no conversations."""
        return self.path / "chat_template.jinja"

    def learned(self) -> Record:
        """Its corpus, by path and hash (None where none was recorded), and what that holds: text, instructions, pairs
        or labels."""
        manifest, kind = self.manifest(), "text"
        if "labels" in manifest:
            kind = "labels"
        elif "train" in manifest.get("examples", {}):  # without it, examples score the run alone
            kind = "pairs" if self.has_reference() else "instructions"
        return {"corpus": manifest.get("corpus"), "learned_from": kind}

    # How it goes.

    def append_metrics(self, records: Iterable[Mapping[str, Any]]) -> None:
        _append_lines(self.path / "metrics.jsonl", records)

    def metrics(self) -> list[Record]:
        """The records of every step so far, in order; a torn last line is dropped."""
        return _read_lines(self.path / "metrics.jsonl")

    def append_meters(self, record: Mapping[str, Any]) -> None:
        _append_lines(self.path / "meters.jsonl", [record])

    def meters(self) -> list[Record]:
        return _read_lines(self.path / "meters.jsonl", needed=False)

    def append_sample(self, record: Mapping[str, Any]) -> None:
        _append_lines(self.path / "samples.jsonl", [record])

    def samples(self) -> list[Record]:
        return _read_lines(self.path / "samples.jsonl")

    def rewind(self, step: int) -> None:
        """Go back to `step`, the last good checkpoint's: what was written later is dropped, for it is written again."""
        (self.path / "result.json").unlink(missing_ok=True)  # of a finished run whose last checkpoint was damaged
        for name in ("metrics.jsonl", "samples.jsonl", "meters.jsonl"):
            path = self.path / name
            if path.exists():
                lines = _read_lines(path, needed=name != "meters.jsonl")
                kept = [record for record in lines if record["step"] < step or name == "meters.jsonl"]
                write_atomically(path, "".join(_line(record) for record in kept))
        for later in self.checkpoint_steps():
            if later > step:  # damaged, or the run would go on from there: it must not count among those that are kept
                shutil.rmtree(self._checkpoint(later), ignore_errors=True)
        for folder in (self.path, self.path / "checkpoints", self.path / "snapshots"):
            for leftover in folder.glob(".*.*"):  # of something written when the process was killed
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    # What it keeps.

    def save_checkpoint(self, step: int, write_tensors: WriteTensors, state: Mapping[str, Any]) -> None:
        """Keep the full state at `step`, in one piece and hashed; then let go of all but the last two."""
        _save(self._checkpoint(step), f"the checkpoint of step {step}", write_tensors, {"step": step, **state})
        for old in self.checkpoint_steps()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(self._checkpoint(old), ignore_errors=True)

    def checkpoint_steps(self) -> list[int]:
        """The steps of the checkpoints that are there, good or not, in order."""
        return _steps(self.path / "checkpoints")

    def checkpoint(self, step: int) -> tuple[Path, Record]:
        """The tensor file and the state of one checkpoint. `RunError` names what is damaged."""
        return _open_saved(self._checkpoint(step))

    def last_good_checkpoint(self) -> tuple[tuple[Path, Record] | None, list[str]]:
        """The newest checkpoint whose hash holds (None if there is none), and what is wrong with the newer ones."""
        problems: list[str] = []
        for step in reversed(self.checkpoint_steps()):
            try:
                return self.checkpoint(step), problems
            except RunError as error:
                problems.append(str(error))
        return None, problems

    def save_snapshot(self, name: str, step: int, write_tensors: WriteTensors) -> None:
        """Keep weights alone, hashed, as the snapshot `name`; one of that name makes way."""
        _save(self.path / "snapshots" / name, f"the snapshot {name}", write_tensors, {"step": step})

    def snapshot(self, name: str) -> tuple[Path, Record]:
        """The tensor file of a snapshot and its step. `RunError` if it is missing or damaged."""
        if not self.has_snapshot(name):
            raise RunError(f"{self.path} has no {name} snapshot.")
        return _open_saved(self.path / "snapshots" / name)

    def weight_files(self, path: Path) -> tuple[Path, ...]:
        """Where all weights of a checkpoint or snapshot at `path` are: in that file, after that of the frozen ones, if
        it holds adapters alone. `RunError` if those are damaged."""
        return (self.snapshot(BASE)[0], path) if self.has_snapshot(BASE) else (path,)

    def weights_sha256(self, state: Mapping[str, Any]) -> str:
        """What the weights of a checkpoint or snapshot are known by, given its record: its hash, with that of the
        frozen ones, if it holds adapters alone."""
        own: str = state["sha256"]
        return sha256_of_json([self.snapshot(BASE)[1]["sha256"], own]) if self.has_snapshot(BASE) else own

    def snapshot_steps(self) -> list[int]:
        """The steps of the snapshots that were kept on the way, in order: `step_name` gives the name of each."""
        return _steps(self.path / "snapshots")

    def has_snapshot(self, name: str) -> bool:
        return (self.path / "snapshots" / name).is_dir()

    def save_reference(self, write_tensors: WriteTensors) -> None:
        """Keep what is known of pairs by the weights before the first step, hashed."""
        _save(self.path / "reference", "the reference", write_tensors, {})

    def has_reference(self) -> bool:
        return (self.path / "reference").is_dir()

    def reference(self) -> Path:
        """Its tensor file. `RunError` if it is missing or damaged."""
        return _open_saved(self.path / "reference")[0]

    def chart(self, name: str) -> Path:
        return self.path / "charts" / f"{name}.png"

    def charts(self) -> list[Path]:
        return sorted(self.path.glob("charts/*.png"))

    @property
    def gallery_path(self) -> Path:
        return self.path / "gallery.html"

    # How it ended.

    def save_answers(self, records: Iterable[Mapping[str, Any]]) -> None:
        write_atomically(self.path / "answers.jsonl", "".join(map(_line, records)))

    def answers(self) -> list[Record]:
        """What it answered to questions of the test split, in their order."""
        return _read_lines(self.path / "answers.jsonl")

    def save_test_units(self, losses: Mapping[str, Any]) -> None:
        write_atomically(self.path / "test_units.json", json.dumps(losses, allow_nan=False))

    def test_units(self) -> Record | None:
        """The loss on the test split, unit by unit; None for runs that are not finished, diverged, or are older."""
        path = self.path / "test_units.json"
        return _read_json(path) if path.is_file() else None

    def finish(self, result: Mapping[str, Any]) -> None:
        write_atomically(self.path / "result.json", pretty_json(result))

    def result(self) -> Record | None:
        """The final figures, or None while the run is not finished."""
        path = self.path / "result.json"
        return _read_json(path) if path.is_file() else None

    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def delete(self) -> None:
        """Remove the folder and all in it. `RunError` if another process is writing it."""
        if self.path.is_symlink():
            raise RunError(f"{self.path} is a link; delete what it points to: {self.path.resolve()}.")
        with self.locked():
            shutil.rmtree(self.path)

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / step_name(step)


def step_name(step: int) -> str:
    """What a checkpoint or a snapshot of `step` is called."""
    return f"step-{step:08d}"


def find_runs(folder: str | Path) -> list[RunFolder]:
    """The run folders directly inside `folder`, by name."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: there is no such folder.")
    found = [RunFolder(path.parent) for path in sorted(folder.glob("*/manifest.json"))]
    return [run for run in found if run.exists() and not run.path.name.startswith(".")]


def _steps(folder: Path) -> list[int]:
    found = (re.fullmatch(r"step-(\d{8,})", path.name) for path in folder.glob("*"))
    return sorted(int(match[1]) for match in found if match)


def _save(path: Path, what: str, write_tensors: WriteTensors, state: Mapping[str, Any]) -> None:
    with folder_in_one_piece(path, what, replace=True) as partial:
        write_tensors(partial / "tensors.safetensors")
        digest = sha256_of_file(partial / "tensors.safetensors")
        content = {"format_version": FORMAT_VERSION, "sha256": digest, **state}
        content["state_sha256"] = sha256_of_json(content)
        (partial / "state.json").write_text(pretty_json(content), encoding="utf-8")


def _open_saved(path: Path) -> tuple[Path, Record]:
    tensors = path / "tensors.safetensors"
    state = _read_json(path / "state.json")
    if state.pop("state_sha256", None) != sha256_of_json(state):
        raise RunError(f"{path / 'state.json'} is damaged: it is not what its own hash says.")
    if not tensors.is_file():
        raise RunError(f"{tensors} is missing.")
    if sha256_of_file(tensors) != state["sha256"]:
        raise RunError(f"{tensors} is damaged: its SHA-256 is not the one in {path / 'state.json'}.")
    return tensors, state


def _read_json(path: Path) -> Record:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged: {error}.") from None


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with disk_errors(path, path.name), path.open("a", encoding="utf-8") as file:
        file.write("".join(_line(record) for record in records))
        file.flush()
        os.fsync(file.fileno())


def _read_lines(path: Path, needed: bool = True) -> list[Record]:
    """The records of a log. A damaged line is an error, or is left out of a log that nothing depends on."""
    if not path.exists():
        return []
    whole, _, _torn = path.read_bytes().rpartition(b"\n")
    if (at_once := _all_at_once(whole)) is not None:
        return at_once
    records: list[Record] = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError:
            if needed:
                raise RunError(f"{path}, line {number}: damaged, not a JSON record.") from None
    return records


def _all_at_once(lines: bytes) -> list[Record] | None:
    """Twelve times as fast as line by line; None where a line is no record of its own, which the slow way can name."""
    try:
        records: list[Record] = orjson.loads(b"[%b]" % lines.replace(b"\n", b","))
    except orjson.JSONDecodeError:
        return None
    return records if len(records) == lines.count(b"\n") + 1 else None


def _near_runs(path: Path) -> str:
    siblings = [folder.parent.name for folder in sorted(path.parent.glob("*/resolved.json"))]
    near = difflib.get_close_matches(path.name, siblings, n=1) or siblings[:3]
    return f" (there is {', '.join(str(path.parent / name) for name in near)})" if near else ""
