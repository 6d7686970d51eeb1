"""Signals and locks of a training, and what a compiler's interruption leaves, with processes that get real signals."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from caffelite.errors import SolverError
from caffelite.solver.lock import locked
from caffelite.solver.signals import Signals, Stopped

ROOT = Path(__file__).resolve().parents[2]


def send(number):
    os.kill(os.getpid(), number)


def python(code, *arguments, **environment):
    path = os.pathsep.join([str(ROOT), str(ROOT / "lib")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_a_wish_and_a_second_ctrl_c_ends_at_once(number, status):
    with Signals() as signals:
        assert signals() is None
        send(number)
        assert signals() == "stop" and signals.stopped_by == number
        send(signal.SIGTERM)
        with pytest.raises(Stopped) as stopped:
            send(signal.SIGINT)
        assert stopped.value.status == 130 and Stopped("", number).status == status
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sighup_is_a_wish_for_a_snapshot():
    with Signals() as signals:
        send(signal.SIGHUP)
        assert signals() == "snapshot" and signals() is None
        send(signal.SIGHUP)
        send(signal.SIGTERM)
        assert signals() == "stop"


def test_other_effects():
    with Signals(sigint="snapshot", sighup="none") as signals:
        send(signal.SIGHUP)
        assert signals() is None
        for _ in range(2):
            send(signal.SIGINT)
            assert signals() == "snapshot"


def test_who_has_other_plans_keeps_them():
    got = []
    before = signal.signal(signal.SIGINT, lambda number, frame: got.append(number))
    try:
        with Signals() as signals:
            send(signal.SIGINT)
            assert signals() is None and got == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)
    answers = []

    def elsewhere():
        with Signals() as signals:
            answers.append(signals())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert answers == [None]


LOCK = """
import sys
from caffelite.solver.lock import locked
with locked(sys.argv[1]):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_second_training_is_refused_with_the_process_of_the_first(tmp_path):
    prefix = tmp_path / "net"
    first = python(LOCK, prefix)
    assert first.stdout.readline() == "in\n"
    says = rf"net: process {first.pid} on \S+ trains and writes its snapshots there"
    with pytest.raises(SolverError, match=says), locked(prefix):
        pass
    with locked(tmp_path / "net2"):
        pass
    first.kill()  # the system frees its lock
    first.communicate()
    (tmp_path / ".net_iter_2.caffemodel.77.tmp").write_text("half")
    with locked(prefix):
        assert not (tmp_path / ".net_iter_2.caffemodel.77.tmp").exists()
    assert not list(tmp_path.iterdir())


def test_only_what_a_killed_training_of_the_prefix_left_is_deleted(tmp_path):
    ends = ["iter_2.caffemodel", "iter_10.solverstate.h5", "iter_2.resume.npz", "loss.jsonl", "classes.txt"]
    mine = [f".a[b].c_{end}.77.tmp" for end in ends]
    others = [f".a[b].c_{other}_{end}.77.tmp" for end in ends for other in ("d", "iter_2", "iter_2.x", "loss")]
    others += [
        ".a[b].c_iter_2.caffemodel.tmp",
        ".a[b].c_d.caffemodel.77.tmp",
        "a[b].c_loss.jsonl",
        ".abxc_loss.jsonl.7.tmp",
    ]
    for name in mine + others:
        (tmp_path / name).touch()
    with locked(tmp_path / "a[b].c"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_a_lock_in_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(SolverError, match="make sure that it exists"), locked(tmp_path / "none" / "net"):
        pass


def test_only_one_of_many_gets_a_lock(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(30):
            try:
                with locked(tmp_path / "net"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
            except SolverError:
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most and max(most) == 1


COMPILE = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from caffelite.solver.signals import Signals
from caffelite.backend import kernels
with Signals() if "signals" in sys.argv else kernels.tempfile.TemporaryDirectory():
    kernels.build_cpu("int x;", "mine")
"""


@pytest.fixture
def slow_compiler(tmp_path):
    """A compiler that takes a minute, with a child of its own as g++ has."""
    file = tmp_path / "compiler"
    file.write_text(
        f'#!/bin/sh\ncase "$1" in --version) exit 0;; esac\nsleep 1\necho $$ > {tmp_path}/started\nsleep 60 &\nwait\n'
    )
    file.chmod(0o755)
    return file


@pytest.mark.parametrize(
    "handler, number", [("signals", signal.SIGINT), ("signals", signal.SIGTERM), ("plain", signal.SIGINT)]
)
def test_a_signal_while_kernels_are_compiled_ends_it_at_once(tmp_path, slow_compiler, handler, number):
    cache = tmp_path / "cache"
    process = python(COMPILE, handler, CXX=str(slow_compiler), CAFFELITE_CACHE=str(cache))
    line = process.stderr.readline()
    assert line == f"compiling CPU kernels with {slow_compiler}; it is done once, they are kept in {cache}/kernels\n"
    while not (tmp_path / "started").exists():
        time.sleep(0.02)
    began = time.perf_counter()
    process.send_signal(number)
    process.communicate()
    assert time.perf_counter() - began < 20 and process.returncode != 0
    assert list((cache / "kernels").iterdir()) == []
    compiler = int((tmp_path / "started").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(compiler, 0)


def test_a_compiler_that_is_killed_leaves_no_kernels(tmp_path):
    file = tmp_path / "compiler"
    file.write_text('#!/bin/sh\ncase "$1" in --version) exit 0;; esac\nkill -9 $$\n')
    file.chmod(0o755)
    process = python(COMPILE, "signals", CXX=str(file), CAFFELITE_CACHE=str(tmp_path / "cache"))
    _, errors = process.communicate()
    assert "was ended by signal 9 at mine.cc: try again" in errors
    assert list((tmp_path / "cache" / "kernels").iterdir()) == []


def test_two_processes_that_compile_the_same_kernels(tmp_path):
    code = (
        "import numpy as np; from caffelite.backend.kernels import kernels; x = np.ones(5, np.float32); "
        "kernels(r'%s').twice(5, x, x); print(x.sum())"
    )
    text = "KERNEL(twice)(int n, const float* x, float* y) { KERNEL_LOOP(i, n) y[i] = 2 * x[i]; }\n"
    (tmp_path / "mine.cu").write_text(text)
    both = [python(code % (tmp_path / "mine.cu"), CAFFELITE_CACHE=str(tmp_path / "cache")) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["10.0\n"] * 2
    (library,) = (tmp_path / "cache" / "kernels").iterdir()
    assert library.name.startswith("mine-") and library.suffix == ".so"
