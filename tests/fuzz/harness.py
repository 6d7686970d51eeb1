"""Runs tasks in a child process that may crash, hang or eat memory, and says what became of each.

The child is a fork: it starts with everything that the parent has loaded, and a new one takes over behind a task that
ended it. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

POLL = 0.2  # seconds
OUT_OF_MEMORY = "Insufficient memory"  # as OpenCV says
ACCEPTED, REFUSED = "accepted", "refused"
FOREIGN, MEMORY, HANG, CRASH = "foreign exception", "memory", "hang", "crash"
FAULTS = (FOREIGN, MEMORY, HANG, CRASH)


@dataclass
class Outcome:
    """What became of one task: its number, one of the words above, its value or the error's text, and the time."""

    number: int
    verdict: str
    detail: str
    seconds: float


def watch(
    task: Callable[[int], str], numbers: Sequence[int], refusal: type[Exception], seconds: float, megabytes: int
) -> Iterator[Outcome]:
    """Run task(number) for all numbers; yields what became of each.

    A task may return a text (accepted) or raise `refusal`. It may take `seconds` of processor time, and six times as
    long in all, as the machine may be busy. Its process may grow by `megabytes` of address space (0: any). A
    MemoryError is a fault even if it became the cause of a refusal.
    """
    todo = list(numbers)
    while todo:
        reader, writer = multiprocessing.Pipe(duplex=False)
        child = os.fork()
        if not child:
            _work(task, todo, refusal, megabytes, writer)
        writer.close()
        verdict, detail = CRASH, ""
        with reader, contextlib.suppress(EOFError):
            while todo:
                start = time.monotonic()
                if not _answers(reader, child, seconds):
                    verdict, detail = HANG, f"over {seconds} s"
                    break
                result = reader.recv()
                yield Outcome(todo.pop(0), *result, time.monotonic() - start)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if todo:
            yield Outcome(todo.pop(0), verdict, detail or f"exit status {status}", time.monotonic() - start)


def _answers(reader, child: int, seconds: float) -> bool:
    """Wait for the child's next message, as long as `watch` allows; False if none came."""
    processor = _processor_time(child)
    # not by the clock, which goes on while someone has stopped parent and child
    for _ in range(int(6 * seconds / POLL)):
        if reader.poll(POLL):
            return True
        if _processor_time(child) - processor > seconds:
            return False
    return False


def _processor_time(process: int) -> float:
    """Seconds that a process has computed so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _work(task: Callable[[int], str], numbers: list[int], refusal: type[Exception], megabytes: int, writer) -> NoReturn:
    """The child's life."""
    status = 1
    try:
        _limit_memory(megabytes)
        for number in numbers:
            writer.send(_try(task, number, refusal))
        status = 0
    finally:
        os._exit(status)


def _try(task: Callable[[int], str], number: int, refusal: type[Exception]) -> tuple[str, str]:
    try:
        return ACCEPTED, task(number)
    except refusal as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MemoryError):
            cause = cause.__cause__ or cause.__context__
        enough = cause is None and OUT_OF_MEMORY not in str(error)
        return (REFUSED if enough else MEMORY), f"{type(error).__name__}: {error}"
    except MemoryError:
        return MEMORY, traceback.format_exc()
    except Exception:
        return FOREIGN, traceback.format_exc()


def _limit_memory(megabytes: int) -> None:
    # threads of glibc reserve 64 MB of addresses each for arenas of their own, unless told to share one
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(-8, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20 if megabytes else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
