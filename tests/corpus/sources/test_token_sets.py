"""Others' token sets: the same documents whatever the ranges, and a refusal of what is no token set."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reads import documents_of, listing, read, refusal
from safetensors.numpy import save_file

from scratchlab.corpus.sources import token_sets
from scratchlab.corpus.sources.documents import Reading, Span
from scratchlab.corpus.sources.formats import read_span
from scratchlab.errors import CorpusError

END = 50256
BY_END = Reading(separator=END)


def save(path: Path, tokens: Any, dtype: str = "<u2") -> Path:
    array = np.asarray(tokens, dtype)
    match path.suffix:
        case ".bin":
            array.tofile(path)
        case ".npy":
            np.save(path, array)
        case _:
            save_file({"tokens": array, "other": np.zeros(3)}, path)
    return path


def tokens_of(path: Path, reading: Reading = BY_END) -> list[list[int]]:
    """The documents, their parts put together."""
    return together(read(path, reading))


def together(parts: list[Any]) -> list[list[int]]:
    found: list[list[int]] = []
    for part in parts:
        found += [] if part.continues else [[]]
        found[-1] += part.tokens.tolist()
    return found


def plain_split(tokens: list[int], separator: int) -> list[list[int]]:
    groups = itertools.groupby(tokens, lambda token: token == separator)
    return [list(group) for is_separator, group in groups if not is_separator]


KINDS = [
    ("train.bin", "<u2"),
    ("train.npy", "<u2"),
    ("train.npy", "<u4"),
    ("train.npy", "<i4"),
    ("train.npy", ">i8"),
    ("train.safetensors", "<u2"),
    ("train.safetensors", "<i8"),
]


@pytest.mark.parametrize(("name", "dtype"), KINDS)
@pytest.mark.parametrize("tokens", [[1, 2, END, 3, END], [END, 1, 2, END, 3], [1, 2, END, END, 3]])
def test_what_lies_between_separators_is_a_document(tmp_path: Path, name: str, dtype: str, tokens: list[int]):
    path = save(tmp_path / name, tokens, dtype)
    assert tokens_of(path) == [[1, 2], [3]]
    assert {document.text for document in read(path, BY_END)} == {""}
    wide = np.dtype(dtype).itemsize > 2
    assert {document.tokens.dtype.name for document in read(path, BY_END)} == {"uint32" if wide else "uint16"}
    assert read(path, BY_END)[0].name == f"{path}, token {tokens.index(1)}"
    assert tokens_of(path, Reading()) == [tokens]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    st.lists(st.sampled_from([0, 1, 2, 7, 7])),
    st.sampled_from(["a.bin", "a.npy", "a.safetensors"]),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(1, 9),
    st.sampled_from([7, None]),
)
def test_documents_are_those_of_a_plain_split(
    tmp_path: Path, tokens: list[int], name: str, parts: int, part: int, scan: int, separator: int | None
):
    path = save(tmp_path / name, tokens)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(token_sets, "RANGE_TOKENS", parts * part)
        monkeypatch.setattr(token_sets, "PART_TOKENS", part)
        monkeypatch.setattr(token_sets, "SCAN_TOKENS", scan)
        spans = listing(path, Reading(separator=separator)).spans
        found = [document for span in spans for document in read_span(span)]
    expected = [tokens] if separator is None and tokens else plain_split(tokens, 7)
    assert together(found) == expected
    sizes = [min(part, len(tokens) - start) for tokens in expected for start in range(0, len(tokens), part)]
    assert [len(document.tokens) for document in found] == sizes
    assert sum(span.size for span in spans) == 2 * len(tokens)
    assert [span.continues for span in spans] == [separator is None and span.start > 0 for span in spans]


def test_only_a_range_and_the_end_of_its_last_document_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Were each range read to the next separator, a file without any would be read once a range."""
    monkeypatch.setattr(token_sets, "RANGE_TOKENS", 10)
    monkeypatch.setattr(token_sets, "PART_TOKENS", 10)
    monkeypatch.setattr(token_sets, "SCAN_TOKENS", 5)
    spans = listing(save(tmp_path / "a.npy", [1] * 100), BY_END).spans
    asked: list[tuple[int, int]] = []

    class Watched:
        def __getitem__(self, where: slice) -> Any:
            asked.append((where.start, where.stop))
            return np.ones(where.stop - where.start, np.uint16)

    found = token_sets.TokenSet(Watched(), 100, 2, "a.npy")
    assert list(found.documents(END, spans[3].start, spans[3].stop)) == []
    assert asked == [(29, 34), (34, 39)]


