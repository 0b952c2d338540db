"""What is asked for is checked before anything runs; what would change nothing is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from letters import story

from scratchlab.corpus.build import build_corpus
from scratchlab.corpus.building.mixture import Mixture
from scratchlab.corpus.building.order import Settings, prepare
from scratchlab.corpus.sources.documents import Reading
from scratchlab.corpus.sources.find import Source
from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.errors import UsageError

Write = Callable[[str, str | bytes], str]
NO_CODE = Reading(code=False)


def refusal(sources: list[Source], **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        prepare(sources, Settings(**settings))
    return str(caught.value)


@pytest.fixture
def blog(write: Write) -> str:
    return str(Path(write("blog/_posts/2024-01-31-title.md", story(1))).parents[1])


@pytest.fixture
def tokens(write: Write) -> dict[str, str]:
    """A token set of a story, and its tokenizer."""
    tokenizer = train_tokenizer("byte", [])
    path = write("set/train.bin", tokenizer.encode(story(1) * 3).astype("<u2").tobytes())
    return {"path": path, "tokenizer": write("set/tokenizer.json", tokenizer.to_json())}


def test_code_is_left_out_of_blogs_alone(write, blog):
    notes = Source(write("notes.txt", story(2)), "notes", reading=NO_CODE)
    site = Source(blog, "blog", blog=True, reading=NO_CODE)
    assert "--no-code (in a mixture, code = false)" in refusal([notes])
    assert "and notes is not one. Give the site by --jekyll" in refusal([notes])
    prepare([notes, site], Settings())
    mixed = [Source(source.location, source.name, source.blog, NO_CODE, weight=1.0) for source in (notes, site)]
    assert "and notes is not one" in refusal(mixed, mixture=Mixture())
    prepare(mixed[1:], Settings(mixture=Mixture()))


@pytest.mark.parametrize("name", ["a.jsonl", "b.csv", "c.parquet", "folder/a.jsonl"])
def test_a_column_is_of_a_table(write, tmp_path, name):
    import pyarrow
    from pyarrow import parquet

    reading = Reading(column="body")
    notes, more = (Source(write(f"{text}.txt", story(2)), text, reading=reading) for text in ("notes", "more"))
    assert "--column body names a column of JSON Lines, CSV," in refusal([notes])
    assert "and notes is not one of these" in refusal([notes])
    assert "and none of notes, more is one of these" in refusal([notes, more])
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.table({"body": [story(3)]}), tmp_path / name)
    else:
        write(name, json.dumps({"body": story(3)}) if name.endswith("l") else f"body\n{story(3)!r}\n")
    path = str(tmp_path / name.split("/")[0])
    prepare([notes, Source(path, reading=reading)], Settings())
    mixed = [Source(notes.location, "notes", reading=reading, weight=1.0), Source(path, reading=reading, weight=1.0)]
    assert "and notes is not one of these" in refusal(mixed, mixture=Mixture())
    prepare(mixed[1:], Settings(mixture=Mixture()))


def test_a_column_that_the_location_names_otherwise_is_no_other(write, monkeypatch):
    from scratchlab.corpus.building import order
    from scratchlab.corpus.sources.documents import Listing, Span, pack

    def listed(source: Source) -> Listing:
        return Listing(pack([Span("hub-file", "hub", Reading(column="text"), size=100)]))

    monkeypatch.setattr(order, "list_source", listed)
    assert "--column body names a column of" in refusal([Source("hf:a/b?text=text", reading=Reading(column="body"))])
    prepare([Source("hf:a/b", reading=Reading(column="text"))], Settings())


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"filters": ("spaces", "urls")}, "--filter spaces: "),
        ({"near_duplicates": 0.8}, "--near-duplicates 0.8: "),
        ({"filters": ("short:9",), "near_duplicates": 0.75}, "--filter short:9 and --near-duplicates 0.75: "),
    ],
)
def test_tokens_cannot_be_cleaned(write, tokens, with_text, settings, named):
    sources = [Source(tokens["path"])] + [Source(write("notes.txt", story(2)))] * with_text
    message = refusal(sources, tokenizer=tokens["tokenizer"], **settings)
    assert message.startswith(f"{named}{tokens['path']} holds tokens, and only text can be cleaned.")


def test_text_that_was_cleaned_first_goes_with_tokens(write, tokens, tmp_path):
    """What the refusal says to do."""
    texts = [f"{story(number)}   \n" for number in range(9)]
    for number, text in enumerate(texts):
        write(f"notes/{number}.txt", text)
    how = {"tokenizer": tokens["tokenizer"]}
    cleaned = build_corpus([str(tmp_path / "notes")], tmp_path / "mine", filters=("spaces",), **how)
    both = build_corpus([tokens["path"], str(tmp_path / "mine" / "*-*.bin")], tmp_path / "both", **how)
    assert both.manifest.split.rule == "names"
    for split in ("validation", "test"):
        found, expected = both.split(split), cleaned.split(split)
        assert found.read(0, len(found)).tolist() == expected.read(0, len(expected)).tolist()
    train = both.split("train").read(0, len(both.split("train")))
    assert len(train) == len(np.fromfile(tokens["path"], "<u2")) + 1 + len(cleaned.split("train"))


@pytest.mark.parametrize("spec", ["integers", "bins:16"])
def test_numbers_have_no_special_tokens(write, spec):
    numbers = Source(write("numbers.txt", "1 2 3"))
    message = f"--special <|user|>: special tokens mark places in a text, and tokenizer {spec} has symbols for numbers"
    assert refusal([numbers], tokenizer=spec, specials=("<|user|>",)).startswith(message)
    path = write("tokenizer.json", train_tokenizer("integers", ["1 2 3"]).to_json())
    assert "special tokens mark places in a text" in refusal([numbers], tokenizer=path, specials=("<|user|>",))


def test_only_a_mixture_repeats(write):
    notes = Source(write("notes.txt", story(2)), "notes", repeat=4)
    assert refusal([notes]) == "notes: repeat 4 is for mixtures. Give every source a weight."


@pytest.mark.parametrize("spec", ["nope/tokenizer.json", "nope/", "tokenizer.json", "vocab.bpe", "my.tiktoken"])
def test_a_tokenizer_that_is_not_there_is_said_not_to_be(write, tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    message = refusal([Source(write("notes.txt", story(2)))], tokenizer=spec)
    assert message.startswith(f"tokenizer {spec!r}: there is no such file or folder. Known are a tokenizer.json or a ")
    assert message.endswith("or a new one is trained: char, byte, bpe:N, integers or bins:N.")


@pytest.mark.parametrize("spec", ["bpe:12.5", "word", "bpe:100"])
def test_a_kind_that_is_not_known_is_no_missing_file(write, spec):
    assert f"tokenizer {spec!r}: expected char, byte, bpe:N" in refusal([Source(write("a.txt", "a"))], tokenizer=spec)
