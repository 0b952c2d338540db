"""White space in the UTF-8 of a text, found without looking at every character.

GPT-2's pattern cuts white space before its last character if something else follows: that one goes with what follows,
or stands alone. To know, the pattern has to look ahead, which makes a regular expression slow. But where no more than
two characters of white space stand in a row, and one at the end, each is a piece by itself or begins the next one, and
a pattern that does not look ahead cuts in the same places. So only longer runs are to be found, and are cut out here.
"""

import re
from collections.abc import Iterator

_ASCII = bytes(range(0x80))
_SPACES = bytes.maketrans(b"\t\n\x0b\x0c\r", b"     ")
# The other characters of Unicode's White_Space: U+0085, 00A0, 1680, 2000 to 200A, 2028, 2029, 202F, 205F, 3000.
_WIDE = re.compile(rb"\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80")
_RUN = re.compile(rb"   +")  # begins with what can be searched for; an alternative would make it several times slower


def blank(data: bytes) -> bytes:
    """The UTF-8 of a text with every byte of its white space made a space."""
    if not data.isascii() and _WIDE.search(data.translate(None, _ASCII)):  # of most texts, little is left to search
        data = _WIDE.sub(lambda found: b" " * len(found[0]), data)
    return data.translate(_SPACES)


def count_runs(blanked: bytes) -> int:
    """About how many runs are longer than may be left to a pattern that does not look ahead; 0 only if none is."""
    return blanked.count(b"   ") + blanked.endswith(b"  ")


def cut_at_runs(data: bytes, blanked: bytes) -> Iterator[tuple[str, bool]]:
    """The parts of a text, each with whether it is a run of white space that is one piece of GPT-2's pattern."""
    start, end = 0, len(data)
    for begin, stop in _runs(blanked):
        run = data[begin:stop].decode()
        piece = run if stop == end else run[:-1]
        if start < begin:
            yield data[start:begin].decode(), False
        if piece:  # a run of three bytes may be a single character
            yield piece, True
        start = begin + len(piece.encode())
    if start < end:
        yield data[start:].decode(), False


def _runs(blanked: bytes) -> Iterator[tuple[int, int]]:
    """Where each run of three bytes and more lies, and one of two at the end."""
    stop = 0
    for found in _RUN.finditer(blanked):
        yield found.start(), (stop := found.end())
    if stop < len(blanked) and blanked.endswith(b"  "):
        yield len(blanked) - 2, len(blanked)
