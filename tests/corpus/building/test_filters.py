"""Filters: what each does to text, and what is counted of it."""

import pickle
import re
import time
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.building import filters, gopher
from scratchlab.corpus.building.filters import FILTERS, LONGEST, clean, parse_filters
from scratchlab.corpus.building.tally import Tally
from scratchlab.corpus.sources import documents
from scratchlab.corpus.sources.documents import Document, in_parts
from scratchlab.errors import UsageError

ALL = [name.replace(":N", ":20") for name in FILTERS]
CHANGING = ["unicode", "spaces", "ascii-punctuation", "urls", "emails"]
ONLY_REMOVING = ["spaces", "urls", "emails"]

# Texts in which there is something for every filter.
SNIPPETS = [
    "a", "é", "e\u0301", "\u212a", "1", "word", "The", "  ", " ", "\n", "\n\n\n", "\t", "\xa0", "\u2028", "\r\n", "\0",
    "\u200b", "\u200d", "\ufeff", "\ufffd", "👩\u200d👧", "“", "’", "—", "…", ".", ",", ")", "(", "[", "]", "<", ">",
    "#", "* ", "http://a.b/c", "www.x.org", "[words](https://a.b)", "me@a.org", "<me@a.org>", "mailto:", "://", "@",
    "the cat sat. ",
]  # fmt: skip
texts = st.one_of(st.text(), st.lists(st.sampled_from(SNIPPETS), max_size=40).map("".join))


def run(specs: str, text: str) -> str | None:
    """What is left of a document after some filters."""
    left = clean(Document(text, "d"), parse_filters(specs.split()), Tally())
    return None if left is None else left.text


@pytest.mark.parametrize(
    ("spec", "before", "after"),
    [
        ("unicode", "cafe\u0301 \ufeffa\xadb\u200bc\0d\x85e\r\nf\vg\th", "caf\xe9 abcd\ne\nf\ng\th"),
        ("unicode", "👩\u200d👧 می\u200cخواهم", "👩\u200d👧 می\u200cخواهم"),
        ("spaces", "a \t\n \n\n\n\nb\xa0c\n\n \n", "a\n\nb c\n"),
        ("spaces", 'One.  Two  "three"', 'One. Two "three"'),
        ("spaces", "def f(x):\n    if  x:\n\treturn  x\ny = 1  # one\n1990  23   5", None),
        ("ascii-punctuation", "‘a’ “b” – c—d… 5′ é", "'a' \"b\" - c--d... 5' é"),
        ("urls", "See http://a.b/c_(d)?e=1#f. And www.x.org, (https://y.z) too", "See. And, too"),
        ("urls", "[the docs](https://a.b/c_(d)) ![cat](http://a.b) <ftp://a.b>!", "the docs cat!"),
        ("urls", "wwwhttp://a [a](/b) http:// www. x://y", None),
        ("emails", "Me (a.b+c@d-e.co.uk), <x@y.org> or [him](mailto:h@y.org).", "Me, or him."),
        ("emails", "@me react@17.0.2 x@1.10.22 a@b", None),
    ],
)
def test_texts_become_what_they_should(spec: str, before: str, after: str | None) -> None:
    assert run(spec, before) == (before if after is None else after)


@given(st.sampled_from(ALL), texts)
def test_filters_are_pure_and_leave_unicode_whole(spec: str, text: str) -> None:
    (step,) = parse_filters([spec])
    found = step.apply(text)
    assert pickle.loads(pickle.dumps(step)).apply(text) == found  # also in another process
    assert found is None or found.encode().decode() == found


@given(st.sampled_from([spec for spec in ALL if spec not in ("urls", "emails")]), texts)
def test_filters_are_idempotent(spec: str, text: str) -> None:
    found = run(spec, text)
    assert found is None or run(spec, found) == found


# By what is left of each.
ADDRESSES = {
    **dict.fromkeys(["http://a.b/c", "https://a.b?c=d,e", "www.x.org", "FTP://X.Y", "(www.x.org)", "[http://a.b]"], ""),
    **dict.fromkeys(["me@a.org", "<a.b+c@d.e.com>", "[me@a.org](mailto:me@a.org)", "mailto:x@y.de"], ""),
    "[in words](http://a.b)": "in words",
    "![](www.x.org)": "",
    "[me](mailto:me@a.org)": "me",
}


