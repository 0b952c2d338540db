"""A document's promises: UTF-8 or U+FFFD that is counted, plain newlines, parts that lose nothing."""

import codecs

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from scratchlab.corpus.sources import documents
from scratchlab.corpus.sources.documents import Document, decode, in_parts, next_cut, sound
from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.errors import CorpusError

SPACES = [character for character in map(chr, range(0x3001)) if character.isspace()]
CHARACTERS = st.sampled_from(["a", "Z", "'s", "9", "?", "é", "語", "\u1680x", "😀", " ", "  ", "\n", *SPACES])
PROSE = st.lists(CHARACTERS).map("".join)
BYTES = st.lists(st.sampled_from([*"aéß語😀\r\n \ufffd"]).map(str.encode) | st.binary(max_size=4)).map(b"".join)


def small_parts(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(documents, "PART_BYTES", size)


# Encodings.


def test_byte_order_mark_and_foreign_newlines_go():
    assert decode(b"\xef\xbb\xbfone\r\ntwo\rthree\n", "dos.txt").text == "one\ntwo\nthree\n"


@given(BYTES)
def test_what_is_not_utf8_is_replaced_and_counted(data):
    data = (b"x" * len(data) * 4 + data).replace(b"\0", b"")
    count = 0

    def handle(error: UnicodeError) -> tuple[str | bytes, int]:
        nonlocal count
        count += 1
        return codecs.replace_errors(error)

    codecs.register_error("counted", handle)
    text = data.decode(errors="counted")
    document = decode(data, "a.txt")
    assert document.text == text.replace("\r\n", "\n").replace("\r", "\n")
    assert document.replaced == count


@given(BYTES)
def test_a_field_of_a_row_is_replaced_and_counted_as_a_file_is(data):
    data = (b"x" * len(data) * 4 + data).replace(b"\0", b"")
    assert sound(Document(data.decode("utf-8", "surrogateescape"), "a.txt")) == decode(data, "a.txt")


def test_halves_of_surrogate_pairs_are_replaced_one_by_one():
    assert sound(Document("\ufffd\ud800\udfff-\udce9\ud83d", "a", replaced=1)) == Document(
        "\ufffd" * 3 + "-" + "\ufffd" * 2, "a", replaced=5
    )


def test_a_sound_document_is_left_as_it_is():
    for document in (Document("plain", "a"), Document("é語\ufffd", "a", replaced=7)):
        assert sound(document) is document
    assert sound(Document("\ufeffa\r\nb\rc", "a")).text == "a\nb\nc"
    assert sound(Document("\ufeffa", "a", continues=True)).text == "\ufeffa", "within a text it is a character"


@pytest.mark.parametrize(("before", "at", "position"), [(b"", 0, 4), (codecs.BOM_UTF8, 0, 7), (b"", 100, 104)])
def test_other_encodings_are_refused_with_the_first_byte_and_its_place_in_the_file(before, at, position):
    with pytest.raises(CorpusError) as caught:
        decode(before + b"caf\x65" + "ночь".encode("koi8-r"), "latin.txt", at)
    message = str(caught.value)
    assert "latin.txt is not UTF-8: 4 places of its 8 bytes" in message
    assert f"the first of them 0xce at position {position}." in message
    assert "iconv -f" in message


def test_a_few_wrong_bytes_are_no_reason_to_refuse():
    assert decode("café noir".encode("latin-1"), "a.txt") == Document("caf\ufffd noir", "a.txt", replaced=1)


@pytest.mark.parametrize(("before", "at", "position"), [(b"", 0, 3), (codecs.BOM_UTF8, 0, 6), (b"", 100, 103)])
def test_binary_names_the_file_and_the_position(before, at, position):
    with pytest.raises(CorpusError, match=f"image.txt is not text: there is a NUL byte at position {position}"):
        decode(before + b"abc\0def", "image.txt", at)


def test_utf16_is_named_as_such():
    for text in (codecs.BOM_UTF16_LE + "hello".encode("utf-16-le"), codecs.BOM_UTF16_BE + "hi".encode("utf-16-be")):
        with pytest.raises(CorpusError, match=r"word\.txt starts with the byte-order mark of UTF-16.*iconv -f UTF-16"):
            decode(text, "word.txt")


# Parts.


def test_a_text_is_cut_before_a_space_or_newline_and_never_after_white_space():
    points = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 61)]  # all where there are spaces
    characters = [chr(point) for point in points]
    for space in " \n":
        text = "".join(f"\t{character}{space}" for character in characters)
        cut = "".join(f"\t{character}{space if character.isspace() else '|'}" for character in characters)
        assert documents._CUT.sub(b"|", text.encode()) == cut.encode()
    assert set(regex.findall(r"\s", "".join(characters))) <= set(SPACES)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    text = "It's   a day's work: 99 語語 \u3000\u3000 words,\n\n\n  words! \t\t tabs\xa0\xa0 and 😀 more words.\n" * 40
    return train_tokenizer("bpe:300", [text])


@given(PROSE, st.integers(4, 12))
def test_parts_are_the_text_and_its_tokens(bpe, text, size):
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_parts(monkeypatch, size)
        parts = list(in_parts(Document(text, "a.txt")))
    assert "".join(part.text for part in parts) == text
    assert [part.continues for part in parts] == [place > 0 for place in range(len(parts))]
    safe = [parts[0].text]
    for part in parts[1:]:
        assert size <= len(safe[-1].encode()) or len(parts) == 1
        if part.text[0] in " \n" and not safe[-1][-1].isspace():
            safe.append(part.text)
        else:  # there was no safe place for long
            safe[-1] += part.text
    assert [token for part in safe for token in bpe.encode(part)] == bpe.encode(text).tolist()


def test_a_text_without_white_space_is_cut_between_characters(monkeypatch):
    small_parts(monkeypatch, 8)
    assert [part.text for part in in_parts(Document("3" * 40, "pi"))] == ["3" * 16, "3" * 16, "3" * 8]
    assert [part.text for part in in_parts(Document("語" * 8, "zh"))] == ["語" * 5, "語" * 3]
    assert next_cut(b"x" * 15 + b"\r\n" + b"x" * 20, 0) == 15, "not within a newline"
    assert next_cut(b"\x80" * 40, 0) == 16, "nor does what is not UTF-8 stop it"


def test_a_part_ends_at_the_first_safe_place(monkeypatch):
    small_parts(monkeypatch, 8)
    assert [part.text for part in in_parts(Document("one two three four five", "a"))] == ["one two three", " four five"]


def test_what_was_counted_of_a_text_is_counted_once(monkeypatch):
    small_parts(monkeypatch, 4)
    first, second, *_ = in_parts(Document("one two three four", "a", removed={"link": ("x",)}, replaced=3))
    assert (first.removed, first.replaced, first.name) == ({"link": ("x",)}, 3, "a")
    assert (second.removed, second.replaced, second.name) == ({}, 0, "a")
