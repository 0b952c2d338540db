"""Which files are a split: what the library `datasets` answers for the same folder, for many layouts."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scratchlab.corpus.sources.hub_splits import files_of_split
from scratchlab.errors import CorpusError

CONFIGS = {
    "configs": [
        {"config_name": "small", "data_files": "small/*.parquet"},
        {
            "config_name": "large",
            "default": True,
            "data_files": [
                {"split": "train", "path": ["large/b*", "./large/a.parquet", "large/b0.parquet"]},
                {"split": "held_out", "path": "large/**/c.parquet"},
                {"split": "none", "path": "nothing/*"},
            ],
        },
        {"config_name": "folder", "data_dir": "folder"},
        {"config_name": "inside", "data_dir": "folder", "data_files": ["*.parquet", "train/_*"]},
        {"config_name": "hidden", "data_files": [".hidden/*", "__special__/*"]},
        {"config_name": "named", "data_files": "named/config.json"},
        {"config_name": "unnamed", "data_files": "named/*"},
    ]
}
OF_CONFIGS = [
    *("small/1.parquet", "small/0.parquet", "small/more/2.parquet", "large/a.parquet", "large/b1.parquet"),
    *("large/b0.parquet", "large/c.parquet", "large/deep/er/c.parquet", "folder/train/x.parquet", "folder/t.parquet"),
    *("folder/test/y.parquet", "folder/train/_z.parquet", ".hidden/h.parquet", "__special__/s.parquet", ".h.parquet"),
    *("named/config.json", "named/x.parquet"),
]
PARTS = [
    "train",
    "training",
    "test",
    "my-test",
    "eval.x",
    "dev_1",
    "valid",
    "data",
    "contest",
    "trained",
    "__x__",
    ".git",
]
NAMES = [
    *("train.parquet", "a.parquet", "test-1.parquet", "validation 2.parquet", "x_val.parquet", "latest.parquet"),
    *("train-00000-of-00002.parquet", "extra-00001-of-00002-ab.parquet", "README.md", "config.json", ".train.parquet"),
]


def by_datasets(folder: Path, name: str | None) -> dict[str, list[str]]:
    """What `datasets` finds in a folder, by split."""
    datasets = pytest.importorskip("datasets", reason="the reference of the rules")
    files = datasets.load_dataset_builder(str(folder), name, cache_dir=str(folder / ".cache")).config.data_files
    inside = {
        split: [str(Path(path).relative_to(folder.resolve())) for path in paths] for split, paths in files.items()
    }
    return {split: list(dict.fromkeys(paths)) for split, paths in inside.items() if paths}


def by_us(card: dict[str, Any], paths: list[str], name: str | None, splits: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for split in splits:
        try:
            found[split] = files_of_split(card, paths, name, split)
        except CorpusError:
            continue
    return found


def make(folder: Path, paths: list[str], card: str = "") -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    if card:
        (folder / "README.md").write_text(card)


@pytest.mark.parametrize("name", [None, "small", "large", "folder", "inside", "hidden", "named", "unnamed"])
def test_the_files_that_a_card_lists_are_those_that_datasets_reads(name, tmp_path):
    import yaml

    make(tmp_path, OF_CONFIGS, f"---\n{yaml.safe_dump(CONFIGS)}---\n")
    expected = by_datasets(tmp_path, name)
    assert expected
    assert by_us(CONFIGS, OF_CONFIGS, name, ["train", "held_out", "none", "test", "validation"]) == expected


@given(st.data())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_files_that_go_by_their_names_are_those_that_datasets_reads(tmp_path_factory, data):
    parents = st.just("data") | st.lists(st.sampled_from(PARTS), max_size=2).map("/".join)
    path = st.tuples(parents, st.sampled_from(NAMES)).map(lambda pair: "/".join(filter(None, pair)))
    paths = data.draw(st.lists(path, min_size=1, max_size=5, unique=True))
    folder = tmp_path_factory.mktemp("layout")
    make(folder, paths)
    try:
        expected = by_datasets(folder, None)
    except FileNotFoundError:
        expected = {}
    found = by_us({}, paths, None, ["train", "validation", "test", "extra"])
    readable = {split: [path for path in files if path.endswith(".parquet")] for split, files in found.items()}
    assert {split: sorted(files) for split, files in readable.items() if files} == {
        split: sorted(files) for split, files in expected.items()
    }


def test_the_only_configuration_need_not_be_named():
    card = {"configs": [{"config_name": "only", "data_files": "a/*"}]}
    assert files_of_split(card, ["a/1.parquet", "b/2.parquet"], None, "train") == ["a/1.parquet"]
