"""cupy.cublas of the stand-in."""

from __future__ import annotations

import numpy


def gemm(transa, transb, a, b, out=None, alpha=1.0, beta=0.0):
    """out = alpha op(a) @ op(b) + beta out"""
    a, b, c = (array._memory for array in (a, b, out))
    assert a.ndim == b.ndim == 2 and a.dtype == b.dtype == c.dtype == numpy.float32
    assert all(array.flags.c_contiguous for array in (a, b, c)) and a.size and b.size
    product = (a.T if transa == "T" else a) @ (b.T if transb == "T" else b)
    assert product.shape == c.shape
    c[...] = product * numpy.float32(alpha) + (c * numpy.float32(beta) if beta else 0)
    return out
