"""Matrix multiplication of row-major float32 matrices."""

from __future__ import annotations

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.errors import BackendError


def gemm(a, b, out, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False) -> None:
    """out = op(a) @ op(b), or out += with `accumulate`.

    a, b, out: 2-D C-contiguous float32 arrays of one machine; op transposes where the flag says so. On the CPU the
    bits do not depend on the number of threads. Raises BackendError where the shapes do not fit.
    """
    m, k = a.shape[::-1] if transpose_a else a.shape
    inner, n = b.shape[::-1] if transpose_b else b.shape
    if inner != k or out.shape != (m, n):
        raise BackendError(
            f"gemm: expected ({m}, {k}) @ ({k}, {n}) into ({m}, {n}), "
            f"actual ({m}, {k}) @ ({inner}, {n}) into {out.shape}"
        )
    if isinstance(out, np.ndarray):
        kernels("gemm").gemm(a, b, out, m, n, k, transpose_a, transpose_b, accumulate)
        return
    a, b = a.T if transpose_a else a, b.T if transpose_b else b
    if accumulate:
        out += xp.matmul(a, b)
    else:
        xp.matmul(a, b, out=out)
