"""Minimal filtering around cuBLAS, on numpy arrays and on the stand-in for CuPy, against the plain sum."""

import numpy as np
import pytest

from caffelite import backend
from caffelite.backend import gpu_winograd
from caffelite.backend.convolution import Convolution, Im2col, gpu_implementation
from caffelite.backend.cudnn_convolution import Cudnn
from caffelite.backend.gpu_winograd import GpuWinograd, Tiles, worth
from tests.stand_in.fixtures import cudnn_file, cudnn_notes, stand_in_gpu  # noqa: F401

# x, side of the kernel, outputs, pad, groups
SHAPES = {
    "padded": ((2, 4, 9, 11), 3, 6, (1, 1), 1),
    "grouped": ((1, 8, 13, 8), 3, 4, (0, 0), 2),
    "one output": ((3, 5, 3, 3), 3, 7, (0, 0), 1),
    "wide pads": ((2, 3, 6, 7), 3, 2, (2, 0), 1),
    "5x5": ((2, 4, 9, 11), 5, 6, (2, 2), 1),
    "5x5 grouped": ((1, 6, 10, 7), 5, 6, (3, 4), 3),
    "many channels": ((1, 64, 24, 20), 3, 64, (1, 1), 1),
}


def case(shape: str):
    x_shape, side, outputs, pad, groups = SHAPES[shape]
    rng = np.random.default_rng(3)
    convolution = Convolution(pad, (1, 1), (1, 1), groups)
    x = rng.standard_normal(x_shape).astype(np.float32)
    w = rng.standard_normal((outputs, x_shape[1] // groups, side, side)).astype(np.float32)
    dy = rng.standard_normal(convolution.output_shape(x.shape, w.shape)).astype(np.float32)
    return convolution, x, w, rng.standard_normal(outputs).astype(np.float32), dy


def both_ways(way, convolution, x, w, bias, dy):
    y, dx = np.full_like(dy, np.nan), np.full_like(x, np.nan)
    way.forward(convolution, x, w, bias, y)
    way.backward_data(convolution, dy, w, dx)
    return y, dx


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_convolution(shape):
    values = case(shape)
    for fast, plain in zip(both_ways(GpuWinograd, *values), both_ways(Im2col, *values)):
        np.testing.assert_allclose(fast, plain, rtol=0, atol=3e-6 * np.abs(plain).max())


def test_without_a_bias():
    convolution, x, w, _, dy = case("padded")
    y, plain = np.empty_like(dy), np.empty_like(dy)
    GpuWinograd.forward(convolution, x, w, None, y)
    Im2col.forward(convolution, x, w, None, plain)
    np.testing.assert_allclose(y, plain, rtol=0, atol=3e-6 * np.abs(plain).max())


def test_with_little_memory_image_by_image(monkeypatch):
    values = case("one output")
    whole = both_ways(GpuWinograd, *values)
    convolution, x, w, _, _ = values
    of_weights, of_an_image = 4 * 36 * 5 * 7, 4 * 36 * (5 + 7)
    two = Tiles(convolution, x.shape, w.shape, False, of_weights + 2 * of_an_image)
    assert (two.fit, two.images, two.bytes) == (True, 2, of_weights + 2 * of_an_image)
    assert not Tiles(convolution, x.shape, w.shape, False, of_weights + of_an_image - 1).fit
    monkeypatch.setattr(gpu_winograd, "_tiles", lambda *a: Tiles(*a[:4], of_weights + 2 * of_an_image))
    for a, b in zip(both_ways(GpuWinograd, *values), whole):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * np.abs(b).max())


@pytest.mark.parametrize(
    "x_shape, w_shape, options, expected",
    [
        ((2, 64, 32, 32), (64, 64, 3, 3), {}, True),
        ((2, 64, 32, 32), (64, 32, 5, 5), {"groups": 2, "pad": (2, 2)}, True),
        ((2, 64, 32, 32), (64, 64, 3, 3), {"stride": (2, 2)}, False),
        ((2, 64, 32, 32), (64, 64, 3, 3), {"dilation": (2, 2)}, False),
        ((2, 64, 32, 32), (64, 64, 3, 3), {"pad": (3, 3)}, False),
        ((2, 64, 32, 32), (64, 64, 3, 5), {}, False),
        ((2, 64, 32, 32), (64, 64, 1, 1), {"pad": (0, 0)}, False),
        ((2, 3, 32, 32), (64, 3, 3, 3), {}, False),
        ((2, 64, 12, 12), (64, 64, 3, 3), {}, False),
        ((0, 64, 32, 32), (64, 64, 3, 3), {}, False),
        ((2, 64, 32), (64, 64, 3), {"pad": (1,), "stride": (1,), "dilation": (1,)}, False),
    ],
)
def test_where_it_is_used(stand_in_gpu, x_shape, w_shape, options, expected):  # noqa: F811
    options = {"pad": (1, 1), "stride": (1, 1), "dilation": (1, 1), **options}
    assert worth(Convolution(**options), x_shape, w_shape) == expected
    backend.allow_tf32()
    assert not worth(Convolution(**options), x_shape, w_shape)


def products_on_gpu(cupy, values):
    convolution, x, w, bias, dy = values
    x, w, bias, dy = map(cupy.asarray, (x, w, bias, dy))
    y, dx, dw = cupy.empty_like(dy), cupy.empty_like(x), cupy.zeros(w.shape, np.float32)
    convolution.forward(x, w, bias, y)
    convolution.backward_data(dy, w, dx)
    convolution.backward_weight(x, dy, dw)
    return [array.get() for array in (y, dx, dw)]


def test_on_a_gpu(cudnn_notes, stand_in_gpu, monkeypatch):  # noqa: F811
    monkeypatch.setattr(gpu_winograd, "WORTH_PIXELS", 100)
    values = case("many channels")
    y, dx, dw = products_on_gpu(stand_in_gpu, values)
    assert {line.split()[0] for line in cudnn_notes() if "algorithm" in line} == {"filter"}
    backend.set_mode_cpu()
    for actual, expected in zip((y, dx), both_ways(Im2col, *values)):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    plain = np.zeros_like(dw)
    Im2col.backward_weight(values[0], values[1], values[4], plain)
    np.testing.assert_allclose(dw, plain, rtol=1e-4, atol=1e-4)


def test_without_room_it_is_left_to_cudnn(stand_in_gpu, monkeypatch, caplog):  # noqa: F811
    def nothing(*_):
        raise stand_in_gpu.cuda.memory.OutOfMemoryError("Out of memory allocating 1 bytes")

    monkeypatch.setattr(gpu_winograd, "WORTH_PIXELS", 100)
    monkeypatch.setattr(gpu_winograd, "gemm_batch", nothing)
    values = case("many channels")
    y, dx, _ = products_on_gpu(stand_in_gpu, values)
    backend.set_mode_cpu()
    for actual, expected in zip((y, dx), both_ways(Im2col, *values)):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)
    assert "a convolution is left to another way" in caplog.text


def test_the_memory_that_it_takes_is_known(stand_in_gpu):  # noqa: F811
    convolution, (x, w) = Convolution((1, 1), (1, 1), (1, 1)), ((2, 64, 32, 32), (48, 64, 3, 3))
    bytes_taken = 4 * 36 * (64 * 48 + 2 * 8 * 8 * (64 + 48))
    assert gpu_implementation() is Cudnn
    assert convolution.workspace(x, w, False) == bytes_taken
    assert convolution.workspace(x, w, True) == max(bytes_taken, Cudnn.workspace(convolution, x, w, True))
