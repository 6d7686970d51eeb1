"""LRN, MVN, BatchNorm and Normalize: gradients, running statistics, in place, refusals."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import TEST, LayerRun, check_gradient

generator = np.random.default_rng(0)
X = generator.normal(size=(2, 5, 4, 3))


@pytest.mark.parametrize(
    "options",
    [
        "local_size: 3 alpha: 0.9",
        "local_size: 5 alpha: 2 beta: 0.5 k: 2",
        "local_size: 11 alpha: 2",
        "local_size: 1",
        "local_size: 3 alpha: 0.9 norm_region: WITHIN_CHANNEL k: 7",
        "local_size: 9 alpha: 9 beta: 0.6 norm_region: WITHIN_CHANNEL",
    ],
)
def test_lrn_gradients(options):
    check_gradient(f'type: "LRN" lrn_param {{ {options} }}', [X])


def test_lrn_by_its_formula():
    x = generator.normal(size=(2, 7, 20, 30)).astype(np.float32)
    (y,) = LayerRun('type: "LRN" lrn_param { local_size: 5 alpha: 0.3 beta: 0.75 k: 2 }', [x]).forward()
    squares = np.pad(np.float64(x) ** 2, ((0, 0), (2, 2), (0, 0), (0, 0)))
    scale = 2 + 0.3 / 5 * sum(squares[:, i : i + 7] for i in range(5))
    np.testing.assert_allclose(y, x * scale**-0.75, rtol=2e-6, atol=1e-7)
    (y,) = LayerRun('type: "LRN" lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL k: 5 }', [x]).forward()
    squares = np.pad(np.float64(x) ** 2, ((0, 0), (0, 0), (1, 1), (1, 1)))
    scale = 1 + sum(squares[:, :, i : i + 20, j : j + 30] for i in range(3) for j in range(3)) / 9
    np.testing.assert_allclose(y, x * scale**-0.75, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("options", ["", "across_channels: true", "normalize_variance: false"])
def test_mvn_gradients(options, in_place):
    check_gradient(f'type: "MVN" mvn_param {{ {options} }}', [X], in_place=in_place)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (6, 3), (6, 2, 3), (7,)])
def test_batch_norm_gradients(shape, in_place):
    x = np.random.default_rng(1).normal(size=shape)
    text = 'type: "BatchNorm" batch_norm_param { eps: 0.01 }'
    run = LayerRun(text, [x], in_place=in_place)
    weights = np.random.default_rng(2).normal(size=shape)
    run.forward()
    (dx,), params = run.backward([weights])
    assert not any(diff.any() for diff in params)
    expected = np.zeros(shape)
    for at in np.ndindex(shape):
        moved = []
        for step in (1e-2, -1e-2):
            changed = x.astype(np.float32)
            changed[at] += step
            moved.append(float((np.float64(LayerRun(text, [changed]).forward()[0]) * weights).sum()))
        expected[at] = (moved[0] - moved[1]) / 2e-2
    np.testing.assert_allclose(dx, expected, atol=2e-3)


@pytest.mark.parametrize("in_place", [0, 1])
def test_batch_norm_with_running_statistics(in_place):
    mean, variance = generator.normal(size=5), generator.uniform(0.5, 2, 5)
    run = LayerRun('type: "BatchNorm"', [X], [mean * 4, variance * 4, np.array([4])], phase=TEST, in_place=in_place)
    (y,) = run.forward()
    deviation = np.sqrt(variance + 1e-5)[:, None, None]
    np.testing.assert_allclose(y, (X - mean[:, None, None]) / deviation, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(run.layer.blobs[2].data, [4])
    dy = generator.normal(size=X.shape)
    (dx,), _ = run.backward([dy])
    np.testing.assert_allclose(dx, dy / deviation, rtol=1e-5)


def test_batch_norm_statistics_accumulate():
    run = LayerRun('type: "BatchNorm" batch_norm_param { moving_average_fraction: 0.5 }', [X])
    run.forward()
    run.inputs = [np.float32(X + 3)]
    run.forward()
    means, variances, factor = (blob.data for blob in run.layer.blobs)
    first = X.mean(axis=(0, 2, 3))
    np.testing.assert_allclose(means, first * 0.5 + first + 3, rtol=1e-5)
    np.testing.assert_allclose(variances, X.var(axis=(0, 2, 3), ddof=1) * 1.5, rtol=1e-5)
    assert factor == 1.5
    tested = LayerRun('type: "BatchNorm"', [X], [means, variances, factor], phase=TEST).forward()[0]
    expected = (X - (first + 2)[:, None, None]) / np.sqrt(X.var(axis=(0, 2, 3), ddof=1) + 1e-5)[:, None, None]
    np.testing.assert_allclose(tested, expected, rtol=1e-4, atol=1e-5)


def test_batch_norm_learns_nothing():
    run = LayerRun('type: "BatchNorm"', [X])
    assert [spec.lr_mult for spec in run.layer.param.param] == [0, 0, 0]
    assert [blob.shape for blob in run.layer.blobs] == [(5,), (5,), (1,)]
    with pytest.raises(LayerError, match="param 1 must have lr_mult 0, actual 2"):
        LayerRun('type: "BatchNorm" param { lr_mult: 0 } param { lr_mult: 2 }', [X])
    run.bottom[0].reshape(2, 6, 4, 3)
    with pytest.raises(LayerError, match="expected 5 channels"):
        run.layer.reshape(run.bottom, run.top)


def test_the_sum_over_many_elements_is_exact():
    x = generator.normal(1000, 1e-2, size=(1, 2, 300, 301)).astype(np.float32)
    (y,) = LayerRun('type: "BatchNorm" batch_norm_param { eps: 0 }', [x]).forward()
    exact = (x - x.mean(axis=(2, 3), dtype=np.float64, keepdims=True)) / np.float64(x).std(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(y, exact, atol=5e-3)
    assert abs(y.std(dtype=np.float64) - 1) < 1e-3


@pytest.mark.parametrize("spatial", ["true", "false"])
@pytest.mark.parametrize("shared", ["true", "false"])
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (3, 4)])
def test_normalize_gradients(spatial, shared, shape):
    text = f'type: "Normalize" norm_param {{ across_spatial: {spatial} channel_shared: {shared} }}'
    x = np.random.default_rng(3).normal(size=shape)
    scale = np.full(shape[1], 2.5) if shared == "false" else np.array(2.5)
    run = check_gradient(text, [x], [scale])
    axes = tuple(range(1, len(shape))) if spatial == "true" else (1,)
    expected = 2.5 * x / np.sqrt((x**2).sum(axis=axes, keepdims=True))
    np.testing.assert_allclose(run.forward()[0], expected, rtol=1e-5)


def test_normalize_starts_from_one_or_from_its_filler():
    assert LayerRun('type: "Normalize"', [X]).layer.blobs[0].data == 1
    text = 'type: "Normalize" norm_param { channel_shared: false scale_filler { type: "constant" value: 20 } }'
    assert LayerRun(text, [X]).layer.blobs[0].data.tolist() == [20] * 5


@pytest.mark.parametrize(
    ("text", "x", "message"),
    [
        ('type: "LRN" lrn_param { local_size: 4 }', X, "local_size must be odd"),
        ('type: "LRN"', X[0], r"\(N, C, H, W\)"),
        ('type: "Normalize"', X.ravel(), r"\(N, C, ...\)"),
    ],
)
def test_refusals(text, x, message):
    with pytest.raises(LayerError, match=message):
        LayerRun(text, [x])


@pytest.mark.parametrize("kind", ["LRN", "Normalize"])
def test_not_in_place(kind):
    with pytest.raises(LayerError, match="in place"):
        LayerRun(f'type: "{kind}"', [X], in_place=1)


@pytest.mark.parametrize("across_spatial", ["true", "false"])
def test_normalize_of_no_image(across_spatial):
    run = LayerRun(f'type: "Normalize" norm_param {{ across_spatial: {across_spatial} }}', [np.zeros((0, 3, 4, 5))])
    assert run.forward()[0].shape == (0, 3, 4, 5)
