"""Batches made ready ahead of the one that computes, by threads or by other processes."""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from caffelite import backend
from caffelite.backend import transfer
from caffelite.backend.kernels import cores
from caffelite.backend.processes import NoProcesses, Processes
from caffelite.backend.transfer import Slot, Staged, Staging
from caffelite.errors import BackendError

logger = logging.getLogger("caffelite")

MOST_PROCESSES = 16  # of some 50 MB each

Load = Callable[[Any], tuple[Sequence[np.ndarray], Any]]
"""What makes an item ready: the item -> arrays for a net, and what else is to be known of it."""

Loaded = tuple[Staged, Any, Any]
"""The arrays of an item on their way to the net, the rest of what `load` gave, and the note beside the item."""


def in_turn(load: Load, items: Iterable[tuple[Any, Any]]) -> Iterator[Loaded]:
    """Load each of the items (item, note) when it is asked for."""
    staging = Staging()

    def loaded(pair: tuple[Any, Any]) -> Loaded:
        arrays, rest = load(pair[0])
        return staging.stage(arrays), rest, pair[1]

    return map(loaded, items)


class Prefetcher:
    """Gives what `in_turn` does, but loads ahead of what is asked for.

    On a CPU in so many `threads`. Beside a GPU in processes, if there is `elsewhere`, which does there what `load` does
    here: threads would keep the interpreter from the one that launches the GPU's work. It and the items, but not the
    notes, go there by `pickle` (so that it is a function of a module, or a functools.partial of one); if it cannot,
    threads load. The items are taken in order, in the caller's thread, so that taking them may draw random numbers.
    `ahead` of them are loaded, or one for each process and two, if that is more. `size`: how many numbers an item's
    arrays have, if that is known.
    """

    def __init__(
        self,
        load: Load,
        items: Iterable[tuple[Any, Any]],
        threads: int,
        elsewhere: Load | None = None,
        ahead: int = 0,
        size: int = 1,
    ):
        self._items, self._exhausted = iter(items), False
        self._pending: deque[tuple[Future, Any]] = deque()
        self._pool = _pool(load, threads, elsewhere, ahead, size)

    def restart(self, items: Iterable[tuple[Any, Any]]) -> None:
        """Go on with other items; drop what was loaded ahead."""
        self._items, self._exhausted = iter(items), False
        for future, _ in self._pending:
            if not future.cancel():
                future.add_done_callback(_drop)
        self._pending.clear()

    def __iter__(self) -> Prefetcher:
        return self

    def fill(self) -> None:
        """Take as many items as shall be loaded ahead, and start to bring those to the GPU that are ready: what the
        next call of next() does otherwise."""
        self._pool.collect()
        while self._pool.has_room(len(self._pending)):
            try:
                item, note = next(self._items)
            except StopIteration:
                self._exhausted = True
                break
            self._pending.append((self._pool.submit(item), note))

    def __next__(self) -> Loaded:
        self.fill()
        while not (self._pending and self._pending[0][0].done()):
            if not self._pending and self._exhausted:
                self.close()
                raise StopIteration
            self._pool.wait(self._pending)
            self.fill()
        future, note = self._pending.popleft()
        return *future.result(), note

    @property
    def workers(self) -> str:
        """What loads, e.g. "7 processes"."""
        return self._pool.workers

    def close(self) -> None:
        """Drop what was loaded ahead; the threads or processes end."""
        self._pool.close()


def _drop(future: Future) -> None:
    if not (future.cancelled() or future.exception()):
        future.result()[0].drop()


def _pool(load: Load, threads: int, elsewhere: Load | None, ahead: int, size: int) -> _Threads | _Processes:
    if backend.on_gpu() and elsewhere is not None:
        try:
            return _Processes(elsewhere, min(max(2, cores() - 1), MOST_PROCESSES), ahead, size)
        except NoProcesses as e:
            logger.info("batches are made ready in threads, which costs the GPU some time, not in processes: %s", e)
    return _Threads(load, threads, ahead)


