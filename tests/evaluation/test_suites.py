"""Suites: tasks by name from files or a Hub of this machine, and what is said of items that are missing or damaged."""

import gzip
import io
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from hub_server import Hub, point_client_at, serve
from scratchlab.corpus.sources import remote
from scratchlab.errors import CorpusError, ScratchlabError, UsageError
from scratchlab.evaluation.items import Item, Wording, worded
from scratchlab.evaluation.layouts import ORIGINALS
from scratchlab.evaluation.suites import definitions, load_suite, load_task, suites, where_from

PIQA = [{"query": f"Question: How {n}?\n", "choices": [f"Wax {n}.", f"Ice {n}. "], "gold": n % 2} for n in range(20)]
LAMBADA = [{"context": f"She opened the {n}", "continuation": "door"} for n in range(3)]


def lines(rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)  # pyright: ignore[reportGeneralTypeIssues]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """As the evaluation bundle has it, a compressed file and one that lies flat."""
    folder = tmp_path / "data"
    write(folder / "eval_data/commonsense_reasoning/piqa.jsonl", lines(PIQA))
    write(folder / "lambada_openai.jsonl.gz", gzip.compress(lines(LAMBADA)))
    return folder


def message(error: type[ScratchlabError], name: str, data: Path | None = None) -> str:
    with pytest.raises(error) as caught:
        load_suite(name, data)
    return str(caught.value)


# By name.


def test_a_task_is_found_below_the_folder(data):
    task = load_task("piqa", data)
    assert (task.name, len(task.items), task.metric, task.chance) == ("piqa", 20, "accuracy_norm", 0.5)
    third = next(item for item in task.items if item.number == 3)
    assert third == Item(3, ("Question: How 2?",) * 2, ("Wax 2.", "Ice 2."), 0)  # without the space around them
    place = task.items.index(third)
    assert worded(task.items, place, task.wording).contexts[0] == "Question: How 2?\nAnswer: "


def test_for_core_texts_stay_as_they_are(data):
    task = load_task("core_piqa", data)
    assert (task.wording.shots, task.metric) == (10, "accuracy_token")
    assert {item.contexts[0] for item in task.items} == {row["query"] for row in PIQA}
    assert worded(task.items, 0, task.wording).contexts[0].count("?\n\nAnswer: ") == 11


def test_a_compressed_file_is_read(data):
    task = load_task("lambada", data)
    assert {item.continuations for item in task.items} == {("door",)}
    assert (task.chance, task.metric) == (0.0, "accuracy")


def test_items_come_in_the_order_in_which_nanochat_takes_them(data):
    order = list(range(1, 21))
    random.Random(1337).shuffle(order)
    assert [item.number for item in load_task("piqa", data).items] == order
    assert [item.number for item in load_task("piqa", data, limit=7).items] == order[:7]
    assert len(load_task("piqa", data, limit=999).items) == 20
    with pytest.raises(UsageError, match="the number of items is 0; expected 1 or more"):
        load_task("piqa", data, limit=0)


def test_rows_as_they_were_published_are_read_from_a_file_too(tmp_path):
    row = {"ind": 0, "activity_label": "Roofs", "ctx": "A man sits. he", "label": 1, "endings": ["a", "b", "c", "d"]}
    write(tmp_path / "hellaswag_val.jsonl", lines([row]))
    assert load_task("hellaswag", tmp_path).items == (Item(1, ("Roofs: A man sits. he",) * 4, tuple("abcd"), 1),)


def test_the_file_that_is_named_first_is_taken(tmp_path):
    row = {"query": "Roofs: He", "choices": ["a", "b"], "gold": 0}
    write(tmp_path / "hellaswag_val.jsonl", b"not looked at")
    write(tmp_path / "deep/hellaswag.jsonl", lines([row]))
    assert load_task("hellaswag", tmp_path).items[0].contexts[0] == "Roofs: He"


def test_two_files_of_one_name_are_not_chosen_between(data):
    write(data / "old/piqa.jsonl", lines(PIQA))
    found = message(UsageError, "piqa", data)
    assert found.startswith("piqa.jsonl is there 2 times: ")
    assert "old/piqa.jsonl" in found


# A file of one's own.


def test_a_file_is_a_task_under_its_own_name(tmp_path):
    rows = [{"query": " q", "choices": ["a", "b "], "gold": 1}, {"query": "r", "choices": list("abcd"), "gold": 0}]
    path = write(tmp_path / "my.own.jsonl.gz", gzip.compress(lines(rows)))
    task = load_task(str(path))
    assert (task.name, task.wording, task.chance) == ("my.own", Wording(), (1 / 2 + 1 / 4) / 2)
    assert Item(1, (" q", " q"), ("a", "b "), 1) in task.items  # as it is written


