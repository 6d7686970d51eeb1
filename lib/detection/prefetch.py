"""Work that threads do ahead of the one that computes: reading and scaling images."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from caffelite import backend
from caffelite.backend.kernels import cores

THREADS_BESIDE_CPU = 2  # where the net computes on the CPU, it needs the cores
MOST_THREADS = 8


class Prefetcher:
    """Iterates over `load(item)`, as `map` does, but loads some items ahead, in threads.

    The items are taken in order, in the caller's thread, so that taking them may draw random numbers.
    """

    def __init__(self, load: Callable[[Any], Any], items: Iterable[Any]):
        threads = min(cores(), MOST_THREADS) if backend.on_gpu() else THREADS_BESIDE_CPU
        self.ahead = threads + 2
        self._load, self._items = load, iter(items)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
        self._pending: deque = deque()

    def __iter__(self) -> Prefetcher:
        return self

    def fill(self) -> None:
        """Take items until so many are being loaded as shall be: what the next call of next() does otherwise."""
        while len(self._pending) <= self.ahead:
            try:
                item = next(self._items)
            except StopIteration:
                break
            self._pending.append(self._pool.submit(self._load, item))

    def __next__(self) -> Any:
        self.fill()
        if not self._pending:
            self.close()
            raise StopIteration
        return self._pending.popleft().result()

    def close(self) -> None:
        """Drop what was read ahead and wait for the threads to end."""
        self._pool.shutdown(cancel_futures=True)
