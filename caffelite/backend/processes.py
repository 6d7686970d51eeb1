"""Functions that run in processes of their own, and memory that they share with this one.

A thread that reads images asks for the interpreter some twenty times an image and keeps it from the one that launches a
GPU's work; a process does not (docs/benchmarks.md). The processes are started with `subprocess`, not `multiprocessing`,
which would run the user's program again or copy a process that has a GPU open.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import pickle
import signal
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing.connection import Connection, Pipe
from multiprocessing.connection import wait as connections_ready
from typing import Any

import numpy as np

from caffelite.errors import BackendError

PAGE = mmap.PAGESIZE // 4  # numbers of float32
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
START = (
    "import signal, sys\n"
    "for name in ('SIGINT', 'SIGTERM', 'SIGHUP'): signal.signal(getattr(signal, name), signal.SIG_IGN)\n"
    "sys.path[:] = {!r}\n"
    "from caffelite.backend.processes import serve\n"
    "serve({}, {}, {})\n"
)


class NoProcesses(BackendError):
    """There can be none: the function cannot be given to them, or the system does not start them."""


class SharedMemory:
    """`numbers`: `size` float32 behind a descriptor, which other processes see that are given it. The system gives
    memory for what is used, and takes it back when nobody has it any more, however they end."""

    def __init__(self, size: int, descriptor: int):
        self.numbers = np.frombuffer(mmap.mmap(descriptor, 4 * size), np.float32)
        self._used = 0

    def allocate(self, size: int) -> tuple[int, np.ndarray] | None:
        """Whole pages with at least so many numbers that nobody had before: where they begin, and they themselves;
        None if there are no more."""
        start, size = self._used, -(-size // PAGE) * PAGE
        if start + size > self.numbers.size:
            return None
        self._used += size
        return start, self.numbers[start : start + size]


class Processes:
    """Processes that run `function(numbers, job)`, one job at a time, with `size` numbers of `memory` that all share.

    Function, jobs and what comes back have to be such that `pickle` takes them; the function's module is imported
    there. The processes end with this one, however it ends, and ignore the signals that a terminal or a scheduler gives
    to all of a group. `close()` ends them, whatever they are doing; so does the end of this object. Raises NoProcesses.
    """

    def __init__(self, count: int, function: Callable[[np.ndarray, Any], Any], size: int):
        self._busy: dict[Connection, tuple[_Process, Future]] = {}
        self._idle: list[_Process] = []
        started: list[_Process] = []
        self.close = weakref.finalize(self, _end, os.getpid(), started)
        try:
            setup = pickle.dumps(function)
            if b"__main__" in setup:
                raise pickle.PicklingError("other processes do not import the program itself")
            with _shared_file(4 * size) as descriptor:
                self.memory = SharedMemory(size, descriptor)
                for _ in range(count):
                    started.append(_Process(size, descriptor))
            for process in started:
                process.connection.send_bytes(setup)
        except (AttributeError, OSError, TypeError, pickle.PicklingError) as e:
            self.close()
            raise NoProcesses(str(e)) from None
        self._idle += started

    @property
    def idle(self) -> int:
        """How many have nothing to do."""
        return len(self._idle)

    @property
    def left(self) -> int:
        """How many there are, of those that have been started."""
        return len(self._idle) + len(self._busy)

    def submit(self, job: Any) -> Future:
        """Give a job to one that is idle. Its result is what the function returns or raises, or a BackendError if the
        process has ended; `receive` sets it."""
        text, future = pickle.dumps(job), Future()
        process = self._idle.pop()
        try:
            process.connection.send_bytes(text)
        except OSError:
            future.set_exception(process.ended())
        else:
            self._busy[process.connection] = process, future
        return future

    def receive(self, wait: bool) -> None:
        """Take what has been answered; if so wished, wait until something is."""
        for connection in connections_ready(list(self._busy), None if wait else 0):
            process, future = self._busy.pop(connection)
            try:
                result, error, text = connection.recv()
            except (EOFError, OSError):
                future.set_exception(process.ended())
                continue
            self._idle.append(process)
            if error is None:
                future.set_result(result)
            else:
                error.__cause__ = RuntimeError(f"in a process of its own:\n{text}")
                future.set_exception(error)


class _Process:
    def __init__(self, size: int, memory: int):
        self.connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START.format(list(map(str, sys.path)), theirs.fileno(), size, memory)],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), memory),
                env={**os.environ, **ONE_THREAD},
            )

    def ended(self) -> BackendError:
        """The error that says how it has ended, as it seems to have."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self.close()
        code = self._process.returncode
        how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit status {code}"
        how += ", as where the system has no memory left" if code == -signal.SIGKILL else ""
        return BackendError(
            f"process {self._process.pid}, which made batches ready, has ended {how}; what it had to say stands above"
        )

    def close(self) -> None:
        """End it."""
        self.connection.close()
        self._process.kill()
        self._process.wait()


def _end(owner: int, processes: list[_Process]) -> None:
    if os.getpid() == owner:  # not its copy, where someone has forked it
        for process in processes:
            process.close()


@contextlib.contextmanager
def _shared_file(size: int) -> Iterator[int]:
    """A file of zeros in memory, without a name, open as long as wanted here. All systems but Linux: AttributeError."""
    descriptor = os.memfd_create("caffelite")
    try:
        os.ftruncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)


def serve(connection: int, size: int, memory: int) -> None:
    """What a process does: jobs from a connection, until it is closed."""
    with contextlib.suppress(EOFError, OSError), Connection(connection) as pipe:
        logging.disable()  # what is to be said is said by the process that has given the work, once
        function, numbers = pickle.loads(pipe.recv_bytes()), SharedMemory(size, memory).numbers
        os.close(memory)
        while True:
            job = pipe.recv()
            try:
                answer = function(numbers, job), None, ""
            except Exception as error:
                answer = None, error, traceback.format_exc()
            pipe.send(answer)