def test_what_cannot_be_read_is_told_by_line_and_item(tmp_path):
    good = json.dumps(PIQA[0])
    broken = [good, "", '{"query": "a"', "[1]", '{"query": "a", "choices": ["b", "c"]}', '{"query": "\udcff"}']
    path = write(tmp_path / "own.jsonl", "\n".join(broken).encode("utf-8", "surrogateescape"))
    with pytest.raises(CorpusError) as caught:
        load_task(str(path))
    assert str(caught.value).splitlines() == [
        f"{path}:",
        "line 3 (item 2): it is not JSON: Expecting ',' delimiter at character 15.",
        "line 4 (item 3): expected a JSON object in each row, not [1].",
        "line 5 (item 4): gold is missing. Expected the fields choices, gold, query; or context_options, continuation, "
        "gold; or context, continuation.",
        "line 6 (item 5): it is not UTF-8 at byte 12.",
    ]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"", "there is no item in it."),
        (b'{"a": ' + b"[" * 100_000, "line 1 (item 1): it cannot be read as JSON: "),
        (b'\xef\xbb\xbf{"context": "a", "continuation": 1}', "line 1 (item 1): continuation: expected a text, not 1."),
    ],
)
def test_a_file_without_items_is_named(tmp_path, lines, expected):
    path = write(tmp_path / "own.jsonl", lines)
    assert message(CorpusError, str(path)).startswith(f"{path}: {expected}")


def test_a_file_that_was_cut_off_is_named(tmp_path):
    path = write(tmp_path / "own.jsonl.gz", gzip.compress(lines(PIQA))[:-9])
    assert message(CorpusError, str(path)).startswith(f"{path} cannot be unpacked")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"goal": "a", "sol1": "b", "sol2": "c"},
            "label: expected a number, not None. Expected the fields goal, sol1, sol2, label.",
        ),
        ({"query": "a", "gold": 0}, "choices is missing. Expected the fields choices, gold, query; or"),
    ],
)
def test_a_row_of_a_known_set_is_told_the_fields_it_seems_to_want(tmp_path, row, expected):
    path = write(tmp_path / "piqa.jsonl", lines([row]))
    assert message(CorpusError, "piqa", tmp_path).startswith(f"{path}: line 1 (item 1): {expected}")


# Suites.


def test_a_suite_is_names_files_and_numbers_of_items(data):
    tasks, missing = load_suite(f"piqa:5, lambada,{data}/eval_data/commonsense_reasoning/piqa.jsonl,copa,piqa:5", data)
    assert [(task.name, len(task.items)) for task in tasks] == [("piqa", 5), ("lambada", 3), ("piqa", 20)]
    assert [task.task for task in missing] == ["copa"]


def test_core_has_the_tasks_that_are_there_and_says_where_the_others_are(data):
    tasks, missing = load_suite("core:12", data)
    assert [(task.name, len(task.items)) for task in tasks] == [("core_piqa", 12), ("core_lambada_openai", 3)]
    assert len(missing) == 20
    text = where_from(missing)
    assert "\n  core_squad: reading_comprehension/squad.jsonl\n" in text
    assert "eval_bundle.zip" in text
    assert "Hugging Face" not in text  # rows there are others than those of CORE


def test_nothing_at_all_is_an_error(tmp_path, data):
    assert message(CorpusError, "arc_easy", data).endswith("arc_easy can be read from the Hugging Face Hub.")
    assert "core_squad" in message(CorpusError, "core_squad")
    with pytest.raises(CorpusError, match="No file was found for these tasks"):
        load_task("core_squad", data)
    assert "There is no folder" in message(UsageError, "piqa", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("helaswag", "There is no suite or task 'helaswag'. Did you mean hellaswag"),
        ("piqa,", "There is no suite or task ''. There are: basic, core, hellaswag"),
        ("piqa:0", "piqa:0: expected 1 item or more."),
        ("piqa:few", "There is no suite or task 'piqa:few'. Did you mean piqa"),
        ("own.jsonl", "There is no file own.jsonl. Expected a task's name or"),
        ("evals/own", "There is no file evals/own."),
    ],
)
def test_what_means_nothing_is_told_before_anything_is_read(data, name, expected):
    write(data / "lambada_openai.jsonl", b"damaged")
    assert message(UsageError, f"lambada,{name}", data).startswith(expected)


