"""Sorting more records than fit into memory: into files by the first bits of their keys, then file by file.

What is sorted are keys with the numbers of the documents they belong to. Documents with equal keys come together.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt

RECORD: Final = np.dtype([("high", np.uint64), ("low", np.uint64), ("number", np.int64)])
"""A key of 128 bits and the number of a document."""

Records = npt.NDArray[np.void]
"""Of dtype RECORD."""

BUCKET_BYTES = 2**25
"""What is sorted at a time; sorting takes about 2.5 times as much memory."""

MOST_BITS: Final = 7  # of a key at a time: 128 files are open at once, of the 256 that a process may have on a Mac
KEY_BITS: Final = 128
BLOCK: Final = 2**16  # records that are moved at a time


def key_records(keys: Sequence[bytes], first: int) -> Records:
    """A record for each key of 16 bytes, such as `Document.key`; the documents are numbered from `first` on."""
    halves = np.frombuffer(b"".join(keys), ">u8").reshape(-1, 2)
    return make_records(halves[:, 0], halves[:, 1], np.arange(first, first + len(keys)))


def make_records(high: npt.ArrayLike, low: npt.ArrayLike, number: npt.ArrayLike) -> Records:
    """Records of three columns of equal length."""
    columns = np.asarray(high), np.asarray(low), np.asarray(number)
    records = np.empty(len(columns[0]), RECORD)
    records["high"], records["low"], records["number"] = columns
    return records


def grouped(
    records: Iterable[Records], count: int, folder: Path, bucket_bytes: int = BUCKET_BYTES
) -> Iterator[Records]:
    """All records, sorted by key and then by number, in arrays none of which parts records of one key.

    `records` come in arrays of any size, `count` in all. `folder` is for files that hold as much as the records do:
    whatever was in it is removed, and so is it in the end. An array has at most `bucket_bytes`, unless there are more
    records of one key. OSError if the disk is full.
    """
    if count * RECORD.itemsize <= bucket_bytes:
        held = list(records)
        if held:
            yield _sorted(np.concatenate(held))
        return
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield from _distribute(records, count, folder, bucket_bytes, 0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stored_records(path: Path) -> Iterator[Records]:
    """The records of a file, as their bytes were written, a few at a time."""
    with path.open("rb") as file:
        while len(block := np.fromfile(file, RECORD, BLOCK)):
            yield block


def first_of_each(records: Records) -> npt.NDArray[np.int64]:
    """For each record of a sorted array, the place of the first record that has the same key."""
    starts = np.ones(len(records), np.bool_)
    starts[1:] = (records["high"][1:] != records["high"][:-1]) | (records["low"][1:] != records["low"][:-1])
    return np.maximum.accumulate(np.where(starts, np.arange(len(records)), 0))


def _distribute(records: Iterable[Records], count: int, folder: Path, size: int, bit: int) -> Iterator[Records]:
    """Write `records`, whose keys agree in the first `bit` bits, into files by the bits that follow, and read these."""
    wanted = count * RECORD.itemsize * 5 // (size * 4)  # buckets; with a little room, for they are not equally long
    bits = min(MOST_BITS, 64 - bit % 64, max(1, wanted.bit_length()))
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        files: dict[int, BinaryIO] = {}
        for block in filter(len, records):
            bucket = _bits(block, bit, bits)
            order = np.argsort(bucket, kind="stable")
            found, edges = np.unique(bucket[order], return_index=True)
            for place, part in zip(found.tolist(), np.split(block[order], edges[1:]), strict=True):
                if place not in files:
                    files[place] = stack.enter_context((folder / f"{place:03d}").open("wb"))
                files[place].write(part.tobytes())
    for place in sorted(files):
        path = folder / f"{place:03d}"
        yield from _read_bucket(path, size, bit + bits)
        path.unlink()


def _read_bucket(path: Path, size: int, bit: int) -> Iterator[Records]:
    """A file's records, sorted: at once if they are few enough or of one key, or else distributed once more."""
    length = path.stat().st_size
    if length <= size or bit == KEY_BITS or _one_key(path):
        yield _sorted(np.fromfile(path, RECORD))
        return
    inner = path.with_suffix(".parts")
    yield from _distribute(stored_records(path), length // RECORD.itemsize, inner, size, bit)
    shutil.rmtree(inner)


def _one_key(path: Path) -> bool:
    keys = (block[["high", "low"]] for block in stored_records(path))
    first = np.fromfile(path, RECORD, 1)[["high", "low"]][0]
    return all(bool((block == first).all()) for block in keys)


def _bits(records: Records, first: int, count: int) -> npt.NDArray[np.uint8]:
    """The `count` bits of each key from bit `first` on, the highest bit being the first. They are in one half of it."""
    half = records["high"] if first < 64 else records["low"]
    return ((half << np.uint64(first % 64)) >> np.uint64(64 - count)).astype(np.uint8)


def _sorted(records: Records) -> Records:
    return records[np.lexsort((records["number"], records["low"], records["high"]))]
