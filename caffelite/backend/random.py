"""Random numbers from counter-based streams, the same on every device and whatever ran before.

A stream is named by the seed and by words that say what it is for: (seed, layer, "weights", 0) or (seed, layer, pass).
Restoring the seed and the pass number restores every stream.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np

_seed: int | None = None


def set_random_seed(seed: int) -> None:
    """Set the seed of nets that are built from now on (pycaffe's name)."""
    global _seed
    _seed = int(seed)


def random_seed() -> int:
    """The current seed; drawn from the system's entropy if none was set."""
    if _seed is None:
        set_random_seed(secrets.randbits(31))
    return _seed


def stream_key(seed: int, *words) -> int:
    """A 64-bit key for the stream that the words name."""
    return int.from_bytes(hashlib.sha256(repr((seed, *words)).encode()).digest()[:8], "little")


def generator(seed: int, *words) -> np.random.Generator:
    """A numpy generator at the start of the stream that the words name."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, *words)))