# What suites.toml says.


def test_the_definitions_are_whole():
    found = definitions()
    assert {definition.original for definition in found.values()} - {None} == ORIGINALS.keys()
    assert all((definition.hub is None) == name.startswith("core_") for name, definition in found.items())
    assert all(name in found for suite in suites().values() for name in suite)
    assert all(definition.files[0].count("/") == 1 for definition in found.values())


def test_the_page_of_suites_says_the_same(tmp_path):
    page = (Path(__file__).parents[2] / "docs/suites.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\|" + r" ([^|]*) \|" * 5 + "$", page, re.MULTILINE)
    rows = {name.strip("`"): cells for name, *cells in tables if name.startswith("`core_")}
    assert list(rows) == list(suites()["core"])
    for name, (file, items, shots, chance) in rows.items():
        found = definitions()[name]
        assert (file, int(items.replace(",", ""))) == (found.files[0], found.items)
        old = "" if found.chance_v1 == found.chance else f" (v1: {found.chance_v1:g})".replace(" 0", " ")
        assert (int(shots), chance) == (found.wording.shots, f"{found.chance:g}".lstrip("0").rjust(1, "0") + old)
    for name, found in definitions().items():
        if not name.startswith("core_"):
            files = ", ".join(file.rpartition("/")[2] for file in found.files)
            repository = str(found.hub).removeprefix("hf:").partition("?")[0]
            assert re.search(rf"\| `{name}` \| {files} \| {repository}, .*\| {found.metric} \|", page), name
    for number, block in enumerate(re.findall(r"```json\n(.*?)```", page, re.DOTALL)):
        assert len(load_task(str(write(tmp_path / f"{number}.jsonl", block.encode()))).items) == 1


# The Hub.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    remote._size.cache_clear()  # pyright: ignore[reportPrivateUsage]
    with serve() as hub:
        point_client_at(hub, tmp_path / "home", monkeypatch)
        yield hub


def table(rows: list[dict[str, object]]) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


ARC = [
    {
        "id": f"{n}",
        "question": f"What {n}?",
        "choices": {"text": ["a", "b", "c"], "label": list("ABC")},
        "answerKey": "C",
    }
    for n in range(4)
]


def test_a_task_is_read_from_the_hub(hub):
    files = {f"ARC-Easy/test-0000{n}-of-00002.parquet": table(ARC[2 * n : 2 * n + 2]) for n in range(2)}
    files["ARC-Easy/train-00000-of-00001.parquet"] = table(ARC)
    card = "---\nconfigs:\n- config_name: ARC-Easy\n  data_files:\n" + "".join(
        f"  - {{split: {split}, path: ARC-Easy/{split}-*}}\n" for split in ("train", "test")
    )
    hub.dataset("allenai/ai2_arc", {"README.md": f"{card}---\n", **files})
    task = load_task("arc_easy")
    assert sorted(item.contexts[0] for item in task.items) == [f"Question: What {n}?" for n in range(4)]
    assert {item.gold for item in task.items} == {2}
    assert task.chance == pytest.approx(1 / 3)
    assert not hub.answered("GET", "train-")


def test_json_lines_on_the_hub_are_read_too(hub):
    rows = [{"text": f"It was {n} o'clock"} for n in range(3)]
    card = "---\nconfigs:\n- config_name: default\n  data_files: [{split: test, path: data/en.jsonl}]\n---\n"
    hub.dataset("EleutherAI/lambada_openai", {"README.md": card, "data/en.jsonl": lines(rows)})
    assert {item.contexts[0] for item in load_task("lambada").items} == {f"It was {n}" for n in range(3)}


def test_with_a_folder_of_data_the_hub_is_not_asked(hub, data):
    assert "arc_easy" in message(CorpusError, "arc_easy", data)
    assert hub.asked == []


def test_what_is_wrong_on_the_hub_is_named(hub):
    with pytest.raises(CorpusError, match="There is no dataset hf:baber/piqa"):
        load_task("piqa")
    rows = [{"goal": "a", "sol1": "b", "sol2": "c", "label": label} for label in (1, -1)]
    hub.dataset("baber/piqa", {"validation.parquet": table(rows)})
    expected = r"^hf:baber/piqa.*: validation.parquet, row 2 \(item 2\): gold: expected a number from 0 to 1, not -1"
    with pytest.raises(CorpusError, match=expected):
        load_task("piqa")
