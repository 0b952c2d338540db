"""What cleaning removed: examples that show it, sums, JSON."""

import json

from hypothesis import example, given
from hypothesis import strategies as st

from scratchlab.corpus.building.tally import AROUND, EXAMPLES, EXCERPT, Tally, excerpt, first_change


def test_a_change_shows_its_first_place_with_what_is_around_it() -> None:
    long = "The quick brown fox jumps over the lazy dog. "
    assert first_change("one two", "one too") == ("one two", "one too")
    assert first_change(long + "X" + long * 9 + "Y", long + long * 9) == (
        " over the lazy dog. XThe quick brown fox ",
        " over the lazy dog. The quick brown fox ",
    )
    assert first_change(long + "’" + long + "“" + long, long + "'" + long + '"' + long) == (
        " over the lazy dog. ’The quick brown fox ",
        " over the lazy dog. 'The quick brown fox ",
    )
    assert first_change("a\n\n\n", "a\n") == ("a\n\n\n", "a\n")
    assert first_change("", "a") == ("", "a")


@given(st.text(), st.text(), st.text(), st.text())
@example("a" * 500, "b" * 500, "c" * 500, "d" * 500)
@example("", "a" * 300, "", "a" * 200)
def test_a_change_is_always_found_and_short(start: str, old: str, new: str, end: str) -> None:
    before, after = start + old + end, start + new + end
    if before != after:
        shown = first_change(before, after)
        assert shown[0] != shown[1]
        assert max(map(len, shown)) <= EXCERPT
        assert all(part.removesuffix("…") in whole for part, whole in zip(shown, (before, after), strict=True))


def test_an_excerpt_says_that_there_was_more() -> None:
    assert excerpt("x" * EXCERPT) == "x" * EXCERPT
    assert excerpt("x" * (EXCERPT + 1)) == "x" * (EXCERPT - 1) + "…"


def counted(documents: list[tuple[str, str]], start: int, stop: int) -> Tally:
    """A tally of documents from `start` to `stop`: (way, text)."""
    tally = Tally()
    for number, (way, text) in list(enumerate(documents))[start:stop]:
        if way == "drop":
            tally.drop(text[:1], str(number), text)
        elif way == "take":
            tally.take(text[:1], str(number), [text, text])
        elif way == "replace":
            tally.replace("not Unicode", str(number), text + "\ufffd", 1)
        else:
            tally.change(way, str(number), text + "x", text)
    return tally


ways = st.sampled_from(["drop", "take", "replace", "change"])


@given(st.lists(st.tuples(ways, st.text("abc", max_size=3)), max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_merged_in_order_is_counted_in_order(documents: list[tuple[str, str]], a: int, b: int) -> None:
    first, last = sorted((a, b))
    merged, whole = Tally(), counted(documents, 0, len(documents))
    for start, stop in ((0, first), (first, last), (last, len(documents))):
        tally = counted(documents, start, stop)
        written = json.dumps(tally.to_json())  # by one process, and read by another
        assert Tally.from_json(json.loads(written)) == tally
        merged.merge(Tally.from_json(json.loads(written)))
    assert merged == whole
    assert list(merged.kinds) == list(whole.kinds)
    assert all(len(removal.examples) <= EXAMPLES for removal in merged.kinds.values())


def test_what_was_not_unicode_is_shown_where_it_is() -> None:
    tally = Tally()
    tally.replace("not Unicode", "d", "a" * 90 + "\ufffd" + "b" * 400, 1)
    (shown,) = tally.kinds["not Unicode"].examples
    assert shown.text.startswith("a" * AROUND + "\ufffdb")
    assert len(shown.text) == EXCERPT
