"""The words of a token stream as 64-bit numbers, taken from the tokens without decoding them.

A word is a run of letters and digits: ASCII letters lower-cased, every byte from 0x80 on taken for a letter. It is
known by its first 32 bytes. Its number does not depend on how a tokenizer cuts it: its bytes are read as four
little-endian integers, its lanes; each is multiplied by an odd constant; they are added up modulo 2**64 and stirred.
What a token brings to a word is its own bytes, shifted to where they stand in the word, so that tokens' shares add up.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

LONGEST = 32
"""Bytes of a word that count; what a longer run goes on with, base64 perhaps, is passed over."""

CHUNK = 2**17
"""Tokens that are looked at together: enough to make numpy's cost a call small, few enough for a CPU's cache."""

WORD = re.compile(rb"[0-9A-Za-z\x80-\xff]+")

Uint64s = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Tokens = npt.NDArray[np.integer]

_LANE = 8  # bytes
_LANES = LONGEST // _LANE
_WIDE = 0xFF  # stands for a character of several bytes: UTF-8 has no such byte

# What is known of a symbol: it begins with what is no letter, ends with it, has letters, is more than one of these.
_OPENS, _CLOSES, _FILLED, _SEVERAL = 1, 2, 4, 8


class Symbols(Protocol):
    """What is needed of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...
    def token_bytes(self, token: int, /) -> bytes: ...


class Documents(Protocol):
    """A token stream that knows where its documents start: a split of a corpus."""

    def __len__(self) -> int: ...
    def read(self, start: int, stop: int, /) -> Tokens: ...
    @property
    def document_starts(self) -> Ints: ...
    @property
    def document_bytes(self) -> Ints: ...


class Words(NamedTuple):
    """Words in their order: a number for each, and the place of the token it begins in. Both of shape (words,)."""

    numbers: Uint64s
    places: Ints


def constants(purpose: str, count: int) -> Uint64s:
    """Odd 64-bit numbers without a pattern, the same ones always."""
    return np.frombuffer(hashlib.shake_256(purpose.encode()).digest(8 * count), "<u8") | np.uint64(1)


def stir(numbers: Uint64s) -> Uint64s:
    """Spread differences over all bits, one to one and in place."""
    numbers ^= numbers >> np.uint64(29)
    numbers *= _STIR
    return numbers


# Bytes as they count: letters and digits, lower-cased, and spaces for all others.
_SPACED = bytes(byte if WORD.match(bytes([byte])) else ord(" ") for byte in range(256)).lower()