@given(st.lists(st.sampled_from([*ADDRESSES, "words", "and,", "so!", "\n", "@me", "1"])))
def test_addresses_go_and_nothing_else(words: list[str]) -> None:
    left = run("urls emails", " ".join(["x", *words]))
    assert left is not None
    assert left.split() == " ".join(["x", *(ADDRESSES.get(word, word) for word in words)]).split()


@given(texts)
def test_what_unicode_and_spaces_leave(text: str) -> None:
    left = run("unicode spaces", text)
    if left is not None:
        assert unicodedata.is_normalized("NFC", left)
        assert all(unicodedata.category(c) != "Cc" or c in "\n\t" for c in left)
        assert not re.search(r"[ \t]\n|\n{3}|[^\S\n]\Z|\xa0|\u200b", left)


def test_every_character_that_cannot_be_seen_goes_and_no_other() -> None:
    for character in map(chr, range(0x3000)):
        category, left = unicodedata.category(character), run("unicode", f"a{character}b")
        if character in "\n\v\f\r\x85\u2028\u2029":
            assert left == "a\nb"
        elif category == "Cc" and character != "\t":
            assert left == "ab", hex(ord(character))
        elif category not in ("Cf", "Cn"):
            assert left == unicodedata.normalize("NFC", f"a{character}b")
    formats = [
        c for c in map(chr, range(0x10000)) if unicodedata.category(c) == "Cf" and run("unicode", f"a{c}b") != "ab"
    ]
    # Joiners, and Arabic signs that are written.
    assert "".join(formats) == "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\u200c\u200d"


@given(texts)
def test_ascii_text_with_ascii_spaces_is_left_alone_by_unicode(text: str) -> None:
    plain = re.sub(r"[^\n\t -~]", "", text)
    assert plain.isspace() or not plain or run("unicode ascii-punctuation", plain) == plain


def test_length_decides_exactly() -> None:
    assert [run("short:3", "x" * n) is None for n in (2, 3, 4)] == [True, False, False]
    assert [run("long:3", "x" * n) is None for n in (2, 3, 4)] == [False, False, True]


# Repetition and prose.


def words(count: int, seed: int = 0) -> str:
    """A text of `count` different words."""
    letters = np.random.default_rng(seed).integers(ord("a"), ord("z") + 1, (count, 6), np.uint8)
    return " ".join(bytes(word).decode() for word in letters)


def lines(count: int, length: int, seed: int = 0) -> list[str]:
    """Different lines of one word each: with fewer than 50 words, only lines and paragraphs are looked at."""
    return ["".join(words(length, seed * count + n).split())[:length] for n in range(count)]


@pytest.mark.parametrize(
    ("pieces", "thrown_away"),
    [
        (lines(27, 60) + ["yes"] * 13, False),  # 12 of 40 repeat an earlier one
        (lines(27, 60) + ["yes"] * 14, True),  # 13 of 41
        (lines(18, 10) + lines(1, 60, 1) * 2, False),  # 60 characters of 300
        (lines(17, 10) + lines(1, 60, 1) * 2, True),  # 60 of 290
    ],
)
@pytest.mark.parametrize("separator", ["\n", "\n\n", "  \n "])
def test_lines_that_a_text_had_before_are_measured(pieces: list[str], thrown_away: bool, separator: str) -> None:
    assert (run("repetitive", separator.join(pieces)) is None) == thrown_away


def test_paragraphs_that_a_text_had_before_are_measured() -> None:
    for count, thrown_away in ((13, False), (14, True)):
        paragraphs = ["\n".join(lines(3, 9, number)) for number in range(1, 28)]
        text = "\n\n".join(f"{one}\n\nyes" if n < count else one for n, one in enumerate(paragraphs))
        assert (run("repetitive", text) is None) == thrown_away  # of lines, 13 of 95


