"""What benchmarks share: the machine's name, medians of interleaved runs, and the sgemm rate of the run."""

from __future__ import annotations

import os
import platform
import statistics
import time

os.environ.pop("OPENBLAS_CORETYPE", None)  # a fixed core type halves numpy's sgemm; must go before numpy is imported

PAUSE = 0.1
"""Seconds between runs."""


def describe(threads: int) -> str:
    """One line: processor, threads, library versions."""
    import numpy as np

    name = platform.machine()
    try:
        with open("/proc/cpuinfo") as f:
            name = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {threads} thread(s), numpy {np.__version__}, OPENBLAS_CORETYPE unset"


def interleaved(runs: dict, repeats: int, warm_up: int = 1) -> dict[str, float]:
    """Median seconds of every run, measured A B A B: noise that drifts hits all alike.

    Before each comes a pause: threads of OpenBLAS and OpenMP spin for a while when they are done, on cores that the
    other's run would need. What is short is run once more behind the pause, for the threads to wake up.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + warm_up):
        for name, run in runs.items():
            time.sleep(PAUSE)
            if times[name] and times[name][0] < PAUSE:
                run()
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[warm_up:]) for name, values in times.items()}


def sgemm(size: int = 1536):
    """(a function that multiplies two matrices with numpy in single precision, its operations)"""
    import numpy as np

    a = np.random.default_rng(0).random((size, size), np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out), 2 * size**3


def sgemm_rate() -> float:
    """Operations per second of numpy's single-precision matrix product."""
    run, operations = sgemm()
    return operations / interleaved({"sgemm": run}, 5)["sgemm"]


def peak_memory() -> float:
    """The largest memory this process has had so far, in GiB (Linux; a child's ru_maxrss would count its parent's)."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmHWM")) / 2**20