_STIR = constants("stir", 1)[0]
# Lanes beyond a word's last count nothing, which is what ends it at LONGEST.
_FACTORS = np.append(constants("lanes of a word", _LANES), np.zeros(_LANES + 1, np.uint64))
# Eight bytes from byte b of a word on lie in two of its lanes: shifted left by 8 (b mod 8) bits in one, and what falls
# out there (none of it if b mod 8 is 0: shifting 64 bits right clears all) in the next.
_BYTE = np.arange(2 * LONGEST)
_SHIFT = (_BYTE % _LANE * 8).astype(np.uint64)
_LOW_FACTOR = _FACTORS[_BYTE // _LANE] << _SHIFT
_HIGH_SHIFT = np.uint64(64) - _SHIFT
_HIGH_FACTOR = _FACTORS[_BYTE // _LANE + 1]


def read_words(stream: Documents, reader: "WordReader", start: int, stop: int) -> Iterator[tuple[range, Words]]:
    """The words of tokens `start` to `stop`, both where a document starts, by chunks of tokens."""
    starts = stream.document_starts
    for first in range(start, max(stop, start + 1), CHUNK):  # once even if there is nothing
        last = min(first + CHUNK, stop)
        # From one token earlier, which says whether a word begins here; so much longer that the last word is whole.
        origin = max(first - 1, start)
        tokens = stream.read(origin, min(last + LONGEST, stop))
        inner = slice(*np.searchsorted(starts, [origin + 1, origin + len(tokens)]))
        words = reader.words(tokens, starts[inner] - origin)
        own = slice(*np.searchsorted(words.places, [first - origin, last - origin]))
        places = words.places[own]
        places += origin
        yield range(first, last), Words(words.numbers[own], places)


class _Part(NamedTuple):
    """A stretch of a symbol with at most one fragment of a word in it."""

    fragment: bytes
    opens: bool
    closes: bool


class WordReader:
    """Reads words in the tokens of one tokenizer, from tables of what each symbol is."""

    def __init__(self, symbols: Symbols) -> None:
        texts = [symbols.token_bytes(token).translate(_SPACED) for token in range(symbols.vocab_size)]
        fragments = [text.split() for text in texts]
        # A symbol without letters, and <|endoftext|>, which has no bytes, parts words.
        parts = [
            _Part(found[0] if found else b"", text[:1] in b" ", text[-1:] in b" ")
            for text, found in zip(texts, fragments, strict=True)
        ]
        several = [token for token, found in enumerate(fragments) if len(found) > 1]
        self._counts = np.array([max(len(found), 1) for found in fragments])
        self._first_part = np.arange(len(texts))
        self._first_part[several] = len(texts) + np.cumsum(self._counts[several]) - self._counts[several]
        for token in several:  # their parts stand side by side behind the vocabulary
            last = len(fragments[token]) - 1
            parts += [
                _Part(fragment, number > 0 or parts[token].opens, number < last or parts[token].closes)
                for number, fragment in enumerate(fragments[token])
            ]
        self._fill(parts)
        self._flags[several] |= _SEVERAL
        self._letters = _letters(texts)

    def _fill(self, parts: Sequence[_Part]) -> None:
        flags = [_OPENS * opens | _CLOSES * closes | _FILLED * bool(fragment) for fragment, opens, closes in parts]
        sizes = [min(len(part.fragment), LONGEST) for part in parts]
        padded = b"".join([part.fragment[:LONGEST].ljust(LONGEST, b"\0") for part in parts])
        self._flags, self._sizes = np.array(flags, np.uint8), np.array(sizes)
        self._lanes = np.ascontiguousarray(np.frombuffer(padded, "<u8").reshape(-1, _LANES).T)
        self._sums = (self._lanes * _FACTORS[:_LANES, None]).sum(axis=0, dtype=np.uint64)
        self._numbers = stir(self._sums.copy())

    def words(self, tokens: Tokens, borders: Ints) -> Words:
        """The words that begin in `tokens`, whole if LONGEST tokens follow. None reaches across one of `borders`."""
        if self._letters is not None:
            letters = self._letters.take(tokens)
            if not np.logical_and(letters[borders], letters[borders - 1]).any():
                return self._words_of_letters(letters, tokens)
        return self._words_of_symbols(tokens, borders)

    def _words_of_symbols(self, tokens: Tokens, borders: Ints) -> Words:
        """For symbols of any kind."""
        ids = tokens.astype(np.intp)
        places = None
        if ((flags := self._flags.take(ids)) & _SEVERAL).any():
            ids, places = self._taken_apart(ids)
            flags, borders = self._flags.take(ids), np.searchsorted(places, borders)
        filled = (flags & _FILLED) != 0
        opens = (flags & _OPENS) != 0
        opens[1:] |= (flags[:-1] & _CLOSES) != 0
        opens[:1] = True
        opens[borders] = True
        starts = np.flatnonzero(filled & opens)
        numbers = self._numbers_of(ids, starts, np.append(filled & ~opens, False))
        return Words(numbers, starts if places is None else places.take(starts))

    def _taken_apart(self, ids: Ints) -> tuple[Ints, Ints]:
        """Symbols of several parts replaced by these, and for each of all the place in `ids` that it comes from."""
        counts = self._counts.take(ids)
        places = np.repeat(np.arange(len(ids)), counts)
        return (self._first_part.take(ids) + counts - np.cumsum(counts)).take(places) + np.arange(len(places)), places

    def _numbers_of(self, ids: Ints, starts: Ints, continues: Bools) -> Uint64s:
        """The numbers of the words that begin at `starts`; `continues` says of each token whether it continues one."""
        numbers = self._numbers.take(ids.take(starts))  # of a word of one token, as most are
        longer = np.flatnonzero(continues[1:].take(starts))
        numbers[longer] = stir(self._sums_of(ids, starts.take(longer), continues))
        return numbers

    def _sums_of(self, ids: Ints, at: Ints, continues: Bools) -> Uint64s:
        """The sums of words that begin in the tokens `at` and go on in the next: a token of all of them at a time."""
        token = ids.take(at)
        sums, sizes = self._sums.take(token), self._sizes.take(token)
        words, complete = np.arange(len(at)), np.empty(len(at), np.uint64)
        while len(words):
            at = at + 1
            token = ids.take(at)
            added = self._sizes.take(token)
            sums += self._shares(token, added, sizes)
            sizes += added
            complete[words] = sums
            going = np.flatnonzero(continues.take(at + 1) & (sizes < LONGEST))
            words, at, sums, sizes = words.take(going), at.take(going), sums.take(going), sizes.take(going)
        return complete

    def _shares(self, tokens: Ints, sizes: Ints, before: Ints) -> Uint64s:
        """What tokens of these sizes add to the sums of their words, in which so many bytes come before them."""
        shares = _share(self._lanes[0].take(tokens), before)
        lane, longer = 1, np.flatnonzero(sizes > _LANE)
        while len(longer):
            shares[longer] += _share(self._lanes[lane].take(tokens[longer]), before[longer] + lane * _LANE)
            lane += 1
            longer = longer[sizes[longer] > lane * _LANE]
        return shares

    def _words_of_letters(self, letters: npt.NDArray[np.uint8], tokens: Tokens) -> Words:
        """For symbols of a single character: eight letters are loaded at once."""
        filled = np.concatenate([[False], letters != 0, [False]])
        starts = np.flatnonzero(filled[1:] > filled[:-1])
        padded = np.append(letters, np.zeros(LONGEST + _LANE, np.uint8))
        lane_at = np.ndarray(len(letters) + LONGEST, "<u8", padded, strides=(1,))
        lanes, going = _before_zero(lane_at.take(starts))
        sums = lanes * _FACTORS[0]
        longer = np.flatnonzero(going)
        for lane in range(1, _LANES):
            lanes, going = _before_zero(lane_at[starts.take(longer) + lane * _LANE])
            sums[longer] += lanes * _FACTORS[lane]
            longer = longer[going]
        numbers = stir(sums)
        if len(wide := np.flatnonzero(letters == _WIDE)):  # a character of several bytes: these words once more
            words = np.unique(np.searchsorted(starts, wide, "right")) - 1
            numbers[words] = self._numbers_of(tokens.astype(np.intp), starts.take(words), filled[1:] & filled[:-1])
        return Words(numbers, starts)


def _letters(texts: Sequence[bytes]) -> npt.NDArray[np.uint8] | None:
    """Where all symbols are single characters: each one's letter, 0 for what is none. None for other symbols."""
    if any(len(text) > 1 and min(text) < 0x80 for text in texts):
        return None
    return np.array([_WIDE if len(text) > 1 else sum(text.strip()) for text in texts], np.uint8)


def _share(lanes: Uint64s, places: Ints) -> Uint64s:
    """What eight bytes add to the sum of a word in which they stand from the byte `places` on."""
    return lanes * _LOW_FACTOR.take(places) + (lanes >> _HIGH_SHIFT.take(places)) * _HIGH_FACTOR.take(places)


def _before_zero(lanes: Uint64s) -> tuple[Uint64s, Bools]:
    """Eight bytes each with all from the first zero byte on cleared, and whether there was no zero byte.

    The lowest bit that `zeros` has is the highest of the first zero byte (Mycroft 1987).
    """
    zeros = (lanes - np.uint64(0x0101010101010101)) & ~lanes & np.uint64(0x8080808080808080)
    return lanes & ((zeros & -zeros) - np.uint64(1)), zeros == 0