@pytest.mark.parametrize(
    ("size", "apart", "thrown_away"),
    [
        *[(2, 8, False), (2, 7, True), (3, 14, False), (3, 13, True), (4, 22, False), (4, 20, True)],
        *[(5, 28, False), (5, 27, True), (6, 36, False), (6, 35, True), (7, 46, False), (7, 45, True)],
        *[(8, 57, False), (8, 56, True), (9, 71, False), (9, 70, True), (10, 88, False), (10, 86, True)],
    ],
)
def test_rows_of_words_are_measured(size: int, apart: int, thrown_away: bool) -> None:
    """A row of so many words, 30 times, with others between: just above a limit of the paper, or just below."""
    between = words(30 * apart, 1).split()
    text = " ".join(f"{words(size)} {' '.join(between[n * apart : (n + 1) * apart])}" for n in range(30))
    assert (run("repetitive", text) is None) == thrown_away


def test_short_texts_may_repeat_words() -> None:
    assert run("repetitive", "ha ha ha " * 16) is not None
    assert run("repetitive", "ha ha ha " * 17) is None


@given(st.lists(st.sampled_from("abc"), min_size=60, max_size=200), st.integers(2, 10))
def test_rows_are_counted_as_the_plain_way_counts_them(text: list[str], size: int) -> None:
    rows = [tuple(text[place : place + size]) for place in range(len(text) - size + 1)]
    before = {place + n for place, row in enumerate(rows) if row in rows[:place] for n in range(size)}
    hashes = gopher.word_hashes(" ".join(text))
    assert gopher.found_before(hashes, size) == len(before)
    assert gopher.most_frequent(hashes, size) == size * max(map(rows.count, rows))


