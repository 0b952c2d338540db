"""Near duplicates: signatures are those of datasketch, planted copies are found, the first of them stays."""

import itertools
import tracemalloc
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.building import near_duplicates as module
from scratchlab.corpus.building import shingles
from scratchlab.corpus.building.external_sort import grouped
from scratchlab.corpus.building.near_duplicates import (
    EMPTY,
    NEIGHBORS,
    PERMUTATIONS,
    Signatures,
    choose_bands,
    near_duplicates,
    signature,
)
from scratchlab.corpus.building.shingles import shingle_hashes, word_hashes
from scratchlab.errors import MissingExtraError, UsageError

GENERATOR = np.random.default_rng(0)
VOCABULARY = ["".join(letters) for letters in itertools.product("bcdfgklmn", "aeiou", "rst", "aeiou")]


def random_words(count: int) -> list[str]:
    return [VOCABULARY[place] for place in GENERATOR.integers(0, len(VOCABULARY), count)]


def changed(words: Sequence[str], count: int) -> list[str]:
    """`words` with `count` of them changed, far from each other."""
    step = len(words) // max(1, count)
    return [
        f"new{place}" if place % step == step // 2 and place // step < count else w for place, w in enumerate(words)
    ]


def jaccard(a: Sequence[str], b: Sequence[str]) -> float:
    """Of the rows of five words, by definition."""
    rows = [{tuple(words[place : place + 5]) for place in range(len(words) - 4)} for words in (a, b)]
    return len(rows[0] & rows[1]) / len(rows[0] | rows[1])


def find(
    signatures: Sequence[Signatures], folder: Path, sizes: Sequence[int] = (), threshold: float = 0.8
) -> list[tuple[int, int]]:
    """What `near_duplicates` finds when the signatures are divided into files of `sizes` and a last one of the rest."""
    paths: list[Path] = []
    rows = np.array(signatures).reshape(-1, PERMUTATIONS).astype(np.uint32)
    for number, part in enumerate(np.split(rows, np.cumsum(sizes, dtype=int))):
        paths.append(folder / f"signatures-{number:05d}.npy")
        np.save(paths[-1], part)
    found = near_duplicates(paths, threshold, folder / "work")
    assert sorted(path.name for path in folder.iterdir()) == [path.name for path in paths]
    return found.tolist()


# Signatures.


@given(st.one_of(st.text(), st.lists(st.sampled_from(VOCABULARY[:30]), max_size=3000).map(" ".join)))
def test_a_signature_is_datasketchs_own_of_the_shingles(text: str) -> None:
    words = word_hashes(text)
    minhash = MinHash(PERMUTATIONS, hashfunc=int)
    rows = shingle_hashes(words, min(5, len(words))) if len(words) else []
    minhash.update_batch([int(row) >> 32 for row in rows])
    assert (signature(text) == minhash.hashvalues).all()
    assert signature(text).dtype == np.uint32


def test_the_estimate_is_the_share_of_rows_in_common() -> None:
    words = random_words(1000)
    for count in (5, 20, 50):
        other = changed(words, count)
        estimate = (signature(" ".join(words)) == signature(" ".join(other))).mean()
        expected = jaccard(words, other)
        error = (expected * (1 - expected) / PERMUTATIONS) ** 0.5
        assert abs(estimate - expected) < 4 * error
        assert expected == pytest.approx((996 - 5 * count) / (996 + 5 * count))


def test_letter_case_and_signs_make_no_difference_and_order_does() -> None:
    text = "The cat, which sat on “the mat”—it slept. Élan vital!"
    assert (signature(text) == signature("the CAT which sat on the\nmat ... it slept élan Vital")).all()
    assert (signature("a b c d e f") != signature("f e d c b a")).mean() > 0.9


def test_short_texts_are_one_row_and_empty_ones_none() -> None:
    assert (signature("one two") == signature("One, two!")).all()
    assert (signature("one two") == signature("one two three")).mean() < 0.1
    assert (signature("one two three four five six") == signature("one two three four five")).any()
    assert (signature("") == EMPTY).all()
    assert (signature(" ... !\n") == EMPTY).all()


