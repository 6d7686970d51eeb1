"""Matrix products of fully connected layers: caffelite's gemm beside numpy's BLAS, A B A B, medians.

python benchmarks/gemm.py [--threads 2] [--repeats 7] [name ...]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("names", nargs="*", help="only products whose name contains one of these")
parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
parser.add_argument("--repeats", type=int, default=7)
arguments = parser.parse_args()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read when numpy is imported
    os.environ[variable] = str(arguments.threads)

import machine  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from caffelite.backend import kernels  # noqa: E402
from caffelite.backend.gemm import gemm  # noqa: E402

# name: rows, columns, length of the sum; transpose a, transpose b, accumulate
PRODUCTS = {
    "square": (1536, 1536, 1536, False, False, False),
    "fc6 of CaffeNet, 128 RoIs": (128, 4096, 9216, False, True, False),
    "fc6 of CaffeNet, 2000 RoIs": (2000, 4096, 9216, False, True, False),
    "fc6 of CaffeNet, gradient to W": (4096, 9216, 128, True, False, True),
    "fc6 of CaffeNet, gradient to x": (128, 9216, 4096, False, False, False),
    "fc6 of VGG16, 128 RoIs": (128, 4096, 25088, False, True, False),
    "fc6 of VGG16, 300 RoIs": (300, 4096, 25088, False, True, False),
    "fc6 of VGG16, 300 RoIs, rank 1024": (300, 1024, 25088, False, True, False),
    "fc7, 128 RoIs": (128, 4096, 4096, False, True, False),
    "fc7, 300 RoIs": (300, 4096, 4096, False, True, False),
    "cls_score, 128 RoIs": (128, 21, 4096, False, True, False),
    "cls_score, 2000 RoIs": (2000, 21, 4096, False, True, False),
    "cls_score, gradient to W": (21, 4096, 128, True, False, True),
    "bbox_pred, 128 RoIs": (128, 84, 4096, False, True, False),
    "bbox_pred, 2000 RoIs": (2000, 84, 4096, False, True, False),
    "one row": (1, 4096, 9216, False, True, False),
    "one row, W as it lies": (1, 9216, 4096, False, False, False),
    "small": (37, 37, 37, False, False, False),
}


def measure(m: int, n: int, k: int, transpose_a: bool, transpose_b: bool, accumulate: bool) -> dict[str, float]:
    """Median seconds of each way."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((k, m) if transpose_a else (m, k), np.float32)
    b = rng.standard_normal((n, k) if transpose_b else (k, n), np.float32)
    out = np.zeros((m, n), np.float32)
    left, right = a.T if transpose_a else a, b.T if transpose_b else b

    def blas() -> None:
        if accumulate:
            np.add(out, left @ right, out=out)
        else:
            np.matmul(left, right, out=out)

    runs = {"gemm": lambda: gemm(a, b, out, transpose_a, transpose_b, accumulate), "numpy": blas}
    return machine.interleaved(runs, arguments.repeats)


def main() -> None:
    """Print the table."""
    kernels.set_threads(arguments.threads)
    print(machine.describe(arguments.threads))
    print(f"sgemm of numpy, 1536 x 1536: {machine.sgemm_rate() / 1e9:.0f} GFLOP/s")
    print("medians, GFLOP/s (ms)\n")
    print(f"| {'product':34} |           shape |   caffelite.gemm |            numpy | ratio |")
    print(f"|{'-' * 36}|{'-' * 17}|{'-' * 18}|{'-' * 18}|{'-' * 7}|")
    for name, (m, n, k, *flags) in PRODUCTS.items():
        if arguments.names and not any(part in name for part in arguments.names):
            continue
        seconds = measure(m, n, k, *flags)
        rates = "".join(f" {2e-9 * m * n * k / s:5.0f} ({s * 1e3:8.3f}) |" for s in seconds.values())
        print(f"| {name:34} | {f'{m} {n} {k}':>15} |{rates} {seconds['numpy'] / seconds['gemm']:5.2f} |", flush=True)


if __name__ == "__main__":
    main()
