"""Which files of a dataset repository are a split of one of its configurations, by the rules that the Hub documents.

A card (README.md) may list them under `configs`, each with the patterns of its `data_files`. Without that, names
decide: `data/train-00000-of-00003.parquet`, else a folder or file with a word such as train, validation or test in its
name, else everything is the split train. The library `datasets` has the same rules; a test holds the two together.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from scratchlab.errors import CorpusError

DEFAULT = "default"
WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
NO_DATA = {
    "README.md",
    "config.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dummy_data.zip",
    "dataset_dict.json",
}
_APART = "[-._ 0-9]"
_SHARD = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*\.[^/]*")

Patterns = Mapping[str, Sequence[str]]
"""By split, patterns of file names."""


def files_of_split(card: Mapping[str, Any], paths: Iterable[str], name: str | None, split: str) -> list[str]:
    """The files of `paths` that are `split` of the configuration `name`, or of the one by default, in order.

    `card` is the metadata of README.md. CorpusError says what there is instead.
    """
    config = _configuration(card, name)
    folder = str(PurePosixPath(config.get("data_dir") or ".", "x"))[:-1]  # "" or "folder/"
    inside = sorted(path.removeprefix(folder) for path in paths if path.startswith(folder))
    splits = _listed(config["data_files"], inside) if config.get("data_files") else _by_name(inside)
    if not splits.get(split):
        raise CorpusError(f"has no split {split!r}; it has {_named(name for name in splits if splits[name])}.")
    return [folder + path for path in splits[split]]


def _configuration(card: Mapping[str, Any], name: str | None) -> Mapping[str, Any]:
    configs = {str(config.get("config_name")): config for config in _dictionaries(card.get("configs") or [])}
    if not configs:
        configs = {DEFAULT: {}}
    if name is None:
        marked = [key for key, config in configs.items() if key == DEFAULT or config.get(DEFAULT) or len(configs) == 1]
        if len(marked) != 1:
            raise CorpusError(f"has several configurations. Choose one with ?name=: {_named(configs)}.")
        name = marked[0]
    if name not in configs:
        raise CorpusError(f"has no configuration {name!r}; it has {_named(configs)}.")
    return configs[name]


def _dictionaries(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise CorpusError(f"has a README.md whose list of files cannot be read: {value!r:.100}.")
    return value


# Files that a card lists.


def _listed(data_files: Any, paths: Sequence[str]) -> dict[str, list[str]]:
    """By split, the files that the card's patterns match."""
    return {split: _matched(patterns, paths) for split, patterns in _patterns(data_files).items()}


def _patterns(data_files: Any) -> Patterns:
    """`data_files` of a card: a pattern or a list of them, which are the split train, or a list of splits and paths."""
    if isinstance(data_files, str):
        return {"train": [data_files]}
    if isinstance(data_files, list) and all(isinstance(entry, str) for entry in data_files):
        return {"train": data_files}
    entries = _dictionaries(data_files)
    paths = {str(entry.get("split")): entry.get("path") for entry in entries}
    return {split: [path] if isinstance(path, str) else list(path or ()) for split, path in paths.items()}


def _matched(patterns: Sequence[str], paths: Sequence[str]) -> list[str]:
    """The paths that fit one of the patterns, in the order of the patterns, each once."""
    from fsspec.utils import glob_translate

    found = dict[str, None]()
    for pattern in patterns:
        pattern = str(PurePosixPath(pattern))
        expression = re.compile(glob_translate(pattern))
        fitting = [path for path in paths if expression.match(path) and not _is_passed_over(path, pattern)]
        if not fitting and not re.search(r"[*?\[]", pattern):
            raise CorpusError(f"has no file {pattern}, which its README.md lists.")
        found.update(dict.fromkeys(fitting))
    return list(found)


# Files that go by their names.


def _by_name(paths: Sequence[str]) -> dict[str, list[str]]:
    """By split, the files whose names say so, by the first rule that fits any."""
    visible = [path for path in paths if not _is_passed_over(path)]
    shards: dict[str, list[str]] = {}
    for path in visible:
        if found := _SHARD.fullmatch(path):
            shards.setdefault(found[1], []).append(path)
    in_folders = {split: [path for path in visible if _in_folder(path, WORDS[split])] for split in WORDS}
    by_file = {split: [path for path in visible if _in_file_name(path, WORDS[split])] for split in WORDS}
    rules = (shards, in_folders, by_file, {"train": visible})
    return next((rule for rule in rules if any(rule.values())), {})


def _in_folder(path: str, words: Iterable[str]) -> bool:
    parents = path.split("/")[:-1]
    expression = rf"(.*{_APART})?({'|'.join(words)})({_APART}.*)?"
    return any(re.fullmatch(expression, part) for part in parents)


def _in_file_name(path: str, words: Iterable[str]) -> bool:
    return bool(re.fullmatch(rf"(.*{_APART})?({'|'.join(words)}){_APART}.*", path.rpartition("/")[2]))


def _is_passed_over(path: str, pattern: str = "") -> bool:
    """Files that hold no data, hidden ones and those in `__folders__`, unless the pattern names them as such."""
    return (
        (PurePosixPath(path).name in NO_DATA and PurePosixPath(path).name != PurePosixPath(pattern).name)
        or _count(path, ".") != _count(pattern, ".")
        or _count(path.rpartition("/")[0], "__") != _count(pattern.rpartition("/")[0], "__")
    )


def _count(path: str, start: str) -> int:
    return sum(part.startswith(start) for part in path.split("/"))


def _named(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join([*listed[:30], *["..."][: len(listed) > 30]]) or "none"
