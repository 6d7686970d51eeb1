"""gemm against float64, for every way it takes, and the same bits on any number of threads and on shorter vectors."""

import itertools

import numpy as np
import pytest

from caffelite.backend import gemm as gemm_module
from caffelite.backend import kernels as kernels_module
from caffelite.backend.gemm import gemm, gemm_batch
from caffelite.backend.kernels import KernelFamily
from caffelite.errors import BackendError
from tests.stand_in.fixtures import cudnn_file, stand_in_gpu  # noqa: F401

# one shape or more for each way of kernels/gemm.cc (dots, stripes, by columns, by rows, turned), with odd edges
SHAPES = [
    (1, 1, 1), (1, 7, 3), (7, 1, 5), (5, 5, 0), (0, 3, 2), (3, 0, 2), (6, 64, 512), (13, 70, 513), (100, 130, 1100),
    (1, 2100, 300), (300, 1, 1200), (4, 2100, 37), (33, 65, 4097), (129, 257, 77), (20, 2100, 130), (30, 600, 530),
    (800, 40, 200), (3, 200, 600), (200, 3, 600),
]  # fmt: skip
FLAGS = list(itertools.product((False, True), repeat=3))


@pytest.fixture(autouse=True)
def _threads():
    yield
    kernels_module.set_threads(0)


def operands(m: int, n: int, k: int, transpose_a: bool, transpose_b: bool):
    rng = np.random.default_rng(m * 10007 + n * 101 + k)
    a = rng.standard_normal((k, m) if transpose_a else (m, k), np.float32)
    b = rng.standard_normal((n, k) if transpose_b else (k, n), np.float32)
    return a, b, rng.standard_normal((m, n), np.float32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product(shape):
    for transpose_a, transpose_b, accumulate in FLAGS:
        a, b, out = operands(*shape, transpose_a, transpose_b)
        expected = (a.T if transpose_a else a).astype(float) @ (b.T if transpose_b else b) + accumulate * out
        results = []
        for threads in (1, 2, 3):
            kernels_module.set_threads(threads)
            results.append(out.copy())
            gemm(a, b, results[-1], transpose_a, transpose_b, accumulate)
        np.testing.assert_allclose(results[0], expected, atol=1e-5 * max(1, shape[2]) ** 0.5, rtol=0)
        assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2])


def test_what_was_in_out_is_overwritten():
    a, b, out = operands(40, 50, 60, False, False)
    out[...] = np.nan
    gemm(a, b, out)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("bytes_", [32, 16])
def test_shorter_vectors_give_the_same(monkeypatch, bytes_):
    family = KernelFamily("gemm", (f"-DVECTOR_BYTES={bytes_}",))
    for shape in [(13, 70, 513), (1, 2100, 300), (30, 600, 530), (800, 40, 200), (3, 200, 600)]:
        for transpose_a, transpose_b, accumulate in FLAGS:
            a, b, out = operands(*shape, transpose_a, transpose_b)
            native, short = out.copy(), out.copy()
            gemm(a, b, native, transpose_a, transpose_b, accumulate)
            with monkeypatch.context() as patch:
                patch.setattr(gemm_module, "kernels", lambda _: family)
                for threads in (1, 3):
                    kernels_module.set_threads(threads)
                    before, short = short, out.copy()
                    gemm(a, b, short, transpose_a, transpose_b, accumulate)
            assert np.array_equal(before, short)
            assert np.abs(native - short).max() <= 1e-5 * np.abs(native).max()


def test_a_gpu_takes_contiguous_float32_only(stand_in_gpu):  # noqa: F811
    good, out = stand_in_gpu.ones((3, 3), np.float32), stand_in_gpu.zeros((3, 3), np.float32)
    for bad in (good.T[:, :2], stand_in_gpu.ones((3, 3), np.float64)):
        with pytest.raises(BackendError, match=r"gemm: expected contiguous float32 arrays, actual float"):
            gemm(good, bad, out[:, : bad.shape[1]].copy())
        with pytest.raises(BackendError, match=r"gemm: expected contiguous float32 arrays, actual float"):
            gemm_batch(good[None], bad[None], out[None, :, : bad.shape[1]].copy())


def test_shapes_that_do_not_fit():
    a, b = np.zeros((2, 3), np.float32), np.zeros((4, 5), np.float32)
    with pytest.raises(BackendError, match=r"expected \(2, 3\) @ \(3, 5\).*actual \(2, 3\) @ \(4, 5\)"):
        gemm(a, b, np.zeros((2, 5), np.float32))
    with pytest.raises(BackendError, match="gemm"):
        gemm(a, b.T.copy(), np.zeros((2, 5), np.float32))