class _Threads:
    def __init__(self, load: Load, count: int, ahead: int):
        self.workers = f"{count} thread(s)"
        self._load, self._staging, self._ahead = load, Staging(), ahead or count + 2
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="prefetch")

    def has_room(self, pending: int) -> bool:
        return pending <= self._ahead

    def submit(self, item: Any) -> Future:
        return self._executor.submit(self._loaded, item)

    def _loaded(self, item: Any) -> tuple[Staged, Any]:
        arrays, rest = self._load(item)
        return self._staging.stage(arrays), rest

    def collect(self) -> None:
        pass

    def wait(self, pending: Sequence[tuple[Future, Any]]) -> None:
        concurrent.futures.wait([pending[0][0]])

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


class _Processes:
    """Arrays come in memory that the GPU copies from; until their size is known, or if it is too much, by `pickle`."""

    def __init__(self, load: Load, count: int, ahead: int, size: int):
        self.workers = f"{count} processes"
        # twice as much memory: slots grow into new memory
        self._processes = Processes(count, functools.partial(_load_packed, load), 2 * transfer.MOST)
        self._staging = Staging(self._processes.memory)
        self._ahead, self._size = max(ahead, count + 2), max(1, size)
        slot = self._reserve()
        if slot is None:
            self.close()
            raise NoProcesses("there is no page-locked memory that processes share")
        self._staging.give_back(slot)

    def has_room(self, pending: int) -> bool:
        if not pending and not self._processes.left:
            raise BackendError("all processes that made batches ready have ended")
        slots = transfer.MOST // (2 * self._size)  # whose sizes are powers of two
        return pending <= min(self._ahead, max(1, slots)) and self._processes.idle > 0

    def submit(self, item: Any) -> Future:
        # small slots for items of a size that is not known would keep their share of the memory
        slot, future = self._reserve() if self._size > 1 else None, Future()
        place = (slot.start, slot.size) if slot else (None, 0)
        answer = self._processes.submit((item, *place))
        answer.add_done_callback(functools.partial(_answered, weakref.ref(self), future, slot))
        return future

    def _reserve(self) -> Slot | None:
        try:
            slot = self._staging.reserve(self._size)
        except MemoryError:  # told when the batch is staged: then a layer asks for it
            return None
        if slot and slot.start is None:
            self._staging.give_back(slot)
            return None
        return slot

    def _stage(self, future: Future, slot: Slot | None, answer: Future) -> None:
        try:
            if not future.set_running_or_notify_cancel():
                return
            shapes, arrays, rest = answer.result()
            if arrays is None:
                staged, slot = self._staging.send(slot, shapes), None
            else:
                staged = self._staging.stage(arrays)
                self._size = max(self._size, transfer.room(shapes))
            future.set_result((staged, rest))
        except Exception as e:
            future.set_exception(e)
        finally:
            if slot:
                self._staging.give_back(slot)

    def collect(self) -> None:
        self._processes.receive(wait=False)

    def wait(self, pending: Sequence[tuple[Future, Any]]) -> None:
        self._processes.receive(wait=True)

    def close(self) -> None:
        self._processes.close()


def _answered(pool: weakref.ref[_Processes], future: Future, slot: Slot | None, answer: Future) -> None:
    if (pool := pool()) is not None:
        pool._stage(future, slot, answer)


def _load_packed(load: Load, numbers: np.ndarray, job: tuple[Any, int | None, int]):
    """In another process: an item's arrays packed where the job says, or given back if they do not fit."""
    item, start, size = job
    arrays, rest = load(item)
    arrays = [np.asarray(values, np.float32) for values in arrays]
    shapes = [values.shape for values in arrays]
    if not arrays or start is None or transfer.room(shapes) > size:
        return shapes, arrays, rest
    transfer.pack(arrays, numbers[start : start + size])
    return shapes, None, rest
