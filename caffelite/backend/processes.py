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
import select
import signal
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from multiprocessing.connection import Connection, Pipe
from multiprocessing.connection import wait as connections_ready
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from caffelite.errors import BackendError

PAGE = mmap.PAGESIZE // 4  # numbers of float32
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
ONE_THREAD = dict.fromkeys(LIBRARIES, "1")
READY = "ready"
PACKAGE = str(Path(__file__).resolve().parents[2])  # sys.path may say it by a path from another folder
START = (
    "import sys\n"
    "sys.path[:] = {!a}\n"  # before anything is imported from the current folder
    "from caffelite.backend.processes import serve\n"
    "serve({}, {}, {})\n"
)
GROUP_SIGNALS = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
        except Exception as e:  # whatever an object's own code may raise
            raise NoProcesses(str(e)) from None
        if b"__main__" in setup:
            raise NoProcesses("other processes do not import the program itself")
        if not sys.executable or getattr(sys, "frozen", False) or not hasattr(os, "memfd_create"):
            raise NoProcesses("there is no Python to start, or no os.memfd_create to share memory")
        try:
            with _shared_file(4 * size) as descriptor:
                self.memory = SharedMemory(size, descriptor)
                for _ in range(count):
                    started.append(_Process(size, descriptor))
            for process in started:
                process.connection.send_bytes(setup)
            for process in started:
                if (answer := process.connection.recv()) != READY:
                    raise NoProcesses(answer)
        except BaseException as e:
            self.close()
            if isinstance(e, EOFError | OSError):
                raise NoProcesses(f"one that was started has ended ({e})") from None
            raise
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
        future = Future()
        try:
            text = pickle.dumps(job)
        except Exception as e:
            future.set_exception(e)
            return future
        process = self._idle.pop()
        try:
            process.connection.send_bytes(text)
        except OSError:
            future.set_exception(process.ended())
        else:
            self._busy[process.connection] = process, future
        return future

    def receive(self, wait: bool) -> None:
        """Take what has been answered; if so wished, wait until something is. Raises BackendError where that would be
        for ever."""
        if wait and not self._busy:
            raise BackendError("the processes that make batches ready have nothing to do, and a batch is waited for")
        for connection in connections_ready(list(self._busy), None if wait else 0):
            process, future = self._busy.pop(connection)
            try:
                text = connection.recv_bytes()
            except (EOFError, OSError):
                future.set_exception(process.ended())
                continue
            self._idle.append(process)
            try:
                result, error, where = pickle.loads(text)
            except Exception as e:
                result, error, where = None, e, "its answer cannot be read"
            if error is None:
                future.set_result(result)
            else:
                error.__cause__ = RuntimeError(f"in a process of its own:\n{where}")
                future.set_exception(error)


class _Process:
    def __init__(self, size: int, memory: int):
        self.connection, theirs = Pipe()
        with theirs:
            text = START.format([*map(str, sys.path), PACKAGE], theirs.fileno(), size, memory)
            # what is blocked here stays so there: a signal to the group is for this process alone
            before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
            try:
                self._process = subprocess.Popen(
                    [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", text],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), memory),
                    env={**os.environ, **ONE_THREAD},
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def ended(self) -> BackendError:
        """The error that says how it has ended, as it seems to have."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        code = self._process.poll()
        _end(os.getpid(), [self])
        if code is None:
            how = "the connection and not itself"
        elif code >= 0:
            how = f"with exit status {code}"
        else:
            how = f"by signal {-code}"
            with contextlib.suppress(ValueError):  # not all have a name
                how += f" ({signal.Signals(-code).name})"
            how += ", as where the system has no memory left" if code == -signal.SIGKILL else ""
        return BackendError(f"process {self._process.pid}, which made batches ready, has ended {how}")


def _end(owner: int, processes: list[_Process]) -> None:
    if os.getpid() != owner:  # but its copy, where someone has forked it
        return
    for process in processes:
        process.connection.close()
        process._process.kill()
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):  # the system may be waiting for a disk
            process._process.wait(10)


@contextlib.contextmanager
def _shared_file(size: int) -> Iterator[int]:
    """A file of zeros in memory, without a name, open as long as wanted here."""
    descriptor = os.memfd_create("caffelite")
    try:
        os.ftruncate(descriptor, size)
        yield descriptor
    finally:
        os.close(descriptor)


def serve(connection: int, size: int, memory: int) -> None:
    """What a process does: jobs from a connection, until nobody has its other end."""
    Thread(target=_leave_with_parent, args=(connection,), daemon=True).start()
    logging.disable()  # what is to be said is said by the process that has given the work, once
    pipe = Connection(connection)
    try:
        function, numbers = pickle.loads(pipe.recv_bytes()), SharedMemory(size, memory).numbers
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send(READY)
    while True:
        try:
            pipe.send_bytes(_answer(function, numbers, pipe.recv_bytes()))
        except (EOFError, OSError):
            return


def _answer(function: Callable, numbers: np.ndarray, job: bytes) -> bytes:
    try:
        return pickle.dumps((function(numbers, pickle.loads(job)), None, ""))
    except Exception as error:
        where = traceback.format_exc()
        try:
            answer = pickle.dumps((None, error, where))
            pickle.loads(answer)  # not all that goes comes back
        except Exception:
            answer = pickle.dumps((None, BackendError(f"{type(error).__name__}: {error}"), where))
        return answer


def _leave_with_parent(connection: int) -> None:
    """End the process when the one that has started it is gone, whatever is being done."""
    gone = select.poll()
    gone.register(connection, 0)
    gone.poll()
    os._exit(0)
