"""Places in a text: where it may be cut, and where its characters lie."""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Int64s = npt.NDArray[np.int64]

# Whatever comes before it is no white space, so no token of GPT-2's pattern reaches across: cutting changes no token.
_CUT = re.compile(r"(?<=\S)[ \n]")


def pieces(text: str, size: int) -> Iterator[str]:
    """`text` cut where it changes no token of GPT-2's pattern, each time at the first such place after `size`."""
    start = 0
    while cut := _CUT.search(text, start + size):
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def byte_positions(text: str) -> Int64s:
    """Where each character begins in the UTF-8 of `text`, and where the last one ends; shape (characters + 1,)."""
    points = np.frombuffer(text.encode("utf-32-le"), "<u4")
    widths = 1 + sum((points >= least).astype(np.int64) for least in (0x80, 0x800, 0x10000))
    return np.concatenate([[0], np.cumsum(widths)])
