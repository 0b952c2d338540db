"""A corpus of examples: what its marks mark, what it leaves out, how it is split, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from lessons import alpaca, write_alpaca, write_lines
from scratchlab.cli.main import cli
from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.examples.asked import read_asked
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.corpus.store import Corpus, open_corpus
from scratchlab.errors import CorpusError, UsageError

THIRDS = "contiguous:.5,.25,.25"


def built(path: str, out: Path, template: str = "alpaca", **options: Any) -> Corpus:
    return build_examples([path], out, "instructions", open_wording(template), **{"tokenizer": "byte", **options})


def named(corpus: Corpus, tokens: Any) -> str:
    """Tokens as text, special ones by name."""
    names = {token: name for name, token in corpus.tokenizer.specials.items()}
    return "".join(names.get(token) or corpus.tokenizer.decode([token]) for token in tokens)


@pytest.mark.parametrize(("template", "end"), [("alpaca", "<|endoftext|>"), ("chatml", "<|im_end|>")])
def test_a_document_is_an_example_and_its_marks_are_the_response(tmp_path: Path, template: str, end: str) -> None:
    corpus = built(write_alpaca(tmp_path / "a.json", 12), tmp_path / "c", template, split=THIRDS)
    seen = 0
    for name in ("train", "validation", "test"):
        split = corpus.split(name)
        assert split.marks is not None
        for number, (start, stop) in enumerate(zip(split.document_starts, split.document_starts[1:], strict=False)):
            row, tokens, marks = alpaca(seen), split.read(start, stop), split.marks[start:stop]
            assert split.ids[number] == str(seen + 1)
            assert named(corpus, tokens[marks == 1]) == row["output"] + end
            assert row["instruction"] in named(corpus, tokens[marks == 0])
            asked = read_asked(split, number)
            assert named(corpus, asked.response) == row["output"] + end
            assert asked.prompt.tolist() == tokens[: len(asked.prompt)].tolist()
            assert split.document_bytes[number] == len(corpus.tokenizer.decode(tokens).encode())
            seen += 1
    assert seen == 12
    record = corpus.manifest.examples
    assert record is not None
    assert (record.kind, record.template) == ("instructions", template)
    assert corpus.manifest.format_version == 3
    assert corpus.chat_template is not None
    assert {"chat_template.jinja", "train.marks.bin", "train.ids.json"} <= {file.name for file in corpus.verify()}


def test_the_books_split_is_one_of_examples(tmp_path: Path) -> None:
    corpus = built(write_alpaca(tmp_path / "a.json", 1100), tmp_path / "c", split="contiguous:.85,.05,.1")
    sizes = {name: record.documents for name, record in corpus.manifest.splits.items()}
    assert sizes == {"train": 935, "validation": 55, "test": 110}
    assert corpus.split("test").ids[0] == "991"


def test_by_hash_a_question_is_in_one_split_and_contiguous_it_is_counted(tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {number % 20}.", "output": f"{number}"} for number in range(60)]
    path = write_lines(tmp_path / "a.jsonl", rows)
    corpus = built(path, tmp_path / "hash", split="hash:.5,.25,.25")
    asked = {
        name: {corpus.tokenizer.decode(read_asked(split, n).prompt) for n in range(len(split.ids))}
        for name, split in ((name, corpus.split(name)) for name in corpus.manifest.splits)
    }
    assert sum(map(len, asked.values())) == 20
    record = corpus.manifest.examples
    assert record is not None
    assert [split.asked_in_training for split in record.splits.values()] == [0, 0, 0]
    contiguous = built(path, tmp_path / "order", split=THIRDS).manifest.examples
    assert contiguous is not None
    assert [split.asked_in_training for split in contiguous.splits.values()] == [0, 15, 15]


def test_what_teaches_nothing_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [alpaca(n) for n in range(12)] + [alpaca(0), {**alpaca(1), "output": " "}, {"instruction": "Well?"}]
    corpus = built(write_lines(tmp_path / "a.jsonl", rows), tmp_path / "c")
    (source,) = corpus.manifest.sources
    assert source.documents == 12
    removed = {kind: (entry.documents, entry.examples[0].document) for kind, entry in source.removed.items()}
    assert removed == {"duplicate": (1, "13"), "empty response": (1, "14"), "no response": (1, "15")}
    text = CliRunner().invoke(cli, ["corpus", "show", str(tmp_path / "c")]).output
    assert "left out: 1 duplicate, 1 empty response, 1 no response" in text
    assert "examples   instructions, worded by alpaca" in text
    with pytest.raises(CorpusError, match=r"no example is left \(no response\)"):
        built(write_lines(tmp_path / "b.jsonl", rows[-1:]), tmp_path / "d")


def test_the_same_examples_give_the_same_bytes(tmp_path: Path) -> None:
    path = write_alpaca(tmp_path / "a.json")
    one, other = (built(path, tmp_path / name, tokenizer="auto") for name in ("one", "other"))
    assert one.sha256 == other.sha256
    assert all((one.path / file.name).read_bytes() == (other.path / file.name).read_bytes() for file in one.verify())
    assert one.sha256 != built(path, tmp_path / "chatml", "chatml").sha256
    with pytest.raises(CorpusError, match="exists already"):
        built(path, tmp_path / "one")


def test_two_sources_are_kept_apart_by_name(tmp_path: Path) -> None:
    paths = [write_alpaca(tmp_path / "a.json", 12), write_lines(tmp_path / "b.jsonl", [alpaca(0), alpaca(30)])]
    corpus = build_examples(paths, tmp_path / "c", "instructions", open_wording("alpaca"), "byte")
    assert [(one.documents, set(one.removed)) for one in corpus.manifest.sources] == [(12, set()), (1, {"duplicate"})]
    ids = [own for name in corpus.manifest.splits for own in corpus.split(name).ids]
    assert f"{paths[1]}: 2" in ids


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    corpus = built(write_alpaca(tmp_path / "a.json"), tmp_path / "c")
    marks = corpus.path / "train.marks.bin"
    content = marks.read_bytes()
    marks.write_bytes(bytes([1 - content[0]]) + content[1:])
    with pytest.raises(CorpusError, match=r"train.marks.bin has changed"):
        open_corpus(corpus.path).verify()
    marks.write_bytes(content[:-1])
    with pytest.raises(CorpusError, match=r"train.marks.bin has \d+ bytes instead of"):
        open_corpus(corpus.path)
    marks.write_bytes(content)
    template = corpus.path / "chat_template.jinja"
    template.write_bytes(template.read_bytes().replace(b"Below", b"Above"))
    with pytest.raises(CorpusError, match=r"chat_template.jinja has changed"):
        _ = open_corpus(corpus.path).chat_template


# Tokenizers and templates.


def test_a_tokenizer_that_is_there_gets_what_the_template_needs(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("every effort moves you " * 40, encoding="utf-8")
    base = build_corpus([str(tmp_path / "text.txt")], tmp_path / "base", tokenizer="bpe:260")
    path = write_alpaca(tmp_path / "a.json")
    plain, chat = (built(path, tmp_path / t, t, tokenizer=str(base.path)) for t in ("alpaca", "chatml"))
    assert plain.tokenizer.meaning == base.tokenizer.meaning
    assert chat.tokenizer.specials == {"<|endoftext|>": 259, "<|im_start|>": 260, "<|im_end|>": 261}
    assert chat.tokenizer.encode("effort").tolist() == base.tokenizer.encode("effort").tolist()


def test_a_new_tokenizer_learns_from_training_examples_and_counts_special_tokens(tmp_path: Path) -> None:
    rows = [{"instruction": "abab " * 9, "output": "abab"}] * 1 + [alpaca(n) for n in range(9)]
    path = write_lines(tmp_path / "a.jsonl", [*rows, {"instruction": "zqzqzqzq " * 90, "output": "zqzqzqzq"}])
    corpus = built(path, tmp_path / "c", "chatml", tokenizer="bpe:280", split="contiguous:.5,.25,.25")
    assert corpus.vocab_size == 280
    symbols = [corpus.tokenizer.token_bytes(token) for token in range(corpus.vocab_size)]
    assert b"abab" in symbols
    assert not [symbol for symbol in symbols if len(symbol) > 1 and b"z" in symbol]
    assert not [symbol for symbol in symbols if b"im_" in symbol], "a special token is no text"


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}<|q|>{{ m.content }}<|a|>{% elif m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    )
    (tmp_path / "own.jinja").write_text(template, encoding="utf-8")
    corpus = built(write_alpaca(tmp_path / "a.json"), tmp_path / "c", str(tmp_path / "own.jinja"))
    assert list(corpus.tokenizer.specials) == ["<|endoftext|>", "<|q|>", "<|a|>"]
    assert named(corpus, read_asked(corpus.split("train"), 0).prompt).startswith("<|q|>Say")
    assert open_wording(str(corpus.path)).template.source == template, "a folder that has one stands for it"
    (tmp_path / "endless.jinja").write_text(template.replace("{{ eos_token }}", ""), encoding="utf-8")
    with pytest.raises(UsageError, match="does not end the assistant's turn with a special token"):
        built(write_alpaca(tmp_path / "a.json"), tmp_path / "d", str(tmp_path / "endless.jinja"))
    for spec, words in ((str(tmp_path / "none"), "expected alpaca, chatml, or the path"), ("", "expected alpaca")):
        with pytest.raises(UsageError, match=words):
            open_wording(spec)
    (tmp_path / "bad.jinja").write_text("{% for %}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"bad.jinja: the chat template is not valid Jinja"):
        open_wording(str(tmp_path / "bad.jinja"))


def test_what_the_tokenizer_has_no_symbol_for_is_told_of_all_examples(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Below is an instruction. " * 9, encoding="utf-8")
    base = build_corpus([str(tmp_path / "text.txt")], tmp_path / "base", tokenizer="char")
    with pytest.raises(CorpusError) as caught:
        built(write_alpaca(tmp_path / "a.json"), tmp_path / "c", tokenizer=str(base.path))
    assert "The examples cannot be encoded: 40 problems" in str(caught.value)
    assert "example 1: " in str(caught.value)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tokenizer": "integers"}, "its symbols are numbers"),
        ({"tokenizer": "gone/tokenizer.json"}, "there is no such file or folder"),
        ({"split": "names"}, "it is for token sets"),
        ({"split": "thirds"}, "expected auto, hash, contiguous"),
    ],
)
def test_mistaken_options(tmp_path: Path, options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        built(write_alpaca(tmp_path / "a.json"), tmp_path / "c", **options)


def test_splits_that_would_be_empty(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"leaves none of 2 examples for validation"):
        built(write_alpaca(tmp_path / "a.json", 2), tmp_path / "c", split="contiguous:.9,.05,.05")


# Labels and pairs.


def test_labels_are_told_at_the_last_token(tmp_path: Path) -> None:
    rows = [{"text": f"text {number}", "label": ["ham", "spam"][number % 2]} for number in range(20)]
    corpus = build_examples([write_lines(tmp_path / "a.jsonl", rows)], tmp_path / "c", "labels", None, "byte", THIRDS)
    record, split = corpus.manifest.examples, corpus.split("train")
    assert record is not None
    assert split.marks is not None
    assert (record.kind, record.labels, record.template) == ("labels", ("ham", "spam"), None)
    assert corpus.chat_template is None
    for number, (start, stop) in enumerate(zip(split.document_starts, split.document_starts[1:], strict=False)):
        assert corpus.tokenizer.decode(split.read(start, stop)) == f"text {number}"
        assert split.marks[start:stop].tolist() == [0] * (stop - start - 1) + [1 + number % 2]
    swapped = [{**row, "label": {"ham": "spam", "spam": "ham"}[row["label"]]} for row in rows]
    path = write_lines(tmp_path / "swapped.jsonl", swapped)
    assert build_examples([path], tmp_path / "s", "labels", None, "byte", THIRDS).sha256 != corpus.sha256
    numbered = [{"text": f"t {n}", "label": n % 11} for n in range(22)]
    found = build_examples([write_lines(tmp_path / "b.jsonl", numbered)], tmp_path / "d", "labels", None, "byte")
    assert found.manifest.examples is not None
    assert found.manifest.examples.labels == tuple(map(str, range(11))), "10 comes after 9"
    with pytest.raises(CorpusError, match=r"There are 1 labels \(ham\)"):
        build_examples([write_lines(tmp_path / "e.jsonl", rows[:1])], tmp_path / "f", "labels", None, "byte")


@pytest.mark.parametrize("template", ["alpaca", "chatml"])
def test_pairs_are_a_prompt_and_two_answers(tmp_path: Path, template: str) -> None:
    said = [("user", "Hi"), ("assistant", "Yes?"), ("user", "Oh")]
    talk = [{"role": role, "content": content} for role, content in said]
    rows = [{"prompt": talk, "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(8)]
    rows += [{"prompt": "x", "chosen": "same", "rejected": "same"}]
    wording = open_wording(template)
    corpus = build_examples([write_lines(tmp_path / "a.jsonl", rows)], tmp_path / "c", "pairs", wording, "byte", THIRDS)
    split, end = corpus.split("train"), {"alpaca": "<|endoftext|>", "chatml": "<|im_end|>"}[template]
    assert split.marks is not None
    assert corpus.chat_template is not None
    start, stop = split.document_starts[:2]
    parts = [split.read(start, stop)[split.marks[start:stop] == mark] for mark in range(3)]
    assert parts[0].tolist() == corpus.chat_template.prompt(corpus.tokenizer, talk)  # pyright: ignore
    assert [named(corpus, part) for part in parts[1:]] == [f"good 0{end}", f"bad 0{end}"]
    assert corpus.manifest.sources[0].removed["equal answers"].documents == 1


@pytest.mark.parametrize("template", ["alpaca", "chatml"])
def test_an_answer_that_was_cut_off_gets_no_end_that_nobody_wrote(tmp_path: Path, template: str) -> None:
    cut = [[], ["chosen"], ["rejected"], ["chosen", "rejected"]]
    rows = [{"prompt": f"{n}", "chosen": "good", "rejected": "bad", "cut_off": cut[n % 4]} for n in range(12)]
    rows += [{"prompt": "x", "chosen": "same", "rejected": "same ", "cut_off": ["rejected"]}]
    rows += [{"prompt": "x", "chosen": "some", "rejected": " ", "cut_off": ["rejected"]}]
    wording = open_wording(template)
    path = write_lines(tmp_path / "a.jsonl", rows)
    corpus = build_examples([path], tmp_path / "c", "pairs", wording, "byte", "contiguous:1,0,0")
    split, end = corpus.split("train"), {"alpaca": "<|endoftext|>", "chatml": "<|im_end|>"}[template]
    assert split.marks is not None
    for n in range(12):
        start, stop = split.document_starts[n : n + 2]
        said = [named(corpus, split.read(start, stop)[split.marks[start:stop] == mark]) for mark in (1, 2)]
        assert said == [
            word if name in cut[n % 4] else f"{word}{end}" for name, word in (("chosen", "good"), ("rejected", "bad"))
        ]
    removed = {kind: entry.documents for kind, entry in corpus.manifest.sources[0].removed.items() if entry.documents}
    assert removed == {"equal answers": 1, "empty response": 1}


@pytest.mark.parametrize("cut_off", ["chosen", ["prompt"], [1], {"chosen": True}])
def test_what_says_nothing_of_which_answers_were_cut_off_is_refused(tmp_path: Path, cut_off: Any) -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "cut_off": cut_off}
    with pytest.raises(CorpusError, match="line 1: cut_off: expected a list of chosen and rejected, not"):
        build_examples([write_lines(tmp_path / "a.jsonl", [row])], tmp_path / "c", "pairs", open_wording("alpaca"))


# The command.


def invoke(arguments: list[str]) -> Any:
    return CliRunner().invoke(cli, arguments)


def test_the_command_makes_and_shows_it(tmp_path: Path) -> None:
    path = write_alpaca(tmp_path / "a.json")
    arguments = ["corpus", "build", path, "--out", str(tmp_path / "c"), "--tokenizer", "byte"]
    report = json.loads(invoke([*arguments, "--instructions", "chatml", "--special", "<|x|>", "--json"]).stdout)
    assert report["examples"]["kind"] == "instructions"
    assert sum(split["documents"] for split in report["splits"].values()) == 40
    assert "<|x|>" in open_corpus(tmp_path / "c").tokenizer.specials
    shutil.rmtree(tmp_path / "c")
    for option, words in (
        (["--labels"], "--labels has no meaning beside --instructions"),
        (["--filter", "unicode"], "--filter has no meaning beside --instructions"),
        (["--workers", "2"], "--workers has no meaning"),
    ):
        refused = invoke([*arguments, "--instructions", "alpaca", *option])
        assert refused.exit_code == 2
        assert words in refused.stderr
    assert "give the file with the labels" in invoke(["corpus", "build", "--labels", "--out", "x"]).stderr
    assert np.all([not path.name.startswith("c") for path in tmp_path.iterdir()])