def test_a_shortcut_of_repetitive_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    samples = [" ".join(generator.choice(words(most).split(), 100)) for most in range(20, 400, 2)]
    samples += [" ".join([words(10), *[words(n % 9, 1)] * (n // 9), words(60, 2)]) for n in range(200)]
    found = [run("repetitive", text) is None for text in samples]

    def plain(hashes: gopher.Hashes) -> bool:
        return any(
            gopher.most_frequent(hashes, n) > most * len(hashes) for n, most in gopher.MOST_FREQUENT.items()
        ) or any(gopher.found_before(hashes, n) > most * len(hashes) for n, most in gopher.FOUND_BEFORE.items())

    assert found == [plain(gopher.word_hashes(text)) for text in samples]
    assert 20 < sum(found) < len(found) - 20


@pytest.mark.parametrize(
    ("text", "thrown_away"),
    [
        ("The quick brown fox jumps over the lazy dog, again and again.", False),
        ("a b c d e f g h", True),
        ("internationalization institutionalization", True),
        ("1200 1300 1400 words of which four are 1500 1600", True),
        ("Of ten words that are here, two are numbers: 1200 1300.", False),
        ("1990 was a year of ten words, and not more.", False),
        ("#one and #two and three, which makes five", True),
        ("A word ... in the middle of a line … and others.", True),
        ("*one item of five words\n-another item of five words\n•a third item, with more words", True),
        ("A sentence that goes before.\n*one item of five words\n-another item of five words", False),
        ("Read on about all of this and other things...\nAnother line of many words that are read by nobody", True),
        ("Read on about all of this...\nAnother line\nA third\nAnd a fourth one, which ends this.", False),
    ],
)
def test_what_is_no_prose(text: str, thrown_away: bool) -> None:
    assert (run("prose", text) is None) == thrown_away


# Long texts.


def test_parts_of_a_text_change_as_the_whole_does_and_are_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PART_BYTES", 40)
    monkeypatch.setattr(filters, "PART_BYTES", 40)
    lines = ["See http://a.b/c or me@a.org “now”.  \n\n\n\n", "    x  = 1\n", "[w](http://x.y/z) café\u200b \t\n"]
    text = "".join(lines * 9)
    parts = list(in_parts(Document(text, "d")))
    assert len(parts) > 5
    specs = "unicode urls emails ascii-punctuation spaces"
    cleaned = [clean(part, parse_filters(specs.split()), Tally()) for part in parts]
    assert "".join(part.text for part in cleaned if part) == run(specs, text)

    for specs in ("short:1000", "repetitive", "prose"):
        tally = Tally()
        assert all(clean(part, parse_filters([specs]), tally) is part for part in parts)
        assert not tally.kinds
    tally = Tally()
    assert [clean(part, parse_filters(["long:10"]), tally) for part in parts] == [None] * len(parts)
    assert (tally.kinds["long:10"].documents, tally.kinds["long:10"].characters) == (1, len(text))


def test_a_part_that_is_blank_stays() -> None:
    tally = Tally()
    part = Document("\n", "d", continues=True)
    assert clean(part, [], tally) is part
    assert clean(Document("\n", "d"), [], tally) is None
    assert tally.kinds["blank"].documents == 1


def test_a_token_set_is_left_alone() -> None:
    tokens = Document("", "d", tokens=np.arange(5, dtype=np.uint16))
    assert clean(tokens, parse_filters(ALL), Tally()) is tokens


# Counting.


def test_what_filters_and_readers_removed_is_counted() -> None:
    tally = Tally()
    read = Document("one \nt\ufffdo", "a", removed={"image": ("x.png", "y.png")}, replaced=1)
    kept = clean(read, parse_filters(["spaces", "short:5"]), tally)
    assert kept == replace(read, text="one\nt\ufffdo")
    assert clean(Document("two", "b"), parse_filters(["spaces", "short:5"]), tally) is None
    assert clean(Document(" \n", "c"), [], tally) is None
    counts = {kind: (r.documents, r.pieces, r.characters) for kind, r in tally.kinds.items()}
    assert counts == {
        "image": (0, 2, 10),
        "not Unicode": (0, 1, 0),
        "spaces": (0, 1, 1),
        "short:5": (1, 0, 3),
        "blank": (1, 0, 2),
    }
    examples = {kind: [(e.document, e.text, e.became) for e in r.examples] for kind, r in tally.kinds.items()}
    assert examples == {
        "image": [("a", "x.png", None)],
        "not Unicode": [("a", "one \nt\ufffdo", None)],
        "spaces": [("a", "one \nt\ufffdo", "one\nt\ufffdo")],
        "short:5": [("b", "two", None)],
        "blank": [("c", " \n", None)],
    }


@given(st.lists(texts, max_size=12), st.lists(st.sampled_from(ALL), max_size=5), st.integers(0, 12))
def test_characters_add_up_and_parts_of_a_list_add_up_to_the_whole(
    found: list[str], specs: list[str], cut: int
) -> None:
    steps = parse_filters(specs)
    whole, first, second = Tally(), Tally(), Tally()
    corpus = [Document(text, str(number)) for number, text in enumerate(found)]
    kept = [clean(document, steps, whole) for document in corpus]
    for number, document in enumerate(corpus):
        clean(document, steps, first if number < cut else second)
    removed = sum(len(text) for text in found) - sum(len(document.text) for document in kept if document)
    assert sum(removal.characters for removal in whole.kinds.values()) == removed
    assert sum(removal.documents for removal in whole.kinds.values()) == kept.count(None)
    first.merge(second)
    assert first == whole
    for spec in ONLY_REMOVING:
        assert whole.kinds.get(spec) is None or whole.kinds[spec].characters >= 0


# Asking for filters.


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("spcaes", r"no filter 'spcaes'\. Did you mean spaces\? Filters: unicode, spaces, .*short:N, long:N"),
        ("xyz", "no filter 'xyz'. Filters: "),
        ("", "no filter ''. Filters: "),
        ("urls:3", "'urls:3' takes nothing after a colon: write urls"),
        ("short", "'short' needs a number of characters, 1 or more, as in short:200"),
        ("short:-3", "needs a number"),
        ("short:0", "needs a number"),
        ("long:²", "needs a number"),
        ("long:99999999", f"'long:99999999' needs a number of characters from 1 to {LONGEST}"),
    ],
)
def test_a_mistaken_filter_is_refused_with_those_there_are(spec: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_filters(["unicode", spec])


def test_filters_keep_their_order_and_names() -> None:
    assert [step.name for step in parse_filters(ALL)] == ALL


# Speed, as a ratio to something that reads every character once.


def test_clean_text_costs_little() -> None:
    text = "A line of plain English text, of a usual length for a line.\n" * 5_000
    document = Document(text, "d")
    steps = parse_filters(CHANGING)

    def seconds(work: object) -> float:
        start = time.process_time()
        assert callable(work)
        work()
        return time.process_time() - start

    ours = min(seconds(lambda: clean(document, steps, Tally())) for _ in range(5))
    split = min(seconds(text.split) for _ in range(5))
    assert ours < 3 * split
