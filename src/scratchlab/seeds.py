"""Random streams, by role and by name, never by position.

Three roles: `init` (initial weights), `data` (order of the training windows), `noise` (dropout and the like).
Every stream is derived by hashing names, so that adding one never moves another: a new bias, a second head or an
extra evaluation leaves every other draw as it was. All of it is numpy and integers, so that PyTorch and JAX see the
same bits. Golden hashes in the tests hold the streams still.
"""

import hashlib

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]


def derive(seed: int, *names: str | int) -> int:
    """A 128-bit key from a seed and the names of what it is for, by SHA-256."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in (seed, *names)).encode()).digest()
    return int.from_bytes(digest[:16], "little")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator (Philox, counter-based) keyed by a seed and names."""
    return np.random.Generator(np.random.Philox(key=derive(seed, *names)))


def initial_normal(seed: int, parameter: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Standard normal draws in float64 for one parameter; the caller scales them and casts once."""
    return generator(seed, "init", parameter).standard_normal(shape)


def initial_uniform(seed: int, parameter: str, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Draws between -1 and 1 in float64 for one parameter; the caller scales them and casts once."""
    return generator(seed, "init", parameter).uniform(-1.0, 1.0, shape)


def noise_seed(seed: int, step: int, first_sequence: int) -> int:
    """63 bits for the default generator, before the micro-batch that starts at global sequence `first_sequence`."""
    return derive(seed, "noise", step, first_sequence) >> 65


def block_seeds(block: int) -> dict[str, int]:
    """The seed triple of block `block`; every study uses the same ones, so that studies share their baselines."""
    return {role: derive(block, "block", role) >> 97 for role in ("init", "data", "noise")}


def permute(indices: npt.NDArray[np.integer], n: int, seed: int, *names: str | int) -> npt.NDArray[np.int64]:
    """Where each of `indices` (all below `n`) lands in a keyed random permutation of range(n), in constant memory.

    A balanced Feistel network over the next power of four, walked until the image falls below `n` again
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    if n < 1:
        raise ValueError("a permutation needs at least one element")
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    round_keys = generator(seed, *names, "feistel").integers(0, 2**63, size=FEISTEL_ROUNDS, dtype=np.uint64)
    images = _feistel(np.asarray(indices, np.uint64), round_keys, half_bits)
    while (outside := images >= n).any():
        images[outside] = _feistel(images[outside], round_keys, half_bits)
    return images.astype(np.int64)


FEISTEL_ROUNDS = 8  # four make it pseudo-random in theory; twice that costs nothing here


def _feistel(values: UInt64s, round_keys: UInt64s, half_bits: int) -> UInt64s:
    mask = np.uint64((1 << half_bits) - 1)
    left, right = values >> np.uint64(half_bits), values & mask
    for key in round_keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << np.uint64(half_bits)) | right


def _mix(x: UInt64s) -> UInt64s:
    """splitmix64's finalizer (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
