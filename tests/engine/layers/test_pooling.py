"""Pooling and SPP: gradients, output sizes, masks, stochastic pooling, refusals."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import TEST, LayerRun, check_gradient

DISTINCT = np.random.default_rng(0).permutation(2 * 3 * 6 * 7).reshape(2, 3, 6, 7) * 0.1


def pool(options):
    return f'type: "Pooling" pooling_param {{ {options} }}'


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize(
    "window",
    [
        "kernel_size: 2 stride: 2",
        "kernel_size: 3 stride: 2",
        "kernel_size: 3 stride: 1 pad: 1",
        "kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR",
        "kernel_h: 2 kernel_w: 4 stride_h: 3 stride_w: 1 pad_h: 1 pad_w: 2",
        "global_pooling: true",
    ],
)
def test_gradients(method, window):
    check_gradient(pool(f"pool: {method} {window}"), [DISTINCT])


def naive_max(x, kernel, stride, pad, output):
    y = np.full((*x.shape[:2], *output), np.finfo(np.float32).min, np.float32)
    mask = np.full(y.shape, -1)
    for i in range(output[0]):
        for j in range(output[1]):
            for h in range(max(i * stride - pad, 0), min(i * stride - pad + kernel, x.shape[2])):
                for w in range(max(j * stride - pad, 0), min(j * stride - pad + kernel, x.shape[3])):
                    better = x[:, :, h, w] > y[:, :, i, j]
                    y[better, i, j] = x[better, h, w]
                    mask[better, i, j] = h * x.shape[3] + w
    return y, mask


@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(2, 2, 0), (2, 2, 1), (3, 2, 0), (3, 2, 1), (3, 1, 1), (4, 3, 2)]
)
def test_maxima_and_their_places(kernel, stride, pad):
    x = np.round(2 * np.random.default_rng(kernel).normal(size=(2, 3, 13, 37))).astype(np.float32)
    x[0, 0, 3:9, 4:9] = np.nan
    run = LayerRun(pool(f"kernel_size: {kernel} stride: {stride} pad: {pad}"), [x], tops=2)
    y, mask = run.forward()
    expected, places = naive_max(x, kernel, stride, pad, y.shape[2:])
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(mask, places)
    dy = np.random.default_rng(9).normal(size=y.shape).astype(np.float32)
    (dx,), _ = run.backward([dy, mask])
    assert np.isclose(dx.sum(), dy[places >= 0].sum(), rtol=1e-4)
    assert set(np.flatnonzero(dx[1, 1])) == set(places[1, 1].ravel())


@pytest.mark.parametrize(
    ("options", "size", "output"),
    [
        ("kernel_size: 3 stride: 2", 8, 4),
        ("kernel_size: 3 stride: 2 round_mode: FLOOR", 8, 3),
        ("kernel_size: 3 stride: 2", 2, 1),
        ("kernel_size: 2 stride: 2 pad: 1", 5, 3),
        ("kernel_size: 2 stride: 2 pad: 1", 6, 4),
        ("kernel_size: 1 stride: 3", 5, 3),
    ],
)
def test_output_sizes(options, size, output):
    run = LayerRun(pool(options), [np.zeros((1, 1, size, size))])
    assert run.top[0].shape == (1, 1, output, output)


def test_nothing_is_kept_until_a_backward_pass():
    run = LayerRun(pool("kernel_size: 2 stride: 2"), [DISTINCT])
    run.forward()
    assert run.layer.mask is None
    first, _ = run.backward([np.ones(run.top[0].shape)])
    top = run.top[0].data.copy()
    run.forward()
    second, _ = run.backward([np.ones(run.top[0].shape)])
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(top, run.top[0].data)


def test_the_map_may_change_its_size():
    run = LayerRun(pool("global_pooling: true"), [DISTINCT])
    run.forward()
    run.backward([np.ones((2, 3, 1, 1))])
    run.bottom[0].reshape(1, 3, 3, 4)
    run.inputs = [np.arange(36, dtype=np.float32).reshape(1, 3, 3, 4)]
    assert run.forward()[0].ravel().tolist() == [11, 23, 35]
    (dx,), _ = run.backward([np.ones((1, 3, 1, 1))])
    assert np.flatnonzero(dx).tolist() == [11, 23, 35]


def test_stochastic_pooling_draws_by_value():
    x = np.tile(np.array([[1, 3], [0, 4]], np.float32), (1, 1, 100, 100))
    text = pool("pool: STOCHASTIC kernel_size: 2 stride: 2")
    run = LayerRun(text, [x])
    (y,) = run.forward()
    values, counts = np.unique(y, return_counts=True)
    assert values.tolist() == [1, 3, 4]
    np.testing.assert_allclose(counts / y.size, [1 / 8, 3 / 8, 4 / 8], atol=0.02)
    (dx,), _ = run.backward([np.ones(y.shape)])
    assert dx.sum() == y.size and (x[dx > 0] == y.ravel()).sum() > 0
    np.testing.assert_array_equal((dx * x).reshape(100, 2, 100, 2).sum(axis=(1, 3)), y[0, 0])
    np.testing.assert_array_equal(run.forward()[0], y)  # the same pass draws the same
    run.layer.pass_state.number += 1
    assert (run.forward()[0] != y).any()
    (mean,) = LayerRun(text, [x], phase=TEST).forward()
    np.testing.assert_allclose(mean, (1 + 9 + 16) / 8, rtol=1e-6)


def test_stochastic_pooling_has_no_gradient_in_a_test():
    run = LayerRun(pool("pool: STOCHASTIC kernel_size: 2"), [DISTINCT], phase=TEST)
    run.forward()
    with pytest.raises(LayerError, match="phase TEST"):
        run.backward([np.ones(run.top[0].shape)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("stride: 2", "expected kernel_size"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", "not both"),
        ("kernel_h: 2", "not both"),
        ("kernel_size: 0", "kernel must be positive"),
        ("kernel_size: 2 stride: 0", "stride must be positive"),
        ("kernel_size: 2 pad: 2", "less than the kernel"),
        ("kernel_size: 2 pad: 1 pad_h: 1 pad_w: 1", "not both"),
        ("kernel_size: 2 stride_h: 1", "not both"),
        ("kernel_size: 9", "does not fit"),
        ("kernel_size: 3 pad: 1 pool: STOCHASTIC", "MAX and AVE"),
        ("global_pooling: true kernel_size: 2", "kernel_size may not be given"),
        ("global_pooling: true stride: 2", "stride 1 and pad 0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(LayerError, match=message):
        LayerRun(pool(options), [DISTINCT])


def test_more_refusals():
    with pytest.raises(LayerError, match=r"\(N, C, H, W\)"):
        LayerRun(pool("kernel_size: 2"), [DISTINCT[0]])
    with pytest.raises(LayerError, match="at most 1 top"):
        LayerRun(pool("kernel_size: 2 pool: AVE"), [DISTINCT], tops=2)
    with pytest.raises(LayerError, match="in place"):
        LayerRun(pool("kernel_size: 1"), [DISTINCT], in_place=1)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize("height", [1, 3])
def test_spp_gradients(method, height):
    text = f'type: "SPP" spp_param {{ pyramid_height: {height} pool: {method} }}'
    x = np.random.default_rng(0).permutation(2 * 2 * 9 * 7).reshape(2, 2, 9, 7) * 0.1
    run = check_gradient(text, [x], most=40)
    assert run.top[0].shape == {1: (2, 2, 1, 1), 3: (2, 2 * 21)}[height]
    whole = {"MAX": x.max(axis=(2, 3)), "AVE": x.mean(axis=(2, 3))}[method]
    np.testing.assert_allclose(run.forward()[0].reshape(2, -1)[:, :2], whole, rtol=1e-6)


def test_spp_follows_its_map():
    run = LayerRun('type: "SPP" spp_param { pyramid_height: 2 }', [DISTINCT])
    run.forward()
    run.bottom[0].reshape(1, 3, 8, 10)
    run.inputs = [np.arange(240, dtype=np.float32).reshape(1, 3, 8, 10)]
    (y,) = run.forward()
    assert y.shape == (1, 15) and y[0, :7].tolist() == [79, 159, 239, 34, 39, 74, 79]


def test_spp_refusals():
    with pytest.raises(LayerError, match="pyramid_height"):
        LayerRun('type: "SPP"', [DISTINCT])
    with pytest.raises(LayerError, match="less than the kernel"):
        LayerRun('type: "SPP" spp_param { pyramid_height: 3 }', [np.zeros((1, 1, 5, 5))])