def test_llmc_s_header_is_no_text(tmp_path: Path):
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 3
    data = header.tobytes() + np.array([5, END, 6], "<u2").tobytes()
    (tmp_path / "train.bin").write_bytes(data)
    assert tokens_of(tmp_path / "train.bin") == [[5], [6]]
    (tmp_path / "cut.bin").write_bytes(data[:-2])
    assert "cut off: 1028 bytes for 3 tokens" in refusal(tmp_path / "cut.bin", BY_END)
    header[1] = 7
    (tmp_path / "new.bin").write_bytes(header.tobytes() + data[1024:])
    assert "version 7 where 1 is read" in refusal(tmp_path / "new.bin", BY_END)


@pytest.mark.parametrize("name", ["a.bin", "a.npy", "a.safetensors"])
def test_a_set_without_tokens_has_no_documents(tmp_path: Path, name: str):
    assert read(save(tmp_path / name, []), BY_END) == []


def test_the_only_tensor_may_have_any_name(tmp_path: Path):
    save_file({"ids": np.array([1, 2], np.uint16)}, tmp_path / "a.safetensors")
    assert tokens_of(tmp_path / "a.safetensors") == [[1, 2]]


def test_ids_that_no_vocabulary_has_are_refused_with_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_sets, "PART_TOKENS", 2)
    assert "has -3 at token 4: expected 0" in refusal(save(tmp_path / "a.npy", [0, 1, 2, 3, -3], "i2"))
    assert "has 4294967296 at token 3" in refusal(save(tmp_path / "b.safetensors", [1, END, 2**32 - 1, 2**32], "u8"))
    assert tokens_of(save(tmp_path / "c.npy", [2**32 - 1], "u4")) == [[2**32 - 1]]


def test_what_is_no_token_set_is_refused(tmp_path: Path, write: Callable[[str, str | bytes], str]):
    np.save(tmp_path / "square.npy", np.zeros((2, 3), np.uint16))
    np.save(tmp_path / "float.npy", np.zeros(3, np.float32))
    np.save(tmp_path / "pickle.npy", np.array([{}, 1], object), allow_pickle=True)
    save_file({"tokens": np.zeros(3, np.float32)}, tmp_path / "float.safetensors")
    save_file({"tokens": np.zeros((2, 3), np.uint16)}, tmp_path / "square.safetensors")
    save_file({"a": np.zeros(3), "b": np.zeros(3)}, tmp_path / "two.safetensors")
    assert "not uint16 of shape [2, 3]" in refusal(tmp_path / "square.npy")
    assert "not float32 of shape [3]" in refusal(tmp_path / "float.npy")
    assert "is damaged, or of another format" in refusal(tmp_path / "pickle.npy")
    assert "not F32 of shape [3]" in refusal(tmp_path / "float.safetensors")
    assert "not U16 of shape [2, 3]" in refusal(tmp_path / "square.safetensors")
    assert "no tensor 'tokens', but a, b" in refusal(tmp_path / "two.safetensors")
    assert "has 3 bytes: expected two a token" in refusal(write("odd.bin", b"abc"))
    whole = [save(tmp_path / f"whole{suffix}", range(99)) for suffix in (".npy", ".safetensors")]
    for path in whole:
        for data in (path.read_bytes()[:-9], path.read_bytes()[:20], b"", b"something else"):
            assert "is damaged, or of another format" in refusal(write(f"broken{path.suffix}", data))
    with pytest.raises(CorpusError, match=r"gone\.bin is no longer there"):
        list(read_span(Span(str(tmp_path / "gone.bin"), "tokens")))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.bin", "train"),
        ("val.bin", "validation"),
        ("fineweb_train_000001.npy", "train"),
        ("edufineweb_val_000000.npy", "validation"),
        ("validation.safetensors", "validation"),
        ("my-train-000-of-010.npy", "train"),
        ("2024.test.bin", "test"),
        ("Dev.bin", "validation"),
        ("dev2024_train_01.npy", "train"),
        ("trainer.bin", None),
        ("evaluate.npy", None),
    ],
)
def test_a_file_s_name_says_its_split(tmp_path: Path, name: str, split: str | None):
    assert {span.split for span in listing(save(tmp_path / name, [1])).spans} == {split}


def test_only_token_sets_have_a_split_by_name(write: Callable[[str, str | bytes], str]):
    assert listing(write("train.txt", "x")).spans[0].split is None


def test_ranges_of_a_file_have_its_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_sets, "RANGE_TOKENS", 2)
    spans = listing(save(tmp_path / "train.bin", [1, 2, END, 3, 4]), BY_END).spans
    assert [span.split for span in spans] == ["train"] * 3
    assert together(documents_of(spans)) == [[1, 2], [3, 4]]
