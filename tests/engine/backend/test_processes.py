"""Functions in processes of their own, whose memory is shared."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest

from caffelite.backend.processes import PAGE, NoProcesses, Processes, SharedMemory
from caffelite.errors import BackendError, FileFormatError

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux: memory without a name")


def work(factor, numbers, job):
    """What the tests have done elsewhere."""
    what, value = job
    if what == "double":
        numbers[value] *= factor
    elif what == "fail":
        raise FileFormatError(value)
    elif what == "end":
        sys.exit(value) if value < 256 else os.kill(os.getpid(), signal.SIGKILL)
    elif what == "needs two":
        raise NeedsTwo("one", "two")
    elif what == "lambda":
        return lambda: 0
    elif what == "sleep":
        time.sleep(value)
    return os.getpid()


@pytest.fixture
def make():
    made = []

    def start(count, size=4 * PAGE):
        made.append(Processes(count, partial(work, 2), size))
        return made[-1]

    yield start
    for processes in made:
        processes.close()


def answer(processes, *job):
    future = processes.submit(job)
    while not future.done():
        processes.receive(wait=True)
    return future


def test_jobs_are_done_elsewhere_in_memory_that_is_seen_here(make):
    processes = make(2)
    processes.memory.numbers[:] = np.arange(4 * PAGE)
    futures = [processes.submit(("double", slice(k * PAGE, (k + 1) * PAGE))) for k in (0, 2)]
    assert processes.idle == 0 and processes.left == 2
    while processes.idle < 2:
        processes.receive(wait=True)
    pids = {future.result() for future in futures}
    assert len(pids) == 2 and os.getpid() not in pids
    factors = np.repeat([2, 1, 2, 1], PAGE)
    np.testing.assert_array_equal(processes.memory.numbers, np.arange(4 * PAGE) * factors)


def test_errors_come_back_and_the_process_goes_on(make):
    processes = make(1)
    error = answer(processes, "fail", "bad.jpg: no image").exception()
    assert type(error) is FileFormatError and str(error) == "bad.jpg: no image"
    assert "in work" in str(error.__cause__)
    assert answer(processes, "sleep", 0).result()


@pytest.mark.parametrize("value, how", [(7, "with exit status 7"), (256, r"by signal 9 \(SIGKILL\)")])
def test_a_process_that_ends_is_told(make, value, how):
    processes = make(2)
    with pytest.raises(BackendError, match=rf"^process \d+, which made batches ready, has ended {how}"):
        answer(processes, "end", value).result()
    assert processes.left == 1
    first = answer(processes, "sleep", 0).result()
    os.kill(first, signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(BackendError, match="SIGKILL"):
        answer(processes, "sleep", 0).result()
    assert processes.left == processes.idle == 0


def test_signals_of_the_group_do_not_end_them(make):
    processes = make(1)
    pid = answer(processes, "sleep", 0).result()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert answer(processes, "sleep", 0).result() == pid


def running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def assert_end(pids) -> None:
    limit = time.monotonic() + 20
    while any(map(running, pids)):
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_closing_ends_them_whatever_they_do(make):
    processes = make(2)
    pids = [answer(processes, "sleep", 0).result() for _ in range(4)]
    processes.submit(("sleep", 1000))
    processes.close()
    assert not any(map(running, pids))
    processes.close()


def test_a_copy_of_the_process_does_not_end_them(make):
    processes = make(1)
    pid = answer(processes, "sleep", 0).result()
    copy = os.fork()
    if not copy:
        processes.close()
        os._exit(0)
    os.waitpid(copy, 0)
    assert answer(processes, "sleep", 0).result() == pid


PROGRAM = """
import functools, os, time
from caffelite.backend.processes import Processes
from tests.engine.backend import test_processes as t
processes = Processes(2, functools.partial(t.work, 2), 1024)
first = processes.submit(("sleep", 0))
while not first.done(): processes.receive(wait=True)
processes.submit(("sleep", 500))
print(os.getpid(), first.result(), flush=True)
time.sleep(1000)
"""


def test_they_end_with_the_process_that_started_them():
    path = os.pathsep.join(folder for folder in sys.path if folder)
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as parent:
        pids = list(map(int, parent.stdout.readline().split()))
        assert len(pids) == 2 and all(map(running, pids))
        parent.kill()
    assert_end(pids)


def of_the_program(numbers, job):
    """What a script might define."""


def test_functions_that_other_processes_cannot_have(monkeypatch):
    with pytest.raises(NoProcesses, match="lambda"):
        Processes(1, lambda numbers, job: job, PAGE)
    monkeypatch.setattr(of_the_program, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "of_the_program", of_the_program, raising=False)
    with pytest.raises(NoProcesses, match="other processes do not import the program itself"):
        Processes(1, of_the_program, PAGE)


def test_jobs_that_other_processes_cannot_have_change_nothing(make):
    processes = make(1)
    with pytest.raises(Exception, match="lambda"):
        processes.submit(("sleep", lambda: 0)).result()
    assert processes.idle == 1 and answer(processes, "sleep", 0).result()


class NeedsTwo(Exception):
    """What goes by pickle and does not come back."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


@pytest.mark.parametrize("what, says", [("needs two", "NeedsTwo: one two"), ("lambda", "lambda")])
def test_answers_that_do_not_come_back_are_told(make, what, says):
    processes = make(1)
    with pytest.raises(Exception, match=says):
        answer(processes, what, 0).result()
    assert answer(processes, "sleep", 0).result()


def test_a_function_that_is_not_found_there(monkeypatch, tmp_path):
    monkeypatch.setattr(of_the_program, "__module__", "made_up")
    monkeypatch.setitem(sys.modules, "made_up", sys.modules[__name__])
    with pytest.raises(NoProcesses, match="ModuleNotFoundError: No module named 'made_up'"):
        Processes(1, of_the_program, PAGE)


def test_nothing_is_waited_for_for_ever(make):
    with pytest.raises(BackendError, match="have nothing to do"):
        make(1).receive(wait=True)


@pytest.mark.parametrize("name", ["memfd_create", "executable"])
def test_systems_that_start_none(monkeypatch, name):
    if name == "executable":
        monkeypatch.setattr(sys, name, "/nowhere/python")
    else:
        monkeypatch.delattr(os, name)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NoProcesses, match="/nowhere/python" if name == "executable" else name):
        Processes(1, partial(work, 2), PAGE)
    assert len(os.listdir("/proc/self/fd")) == before


def test_memory_is_given_once_in_whole_pages():
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, 4 * 4 * PAGE)
    memory = SharedMemory(4 * PAGE, descriptor)
    os.close(descriptor)
    (start, some), (then, more) = memory.allocate(PAGE + 1), memory.allocate(1)
    assert (start, some.size, then, more.size) == (0, 2 * PAGE, 2 * PAGE, PAGE)
    assert some.ctypes.data % (4 * PAGE) == 0
    some[:], more[:] = 1, 2
    assert memory.numbers.tolist() == [1] * 2 * PAGE + [2] * PAGE + [0] * PAGE
    assert memory.allocate(PAGE + 1) is None and memory.allocate(PAGE)[0] == 3 * PAGE
    assert memory.allocate(1) is None
