"""The launcher: signatures, what it refuses, how kernels are compiled and kept, and how many threads they get."""

import os

import numpy as np
import pytest

from caffelite.backend import kernels as launcher
from caffelite.backend.kernels import KernelFamily, build_cpu, kernels, signatures
from caffelite.errors import BackendError

TEXT = """
KERNEL(scaled_sum)(const int n, const float* __restrict__ a, const unsigned char* b, const float s, float* y) {
  KERNEL_LOOP(i, n) y[i] = s * (a[i] + b[i]);
}
"""


@pytest.fixture
def family(tmp_path, monkeypatch):
    monkeypatch.setenv("CAFFELITE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.cu").write_text(TEXT)
    return KernelFamily(tmp_path / "mine.cu")


def arrays():
    return np.arange(4, dtype=np.float32), np.full(4, 3, np.uint8), np.zeros(4, np.float32)


def test_signatures():
    assert signatures(TEXT) == {
        "scaled_sum": [
            ("int", False, True, "n"),
            ("float", True, True, "a"),
            ("unsigned char", True, True, "b"),
            ("float", False, True, "s"),
            ("float", True, False, "y"),
        ]
    }
    with pytest.raises(BackendError, match="'short x' has a type that the launcher lacks"):
        signatures("KERNEL(k)(short x) {}")


def test_a_kernel_of_ones_own_is_compiled_once(family, tmp_path):
    a, b, y = arrays()
    family.scaled_sum(4, a, b, 0.5, y)
    assert y.tolist() == [1.5, 2, 2.5, 3]
    (library,) = (tmp_path / "cache" / "kernels").iterdir()
    written = library.stat().st_mtime_ns
    KernelFamily(tmp_path / "mine.cu").scaled_sum(4, a, b, 2, y)
    assert y.tolist() == [6, 8, 10, 12] and library.stat().st_mtime_ns == written


def test_options_given_with_the_compiler_belong_to_the_library(monkeypatch, tmp_path):
    monkeypatch.setenv("CAFFELITE_CACHE", str(tmp_path))
    plain = build_cpu("int one;", "mine")
    monkeypatch.setenv("CXX", f"{launcher.compiler()[0]} -DANYTHING")
    assert build_cpu("int one;", "mine") != plain


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda a, b, y: (4, a, b, 0.5), "expected 5 arguments, actual 4"),
        (lambda a, b, y: (4, a.astype(float), b, 0.5, y), "scaled_sum, a: expected a contiguous float32 array"),
        (lambda a, b, y: (4, a, a, 0.5, y), "scaled_sum, b: expected a contiguous uint8 array, actual float32"),
        (lambda a, b, y: (2, a[::2], b, 0.5, y), "scaled_sum, a: expected a contiguous"),
        (lambda a, b, y: (4, a, b, 0.5, np.broadcast_to(y[:1], 1)), "scaled_sum, y: the array is read-only"),
        (lambda a, b, y: (2**31, a, b, 0.5, y), "n: 2147483648 is beyond int32"),
    ],
)
def test_arguments_that_do_not_fit(family, change, says):
    with pytest.raises(BackendError, match=says):
        family.scaled_sum(*change(*arrays()))


def test_names_that_do_not_exist(family):
    with pytest.raises(AttributeError, match=r"mine has no kernel sum; it has .*scaled_sum"):
        _ = family.sum
    with pytest.raises(BackendError, match=r"expected a file .*nothing\.cc"):
        kernels("nothing")


def test_no_compiler_is_one_sentence_with_two_ways_out(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setitem(launcher.sys.modules, "ziglang", None)
    with pytest.raises(
        BackendError, match=r"^no C\+\+ compiler found[^\n]*apt install g\+\+[^\n]*pip install ziglang$"
    ):
        launcher.compiler()


def test_a_chosen_compiler_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("CXX", "g++-none -m64")
    with pytest.raises(BackendError, match=r"^CXX=g\+\+-none -m64: there is no such command"):
        launcher.compiler()


def test_what_a_compiler_refuses_is_shown_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("CAFFELITE_CACHE", str(tmp_path))
    with pytest.raises(BackendError, match=r"could not compile the wrong kernels:\n(.|\n)*error"):
        build_cpu("this is no C++;\n", "wrong")
    assert not list((tmp_path / "kernels").iterdir())


def test_a_compiler_without_openmp_serves_one_thread(family, monkeypatch, tmp_path, caplog):
    wrapper = tmp_path / "cxx"
    real = " ".join(launcher.compiler())
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *-fopenmp*) echo unsupported >&2; exit 1;; esac\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("CXX", str(wrapper))
    a, b, y = arrays()
    family.scaled_sum(4, a, b, 0.5, y)
    assert list(y) == [1.5, 2, 2.5, 3] and "has no OpenMP: the mine kernels run on one thread" in caplog.text


def test_a_return_in_a_loop_is_no_lack_of_openmp(monkeypatch, tmp_path):
    monkeypatch.setenv("CAFFELITE_CACHE", str(tmp_path))
    if "ziglang" in launcher.compiler():
        pytest.skip("needs a compiler with OpenMP")
    (tmp_path / "wrong.cu").write_text(
        "KERNEL(wrong)(const int n, float* x) {\n  KERNEL_LOOP(i, n) if (x[i]) return;\n}\n"
    )
    with pytest.raises(BackendError, match=r"could not compile the wrong kernels:\n(.|\n)*OpenMP"):
        kernels(tmp_path / "wrong.cu").wrong(4, np.ones(4, np.float32))


def test_cores_that_other_programs_keep_busy_are_told(monkeypatch, caplog):
    caplog.set_level("INFO", "caffelite.kernels")
    monkeypatch.setattr(launcher.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(launcher, "_threads", 4)
    for others, told in ((0, False), (1, True), (9, True)):
        caplog.clear()
        monkeypatch.setattr(launcher, "_others_running", lambda others=others: others)
        launcher.tell_if_busy()
        assert ("--threads" in caplog.text) == told
    assert "other programs keep 4 of 4 cores busy: --threads 1 may be faster than 4" in caplog.text


def test_a_cache_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CAFFELITE_CACHE", str(tmp_path / "file"))
    with pytest.raises(BackendError, match=r"cannot be kept in .*file.*name another folder in CAFFELITE_CACHE"):
        build_cpu("", "none")


def test_a_library_that_cannot_be_loaded(family, tmp_path, monkeypatch):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"\x7fELF")
    monkeypatch.setattr(launcher, "build_cpu", lambda *arguments: broken)
    with pytest.raises(BackendError, match=r"broken\.so: cannot be loaded .*delete it"):
        family.scaled_sum(4, *arrays()[:2], 0.5, arrays()[2])


def test_threads(monkeypatch):
    monkeypatch.setattr(launcher, "_threads", 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "7,2")
    assert launcher.threads() == 7
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 5}, raising=False)
    assert launcher.threads() == 3
    with pytest.raises(BackendError, match="threads of at least 0, actual -1"):
        launcher.set_threads(-1)
