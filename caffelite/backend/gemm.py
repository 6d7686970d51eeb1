"""Matrix multiplication of row-major float32 matrices."""

from __future__ import annotations

import numpy as np

from caffelite import backend
from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.errors import BackendError

DEFAULT_MATH, TF32_MATH = 0, 3  # cublasMath_t
_factors = np.array([0, 1], np.float32)
ZERO, ONE = _factors.ctypes.data, _factors.ctypes.data + _factors.itemsize


def gemm(a, b, out, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False) -> None:
    """out = op(a) @ op(b), or out += with `accumulate`.

    a, b, out: 2-D C-contiguous float32 arrays of one machine; op transposes where the flag says so. On the CPU the
    bits do not depend on the number of threads. Raises BackendError where shapes or types do not fit.
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
    _gemm_on_gpu(a, b, out, transpose_a, transpose_b, accumulate)


def gemm_batch(a, b, out) -> None:
    """out[i] = a[i] @ b[i] for 3-D C-contiguous float32 arrays of one machine, none of them empty."""
    if isinstance(out, np.ndarray):
        for left, right, product in zip(a, b, out):
            gemm(left, right, product)
        return
    _check(a, b, out)
    (count, m, n), k = out.shape, a.shape[2]
    cublas, handle = _cublas()
    cublas.sgemmStridedBatched(
        handle, 0, 0, n, m, k, ONE, b.data.ptr, n, k * n, a.data.ptr, k, m * k, ZERO, out.data.ptr, n, m * n, count
    )


def _gemm_on_gpu(a, b, out, transpose_a: bool, transpose_b: bool, accumulate: bool) -> None:
    """The same by cuBLAS: float32 throughout, unless TF32 is allowed."""
    _check(a, b, out)
    if not a.size or not b.size:  # a sum of no terms
        if not accumulate:
            out.fill(0)
        return
    (m, n), k = out.shape, a.size // len(out)
    # cuBLAS counts by columns, and sees all three transposed: out' = op(b)' op(a)'
    cublas, handle = _cublas()
    cublas.sgemm(
        handle, int(transpose_b), int(transpose_a), n, m, k, ONE, b.data.ptr, b.shape[1], a.data.ptr, a.shape[1],
        ONE if accumulate else ZERO, out.data.ptr, n,
    )  # fmt: skip


def _check(*arrays) -> None:
    for array in arrays:
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise BackendError(
                f"gemm: expected contiguous float32 arrays, actual {array.dtype}, strides {array.strides}"
            )


def _cublas() -> tuple:
    """cuBLAS and its handle for the current device, told whether it may use TF32."""
    cublas, handle = xp.cuda.cublas, xp.cuda.device.get_cublas_handle()
    cublas.setMathMode(handle, TF32_MATH if backend.tf32_allowed() else DEFAULT_MATH)
    return cublas, handle