def test_a_signature_never_changes() -> None:
    """Signatures of a build that is picked up again, or read by another version, must be the same."""
    found = signature("It is a truth universally acknowledged, that a single man").tolist()
    assert found[:4] == [481255474, 158978084, 576016011, 171025748]


def test_words_are_hashed_alike_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(random_words(3000)) + " été naïve 東京、大阪 " + "long" * 30
    whole = word_hashes(text)
    assert len(whole) == len(text.replace("、", " ").split())
    assert len(np.unique(whole)) == len(set(text.replace("、", " ").split()))
    assert (whole[[7, 9]] == word_hashes(" ".join(text.split()[n] for n in (7, 9)))).all()
    monkeypatch.setattr(shingles, "BLOCK", 130)
    shingles._powers.cache_clear()
    assert (word_hashes(text) == whole).all()
    assert len(word_hashes("x" * 300)) == 3  # a word that is longer than a block is cut
    shingles._powers.cache_clear()


# Finding.


def test_planted_copies_are_found_and_others_are_not(tmp_path: Path) -> None:
    """Changing k of 400 words leaves 396 - 5k rows of 396 + 5k: 0.95 for 2, 0.60 for 20."""
    originals = [random_words(400) for _ in range(60)]
    near = [changed(words, 2) for words in originals[:20]]
    far = [changed(words, 20) for words in originals[20:40]]
    texts = [*originals, *near, *far]
    found = find([signature(" ".join(words)) for words in texts], tmp_path)
    assert found == [(60 + number, number) for number in range(20)]


def test_a_lower_threshold_finds_more(tmp_path: Path) -> None:
    words = random_words(400)
    signatures = [signature(" ".join(changed(words, count))) for count in (0, 3, 11)]  # 0.93, 0.76
    assert [number for number, _ in find(signatures, tmp_path, threshold=0.85)] == [1]
    assert [number for number, _ in find(signatures, tmp_path, threshold=0.6)] == [1, 2]


def resembling(base: Signatures, agreeing: int) -> Signatures:
    """A signature that agrees with `base` in the first `agreeing` numbers."""
    return np.concatenate([base[:agreeing], GENERATOR.integers(0, 2**32, PERMUTATIONS - agreeing, np.uint32)])


def random_signature() -> Signatures:
    return GENERATOR.integers(0, 2**32, PERMUTATIONS, np.uint32)


def test_the_first_source_wins_and_only_what_resembles_a_kept_one_goes(tmp_path: Path) -> None:
    a = random_signature()
    b = resembling(a, 110)
    c = np.concatenate([random_signature()[:20], b[20:]])  # resembles b (108 of 128), not a (90)
    assert find([a, b, c], tmp_path) == [(1, 0)]
    assert find([c, b, a], tmp_path) == [(1, 0)]
    assert find([b, a, c], tmp_path) == [(1, 0), (2, 0)]
    assert find([c, a, b], tmp_path) == [(2, 0)]


def test_a_document_is_no_duplicate_of_itself(tmp_path: Path) -> None:
    signatures = [np.full(PERMUTATIONS, value, np.uint32) for value in (7, 8, 7)]  # all bands have the same numbers
    assert find(signatures, tmp_path) == [(2, 0)]


def test_exactly_the_threshold_is_enough(tmp_path: Path) -> None:
    a = random_signature()
    assert find([a, resembling(a, 96)], tmp_path, threshold=0.75) == [(1, 0)]
    assert find([a, resembling(a, 95)], tmp_path, threshold=0.75) == []


def test_texts_without_words_are_never_near_duplicates(tmp_path: Path) -> None:
    signatures = [signature(text) for text in ("...", "???", "a word", "!", "A word.")]
    assert find(signatures, tmp_path) == [(4, 2)]


def greedy(signatures: Sequence[Signatures], threshold: float) -> list[tuple[int, int]]:
    """The rule, by comparing all with all."""
    bands = choose_bands(threshold)
    kept: list[int] = []
    found: list[tuple[int, int]] = []
    for number, one in enumerate(signatures):
        for other in kept:
            agree = one == signatures[other]
            if agree.mean() >= threshold and agree[: bands.count * bands.rows].reshape(bands.count, -1).all(1).any():
                found.append((number, other))
                break
        else:
            kept.append(number)
    return found


