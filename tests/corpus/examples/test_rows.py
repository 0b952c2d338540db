"""Examples out of files: whatever the layout, the same conversations; and all mistakes of a file at once."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub_server import Hub, point_client_at, serve
from lessons import write_lines
from scratchlab.corpus.examples.rows import (
    Conversation,
    Labeled,
    gather_conversations,
    gather_labeled,
    gather_pairs,
    read_conversations,
)
from scratchlab.errors import CorpusError, UsageError

ASKED: dict[str, Any] = {"role": "user", "content": "Name a color.\n\n### Input:\na warm one"}
ANSWERED: dict[str, Any] = {"role": "assistant", "content": "Red."}
LAYOUTS: dict[str, dict[str, Any]] = {
    "alpaca": {"instruction": "Name a color.", "input": "a warm one", "output": "Red."},
    "messages": {"messages": [ASKED, {**ANSWERED, "name": "not read"}]},
    "sharegpt": {
        "conversations": [{"from": "human", "value": ASKED["content"]}, {"from": "gpt", "value": "Red."}],
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", ["list", "lines", "gzip"])
def test_the_same_conversation_whatever_the_layout(tmp_path: Path, layout: str, form: str) -> None:
    row, path = LAYOUTS[layout], tmp_path / ("data.json" if form == "list" else "data.jsonl")
    if form == "list":
        path.write_text("\ufeff \n" + json.dumps([row, row], indent=2), encoding="utf-8")
    else:
        write_lines(path, [row, row])
    if form == "gzip":
        packed = tmp_path / "data.jsonl.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        path = packed
    found = read_conversations(path)
    assert found == [Conversation((ASKED, ANSWERED), "1"), Conversation((ASKED, ANSWERED), "2")]
    assert found[0].reference == "Red."
    assert found[0].prompt == (ASKED,)


def test_without_an_input_the_instruction_is_all_that_is_said(tmp_path: Path) -> None:
    rows = [{"instruction": "Go.", "input": blank, "output": "Yes."} for blank in ("", "  ", None)]
    found = read_conversations(write_lines(tmp_path / "a.jsonl", [*rows, {"instruction": "Go.", "output": "Yes."}]))
    assert {one.prompt[0]["content"] for one in found} == {"Go."}


def test_what_is_only_asked_has_no_reference(tmp_path: Path) -> None:
    found = read_conversations(write_lines(tmp_path / "a.jsonl", [{"instruction": "Go."}, {"messages": [ASKED]}]))
    assert [one.reference for one in found] == [None, None]
    assert found[1].prompt == (ASKED,)


def test_examples_are_called_by_their_ids_or_else_by_their_places(tmp_path: Path) -> None:
    rows = [{"id": name, "instruction": "Go.", "output": "Yes."} for name in ("x", 7)]
    assert [one.id for one in read_conversations(write_lines(tmp_path / "a.jsonl", rows))] == ["x", "7"]
    for others in ([rows[0], rows[0]], [rows[0], {"instruction": "Go."}]):
        assert [one.id for one in read_conversations(write_lines(tmp_path / "b.jsonl", others))] == ["1", "2"]


def complaint(path: str) -> str:
    with pytest.raises(CorpusError) as caught:
        read_conversations(path)
    return str(caught.value)


def test_all_that_is_wrong_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    rows = [
        {"question": "?", "answer": "!"},
        {"instruction": "Go.", "output": 3},
        {"instruction": "", "input": " ", "output": "x"},
        {"messages": [ASKED, ASKED]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"conversations": [{"from": "martian", "value": "x"}]},
        {"conversations": "x"},
        LAYOUTS["alpaca"],
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{not json\n[1]\n", encoding="utf-8")
    message = complaint(str(path))
    assert message.startswith(f"{path}: 9 problems")
    for words in (
        "line 1: expected instruction, input and output (Alpaca), messages",
        "it has question, answer",
        "line 2: output: expected text, not 3",
        "line 3: its instruction is empty",
        "line 4: messages: user and assistant must take turns",
        "line 5: messages[0]: expected a role",
        "line 6: messages[0]: expected a role",
        "line 7: conversations: expected a list",
        "line 9: it is not JSON",
        "line 10: expected a JSON object in each row, not [1]",
    ):
        assert words in message
    path.write_text(json.dumps([3, LAYOUTS["alpaca"]]), encoding="utf-8")
    assert "item 1: expected a JSON object" in complaint(str(path))
    path.write_text(json.dumps([{"a": 1}] * 30), encoding="utf-8")
    assert complaint(str(path)).endswith("and 10 more")


def test_a_file_that_is_no_list_and_one_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text('[{"instruction": "a"', encoding="utf-8")
    torn = complaint(str(tmp_path / "torn.json"))
    assert "torn.json begins as a JSON list, and cannot be read: it is not JSON" in torn
    (tmp_path / "empty.json").write_text("", encoding="utf-8")
    assert "empty.json holds no examples" in complaint(str(tmp_path / "empty.json"))
    assert "gone.json: there is no such file" in complaint(str(tmp_path / "gone.json"))


# Labels.

SPAM = [('Win a "prize" now', "spam"), ("Lunch, at one?", "ham")]
TABLES = {
    "sms.tsv": 'spam\tWin a "prize" now\nham\tLunch, at one?\n',
    "SMSSpamCollection": 'spam\tWin a "prize" now\r\nham\tLunch, at one?\r\n',
    "headed.tsv": 'Text\tid\tLabel\nWin a "prize" now\t1\tspam\n\nLunch, at one?\t2\tham\n',
    "sms.csv": 'Label,Text\nspam,"Win a ""prize"" now"\nham,"Lunch, at one?"\n',
    "sms.jsonl": "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in SPAM),
}


@pytest.mark.parametrize("name", TABLES)
def test_labels_come_in_tables_and_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(TABLES[name].encode())
    found = gather_labeled(path).examples
    assert [(one.text, one.label) for one in found] == SPAM
    assert {type(one) for one in found} == {Labeled}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "a,b\n1,2\n", "its first line must name the columns text and label; it has a, b"),
        ("a.csv", "text,label\none\n", "line 2: it has 1 fields, and the header 2"),
        ("a.tsv", "ham\tone\nno tab\n", "line 2: expected label and text with a tab between them, not 'no tab'"),
        ("a.jsonl", '{"text": "x"}\n', "line 1: expected text and label; it has text"),
        ("a.jsonl", '{"text": 3, "label": 1}\n', "line 1: text: expected text, not 3"),
        ("gone.csv", None, "there is no such file"),
    ],
)
def test_what_is_no_label_is_told(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError) as caught:
        gather_labeled(tmp_path / name)
    assert words in str(caught.value)


# Pairs.


def test_pairs_are_texts_or_messages(tmp_path: Path) -> None:
    prompt, chosen, rejected = [{"role": "user", "content": "Hi"}], "Hello!", "What?"
    said = [[{"role": "assistant", "content": text}] for text in (chosen, rejected)]
    rows = [
        {"prompt": "Hi", "chosen": chosen, "rejected": rejected},
        {"prompt": prompt, "chosen": said[0], "rejected": said[1]},
        {"prompt": "Hi", "chosen": prompt + said[0], "rejected": prompt + said[1]},
    ]
    found = gather_pairs(write_lines(tmp_path / "a.jsonl", rows)).examples
    assert {(one.prompt[0]["content"], one.chosen, one.rejected) for one in found} == {("Hi", chosen, rejected)}
    wrong = [
        {"prompt": [*prompt, *said[0]], "chosen": "a", "rejected": "b"},
        {"prompt": "Hi", "chosen": "a"},
        {"prompt": "Ho", "chosen": prompt + said[0], "rejected": "b"},
    ]
    with pytest.raises(CorpusError) as caught:
        gather_pairs(write_lines(tmp_path / "b.jsonl", wrong))
    for words in ("its last message must be the user's", "it has no rejected", "do not begin with the prompt"):
        assert words in str(caught.value)


# The Hub.


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as hub:
        point_client_at(hub, tmp_path / "home", monkeypatch)
        yield hub


def test_a_dataset_of_the_hub_needs_no_column_of_text(hub: Hub, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [LAYOUTS["messages"], {"messages": [ASKED, {**ANSWERED, "name": None}]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    repository = hub.dataset("some/talk", {"data/train-00000-of-00001.parquet": (tmp_path / "t.parquet").read_bytes()})
    found = gather_conversations("hf:some/talk")
    assert found.examples == [Conversation((ASKED, ANSWERED), str(number)) for number in (1, 2)]
    assert found.revision == repository.branches["main"]
    hub.dataset("some/lines", {"train.jsonl": json.dumps({"instruction": 1})})
    with pytest.raises(CorpusError, match=r"train.jsonl, line 1: instruction: expected text, not 1"):
        gather_conversations("hf:some/lines")
    with pytest.raises(UsageError, match="a parameter 'text' that means nothing here"):
        gather_conversations("hf:some/talk?text=messages")
