"""Convolution against float64 in numpy, in every way it is done, on any number of threads and on shorter vectors."""

import itertools

import numpy as np
import pytest

from caffelite.backend import convolution as convolution_module
from caffelite.backend import kernels as kernels_module
from caffelite.backend.convolution import Convolution, Depthwise, Im2col, ImplicitGemm, Winograd, implementation
from caffelite.backend.kernels import KernelFamily

# x, w, pad, stride, dilation, groups, and who does it
CASES = {
    "3x3, three channels": ((2, 3, 9, 11), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1, ImplicitGemm),
    "first layer of CaffeNet": ((2, 3, 51, 67), (96, 3, 11, 11), (5, 5), (4, 4), (1, 1), 1, ImplicitGemm),
    "5x5 in groups": ((2, 4, 13, 10), (6, 2, 5, 5), (2, 2), (1, 1), (1, 1), 2, ImplicitGemm),
    "7x7 every second": ((1, 3, 31, 35), (8, 3, 7, 7), (3, 3), (2, 2), (1, 1), 1, ImplicitGemm),
    "dilated": ((1, 20, 20, 19), (17, 20, 3, 3), (6, 6), (1, 1), (6, 6), 1, ImplicitGemm),
    "dilated, every second": ((1, 4, 12, 19), (4, 4, 3, 3), (2, 1), (2, 2), (2, 3), 1, ImplicitGemm),
    "rectangular": ((1, 5, 12, 23), (70, 5, 1, 5), (0, 2), (1, 3), (1, 1), 1, ImplicitGemm),
    "tall": ((1, 5, 22, 3), (7, 5, 5, 1), (1, 0), (3, 1), (2, 1), 1, ImplicitGemm),
    "1x1": ((2, 33, 14, 15), (65, 33, 1, 1), (0, 0), (1, 1), (1, 1), 1, ImplicitGemm),
    "1x1 every second": ((1, 8, 15, 15), (8, 8, 1, 1), (0, 0), (2, 2), (1, 1), 1, ImplicitGemm),
    "1x1 padded, every third": ((1, 2, 4, 4), (3, 2, 1, 1), (2, 2), (3, 3), (1, 1), 1, ImplicitGemm),
    "pixels that nothing sees": ((2, 4, 5, 5), (4, 4, 2, 2), (0, 0), (3, 3), (1, 1), 1, ImplicitGemm),
    "padding beyond the kernel": ((1, 2, 3, 3), (3, 2, 3, 3), (4, 4), (1, 1), (1, 1), 1, ImplicitGemm),
    "sums cut in chunks": ((1, 130, 16, 17), (20, 130, 3, 3), (1, 1), (2, 1), (1, 1), 1, ImplicitGemm),
    "tiles in a row and a bit": ((2, 16, 9, 75), (18, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1, Winograd),
    "tiles in several parts": ((1, 17, 6, 530), (16, 17, 3, 3), (1, 1), (1, 1), (1, 1), 1, Winograd),
    "tiles in groups": ((1, 16, 70, 65), (29, 16, 3, 3), (0, 2), (1, 1), (1, 1), 1, Winograd),
    "tiles, deep": ((5, 600, 7, 7), (20, 600, 3, 3), (1, 1), (1, 1), (1, 1), 1, Winograd),
    "tiles, more padding": ((2, 16, 3, 5), (16, 16, 3, 3), (5, 4), (1, 1), (1, 1), 1, Winograd),
    "too few pixels for tiles": ((2, 16, 9, 9), (18, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1, ImplicitGemm),
    "tiles for 5x5 in groups": ((2, 32, 13, 14), (34, 16, 5, 5), (2, 2), (1, 1), (1, 1), 2, Winograd),
    "tiles for 5x5": ((1, 16, 40, 45), (17, 16, 5, 5), (0, 1), (1, 1), (1, 1), 1, Winograd),
    "depthwise": ((2, 8, 14, 70), (8, 1, 3, 3), (1, 1), (1, 1), (1, 1), 8, Depthwise),
    "depthwise, twice, every second": ((2, 8, 14, 13), (16, 1, 3, 3), (1, 1), (2, 2), (1, 1), 8, Depthwise),
    "depthwise, dilated": ((2, 8, 7, 13), (8, 1, 5, 3), (2, 1), (1, 1), (2, 1), 8, Depthwise),
    "depthwise, every third": ((1, 3, 17, 60), (6, 1, 3, 3), (1, 0), (2, 3), (1, 2), 3, Depthwise),
    "depthwise, far padding": ((2, 4, 3, 5), (4, 1, 1, 1), (2, 2), (3, 4), (1, 1), 4, Depthwise),
    "one axis": ((2, 6, 40), (8, 3, 5), (2,), (2,), (2,), 2, ImplicitGemm),
    "one axis, depthwise": ((1, 2, 40), (2, 1, 5), (7,), (4,), (1,), 2, Depthwise),
    "three axes": ((2, 4, 6, 7, 8), (6, 2, 3, 2, 3), (1, 0, 2), (2, 1, 1), (1, 2, 1), 2, Im2col),
}
TOLERANCE = 1e-5  # of the largest number; Winograd's points lose a digit, and keep within it


@pytest.fixture(autouse=True)
def _threads():
    yield
    kernels_module.set_threads(0)


def arrays(x_shape, w_shape, convolution: Convolution):
    rng = np.random.default_rng(sum(x_shape) * 1009 + sum(w_shape))
    x, w = rng.standard_normal(x_shape, np.float32), rng.standard_normal(w_shape, np.float32)
    bias = rng.standard_normal(w_shape[0], np.float32)
    return x, w, bias, rng.standard_normal(convolution.output_shape(x_shape, w_shape), np.float32)


def reference(convolution: Convolution, x, w, bias, dy):
    """y, dx, dw, dbias in float64: one product for each tap and group."""
    axes = range(2, x.ndim)
    padded = np.pad(x.astype(float), [(0, 0), (0, 0)] + [(p, p) for p in convolution.pad])
    y, dpadded, dw, dy = np.zeros(dy.shape), np.zeros_like(padded), np.zeros(w.shape), dy.astype(float)
    for tap in itertools.product(*map(range, w.shape[2:])):
        window = tuple(
            slice(i * d, i * d + s * (n - 1) + 1, s)
            for i, d, s, n in zip(tap, convolution.dilation, convolution.stride, y.shape[2:])
        )
        for group in range(convolution.groups):
            o = slice(group * len(w) // convolution.groups, (group + 1) * len(w) // convolution.groups)
            c = slice(group * w.shape[1], (group + 1) * w.shape[1])
            weight, seen = w[(o, slice(None), *tap)].astype(float), (slice(None), c, *window)
            y[:, o] += np.einsum("oc,nc...->no...", weight, padded[seen])
            dpadded[seen] += np.einsum("oc,no...->nc...", weight, dy[:, o])
            dw[(o, slice(None), *tap)] = np.tensordot(dy[:, o], padded[seen], axes=([0, *axes], [0, *axes]))
    inside = tuple(slice(p, p + n) for p, n in zip(convolution.pad, x.shape[2:]))
    y += bias.reshape(-1, *(1 for _ in axes))
    return y, dpadded[(slice(None), slice(None), *inside)], dw, dy.sum(axis=(0, *axes))


def results(convolution: Convolution, x, w, bias, dy, ways=None):
    """y, dx, dw, dbias; dw and dbias are added to ones."""
    y, dx, dw, dbias = np.full_like(dy, np.nan), np.full_like(x, np.nan), np.ones_like(w), np.ones_like(bias)
    if ways is None:
        ways = implementation(convolution, x, w)
    ways.forward(convolution, x, w, bias, y)
    ways.backward_data(convolution, dy, w, dx)
    ways.backward_weight(convolution, x, dy, dw)
    convolution.backward_bias(dy, dbias)
    return y, dx, dw, dbias


def assert_close(actual, expected):
    for a, e in zip(actual, expected):
        assert np.abs(a - e).max() <= TOLERANCE * np.abs(e).max()


@pytest.mark.parametrize("name", CASES)
def test_against_float64(name):
    x_shape, w_shape, *parameters, way = CASES[name]
    convolution = Convolution(*parameters)
    x, w, bias, dy = arrays(x_shape, w_shape, convolution)
    assert implementation(convolution, x, w) is way
    y, dx, dw, dbias = reference(convolution, x, w, bias, dy)
    kernels_module.set_threads(1)
    one = results(convolution, x, w, bias, dy)
    assert_close(one, (y, dx, dw + 1, dbias + 1))
    for threads in (2, 5):
        kernels_module.set_threads(threads)
        for a, b in zip(one, results(convolution, x, w, bias, dy)):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("bytes_", [32, 16])
def test_shorter_vectors_give_the_same(monkeypatch, bytes_):
    short = {family: KernelFamily(family, (f"-DVECTOR_BYTES={bytes_}",)) for family in
             ("convolution", "winograd", "depthwise")}  # fmt: skip
    for x_shape, w_shape, *parameters, way in CASES.values():
        if way is Im2col:
            continue
        convolution = Convolution(*parameters)
        operands = arrays(x_shape, w_shape, convolution)
        native = results(convolution, *operands)
        with monkeypatch.context() as patch:
            patch.setattr(convolution_module, "kernels", short.get)
            kernels_module.set_threads(1)
            one = results(convolution, *operands)
            assert_close(one, native)
            kernels_module.set_threads(3)
            for a, b in zip(one, results(convolution, *operands)):
                assert np.array_equal(a, b)


@pytest.mark.parametrize("name", ["5x5 in groups", "rectangular", "dilated, every second", "tall", "one axis"])
def test_im2col_gives_the_same(name):
    x_shape, w_shape, *parameters, _ = CASES[name]
    convolution = Convolution(*parameters)
    operands = arrays(x_shape, w_shape, convolution)
    assert_close(results(convolution, *operands, ways=Im2col), results(convolution, *operands))


@pytest.mark.parametrize("name", ["tiles in groups", "tiles for 5x5 in groups", "depthwise, every third"])
def test_special_ways_give_the_same_as_the_general_one(name):
    x_shape, w_shape, *parameters, _ = CASES[name]
    convolution = Convolution(*parameters)
    operands = arrays(x_shape, w_shape, convolution)
    assert_close(results(convolution, *operands), results(convolution, *operands, ways=ImplicitGemm))


@pytest.mark.parametrize("name", ["first layer of CaffeNet", "tiles for 5x5", "depthwise, dilated", "three axes"])
def test_gradients_are_adjoint(name):
    x_shape, w_shape, *parameters, _ = CASES[name]
    convolution = Convolution(*parameters)
    x, w, _, dy = arrays(x_shape, w_shape, convolution)
    y, dx, dw = np.empty_like(dy), np.empty_like(x), np.zeros_like(w)
    convolution.forward(x, w, None, y)
    convolution.backward_data(dy, w, dx)
    convolution.backward_weight(x, dy, dw)
    product = np.vdot(y.astype(float), dy)
    scale = np.linalg.norm(y) * np.linalg.norm(dy)
    assert abs(product - np.vdot(dx.astype(float), x)) < 1e-5 * scale
    assert abs(product - np.vdot(dw.astype(float), w)) < 1e-5 * scale


def test_an_image_of_its_own_or_in_a_batch_gives_the_same_bits():
    for name in ("tiles in a row and a bit", "tiles, deep", "first layer of CaffeNet", "depthwise"):
        x_shape, w_shape, *parameters, _ = CASES[name]
        convolution = Convolution(*parameters)
        x, w, bias, _ = operands = arrays(x_shape, w_shape, convolution)
        y = results(convolution, *operands)[0]
        alone = np.empty_like(y[1:])
        implementation(convolution, x, w).forward(convolution, x[1:], w, bias, alone)
        assert np.array_equal(y[1:], alone)


def test_output_shape():
    assert Convolution((1, 0), (2, 1), (1, 3), 2).output_shape((5, 4, 9, 12), (6, 2, 3, 2)) == (5, 6, 5, 9)


@pytest.mark.parametrize(
    "arguments, x_shape, w_shape, words",
    [
        (((0, 0), (1, 1), (1, 1), 1), (1, 3, 4, 9), (2, 3, 5, 3), "does not fit into"),
        (((1, 1), (1, 1), (2, 2), 1), (1, 3, 2, 9), (2, 3, 3, 3), "does not fit into"),
        (((0, 0), (1, 1), (1, 1), 2), (1, 3, 4, 4), (2, 3, 3, 3), "2 groups"),
        (((0, 0), (1, 1), (1, 1), 2), (1, 4, 4, 4), (3, 2, 3, 3), "multiple of 2"),
        (((0, 0), (1, 1), (1, 1), 1), (1, 3, 4), (2, 3, 3), "over 2 axes"),
    ],
)
def test_shapes_that_do_not_fit(arguments, x_shape, w_shape, words):
    with pytest.raises(ValueError, match=words):
        Convolution(*arguments).output_shape(x_shape, w_shape)


def test_parameters_that_make_no_sense():
    with pytest.raises(ValueError, match="stride"):
        Convolution((0, 0), (0, 1), (1, 1), 1)
    with pytest.raises(ValueError, match="for each of up to 3 axes"):
        Convolution((0, 0), (1,), (1, 1), 1)


def test_an_output_of_the_wrong_shape():
    x, w, y = (np.zeros(shape, np.float32) for shape in ((1, 3, 5, 5), (2, 3, 3, 3), (1, 2, 5, 5)))
    with pytest.raises(ValueError, match=r"expected an output \(1, 2, 3, 3\), actual \(1, 2, 5, 5\)"):
        Convolution((0, 0), (1, 1), (1, 1), 1).forward(x, w, None, y)