def families() -> list[Signatures]:
    """Signatures of which many resemble one another by more or less than 0.8, shuffled."""
    signatures: list[Signatures] = []
    for size in (1, 2, 3, 5, NEIGHBORS) * 8:
        base = random_signature()
        noise = GENERATOR.random((size, PERMUTATIONS)) < GENERATOR.choice([0.02, 0.08, 0.12])
        signatures += list(np.where(noise, GENERATOR.integers(0, 2**32, noise.shape, np.uint32), base))
    return [signatures[place] for place in GENERATOR.permutation(len(signatures))]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.95])
def test_the_same_is_found_as_by_comparing_all_with_all(threshold: float, tmp_path: Path) -> None:
    signatures = families()
    expected = greedy(signatures, threshold)
    assert find(signatures, tmp_path, threshold=threshold) == expected
    assert 10 < len(expected) < len(signatures) - 30


@pytest.mark.parametrize("sizes", [[0], [1] * 40, [5, 0, 70, 0, 0, 20], [151]])
def test_the_same_is_found_however_documents_are_divided(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signatures = families()
    expected = find(signatures, tmp_path)
    assert len(expected) > 10
    (tmp_path / "divided").mkdir()
    monkeypatch.setattr(module, "_ROWS", 7)
    monkeypatch.setattr(module, "grouped", partial(grouped, bucket_bytes=24 * 300))
    assert find(signatures, tmp_path / "divided", sizes) == expected


def test_of_very_many_alike_only_the_first_stays(tmp_path: Path) -> None:
    base = random_signature()
    signatures = [resembling(base, 120) for _ in range(50 * NEIGHBORS)]
    assert [number for number, _ in find(signatures, tmp_path)] == list(range(1, 50 * NEIGHBORS))


def test_no_documents_have_no_duplicates(tmp_path: Path) -> None:
    assert find([], tmp_path) == []
    assert near_duplicates([], 0.8, tmp_path / "work").tolist() == []


def test_what_a_killed_process_left_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "work" / "bands").mkdir(parents=True)
    (tmp_path / "work" / "pairs").write_bytes(b"x" * 24)
    a = random_signature()
    assert find([a, a], tmp_path) == [(1, 0)]


def test_memory_does_not_grow_with_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", 256)
    monkeypatch.setattr(module, "grouped", partial(grouped, bucket_bytes=2**17))
    choose_bands(0.8)  # what is imported for it does not count
    peaks: list[int] = []
    for count in (10_000, 30_000):
        paths = [tmp_path / f"{count}.npy"]
        rows = np.repeat(GENERATOR.integers(0, 2**32, (count // 2, PERMUTATIONS), np.uint32), 2, axis=0)
        np.save(paths[0], rows)
        del rows
        tracemalloc.start()
        try:
            assert len(near_duplicates(paths, 0.8, tmp_path / "work")) == count // 2
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] - peaks[0] < 20_000 * 40  # 17 bytes a document, half of them twice for a moment; not 512
    assert peaks[1] < 8e6 < 30_000 * 384  # the records of bands alone


@pytest.mark.parametrize("threshold", [0, 0.49, 1.0, 80])
def test_a_threshold_that_makes_no_sense_is_refused(threshold: float) -> None:
    with pytest.raises(UsageError, match=f"threshold {threshold} is not from 0.5 to 0.99"):
        choose_bands(threshold)


def test_bands_find_what_they_say() -> None:
    bands = choose_bands(0.8)
    assert (bands.count, bands.rows) == (16, 8)
    assert [round(1 - (1 - similarity**8) ** 16, 3) for similarity in (0.8, 0.85)] == [0.947, 0.994]


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasketch", None)
    module._minhash.cache_clear()
    for call in (lambda: signature("text"), lambda: choose_bands(0.8)):
        with pytest.raises(MissingExtraError, match=r"pip install .*\[data\]"):
            call()
    module._minhash.cache_clear()
