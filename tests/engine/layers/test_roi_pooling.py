"""ROIPooling against the original's loops written out in numpy, and RoIs that no map has room for."""

import math

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

f32 = np.float32


def text(pooled_h, pooled_w, scale=0.0625):
    return (
        f'type: "ROIPooling" roi_pooling_param {{ pooled_h: {pooled_h} pooled_w: {pooled_w} spatial_scale: {scale} }}'
    )


def c_round(value):
    """C round(), half away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def corners(roi, scale):
    return [c_round(f32(value) * f32(scale)) for value in roi[1:]]


def bin_sizes(box, pooled):
    x1, y1, x2, y2 = box
    return f32(max(y2 - y1 + 1, 1)) / f32(pooled[0]), f32(max(x2 - x1 + 1, 1)) / f32(pooled[1])


def forward(x, rois, pooled, scale):
    """The maxima and the flat index of the winner in its plane, or -1: ROIPoolForward."""
    (_, channels, height, width), (rows, columns) = x.shape, pooled
    y = np.zeros((len(rois), channels, rows, columns), f32)
    argmax = np.full(y.shape, -1)
    for r, roi in enumerate(rois):
        box = corners(roi, scale)
        bin_h, bin_w = bin_sizes(box, pooled)
        for p in range(rows):
            h0 = min(max(int(np.floor(f32(p) * bin_h)) + box[1], 0), height)
            h1 = min(max(int(np.ceil(f32(p + 1) * bin_h)) + box[1], 0), height)
            for q in range(columns):
                w0 = min(max(int(np.floor(f32(q) * bin_w)) + box[0], 0), width)
                w1 = min(max(int(np.ceil(f32(q + 1) * bin_w)) + box[0], 0), width)
                if h1 > h0 and w1 > w0:
                    window = x[int(roi[0]), :, h0:h1, w0:w1].reshape(channels, -1)
                    at = window.argmax(axis=1)
                    y[r, :, p, q] = window[np.arange(channels), at]
                    argmax[r, :, p, q] = (h0 + at // (w1 - w0)) * width + w0 + at % (w1 - w0)
    return y, argmax


def backward(dy, argmax, rois, shape, scale):
    """Every cell looks for the bins that may hold it: ROIPoolBackward."""
    dx = np.zeros(shape, f32)
    pooled, width = dy.shape[2:], shape[3]
    for r, roi in enumerate(rois):
        x1, y1, x2, y2 = box = corners(roi, scale)
        bin_h, bin_w = bin_sizes(box, pooled)
        for h in range(max(y1, 0), min(y2 + 1, shape[2])):
            p0 = min(max(int(np.floor(f32(h - y1) / bin_h)), 0), pooled[0])
            p1 = min(max(int(np.ceil(f32(h - y1 + 1) / bin_h)), 0), pooled[0])
            for w in range(max(x1, 0), min(x2 + 1, width)):
                q0 = min(max(int(np.floor(f32(w - x1) / bin_w)), 0), pooled[1])
                q1 = min(max(int(np.ceil(f32(w - x1 + 1) / bin_w)), 0), pooled[1])
                for p in range(p0, p1):
                    for q in range(q0, q1):
                        won = argmax[r, :, p, q] == h * width + w
                        dx[int(roi[0]), won, h, w] += dy[r, won, p, q]
    return dx


@pytest.mark.parametrize("pooled", [(7, 7), (6, 6), (3, 5), (1, 1)])
def test_the_loops_of_the_original(pooled):
    generator = np.random.default_rng(sum(pooled))
    x = np.round(2 * generator.normal(size=(2, 19, 9, 12))).astype(f32)
    low = generator.uniform(-50, 220, (60, 2))
    high = low + generator.choice([3, 40, 150], (60, 1)) * generator.uniform(-0.3, 1, (60, 2))
    rois = np.hstack([generator.integers(0, 2, (60, 1)), low, high]).astype(f32)
    rois[:8, 1:] = np.round(rois[:8, 1:] / 8) * 8  # halves of a cell
    y, argmax = forward(x, rois, pooled, 0.0625)
    dy = generator.integers(-9, 10, y.shape).astype(f32)
    expected = backward(dy, argmax, rois, x.shape, 0.0625)
    run = LayerRun(text(*pooled), [x, rois])
    np.testing.assert_array_equal(run.forward()[0], y)
    np.testing.assert_array_equal(run.backward([dy], [True, False])[0][0], expected)
    run.forward()  # with winners kept from here on
    np.testing.assert_array_equal(run.backward([dy], [True, False])[0][0], expected)


def test_a_bin_may_reach_a_cell_that_gets_no_gradient():
    """Of 57 cells in 7 bins, 7 * float32(57 / 7) exceeds 57: the last bin also looks at the cell behind the RoI."""
    x = np.arange(60, dtype=f32).reshape(1, 1, 1, 60)
    run = LayerRun(text(1, 7, 1), [x, [[0, 0, 0, 56, 0]]])
    assert run.forward()[0].ravel().tolist() == [8, 16, 24, 32, 40, 48, 57]
    (dx, _), _ = run.backward([np.ones((1, 1, 1, 7))], [True, False])
    assert np.flatnonzero(dx).tolist() == [8, 16, 24, 32, 40, 48]


def test_gradient():
    x = np.random.default_rng(0).permutation(2 * 3 * 6 * 7).reshape(2, 3, 6, 7) * 0.1
    rois = [[0, 0, 0, 70, 60], [1, 20, 30, 90, 95], [1, -40, 10, 30, 200]]
    check_gradient(text(2, 3), [x, rois], propagate_down=[True, False])


@pytest.mark.parametrize("index", [2, -1, 7e9, -np.inf, np.inf, np.nan])
def test_images_that_are_not_there(index):
    run = LayerRun(text(2, 2), [np.zeros((2, 1, 4, 4)), [[0, 0, 0, 9, 9], [index, 0, 0, 9, 9]]])
    with pytest.raises(LayerError, match=r"RoI 1 is .*image from 0 to 1"):
        run.forward()


def test_coordinates_that_are_no_numbers():
    run = LayerRun(text(2, 2), [np.zeros((2, 1, 4, 4)), [[0, 0, np.nan, 9, 9]]])
    with pytest.raises(LayerError, match=r"RoI 0 is .*nan"):
        run.forward()


def test_coordinates_beyond_any_map():
    x = np.arange(1, 17, dtype=f32).reshape(1, 1, 4, 4)
    huge, inf = 3e38, np.inf
    rois = [[0, 0, 0, huge, huge], [0, -huge, -huge, huge, huge], [0, inf, inf, inf, inf], [0, inf, 0, -inf, 30],
            [0, -inf, -inf, inf, inf], [0, 1e10, 1e10, -1e10, -1e10]]  # fmt: skip
    run = LayerRun(text(1, 1), [x, rois])
    assert run.forward()[0].ravel().tolist() == [16, 16, 0, 0, 16, 0]
    (dx, _), _ = run.backward([np.ones((6, 1, 1, 1))], [True, False])
    assert dx.ravel().tolist() == [0] * 15 + [3]


def test_no_rois_and_maps_without_a_number():
    run = LayerRun(text(2, 2), [np.ones((1, 3, 4, 4)), np.zeros((0, 5))])
    assert run.forward()[0].shape == (0, 3, 2, 2)
    (dx, _), _ = run.backward([np.zeros((0, 3, 2, 2))], [True, False])
    assert not dx.any()
    run = LayerRun(text(1, 1), [np.full((1, 1, 4, 4), np.nan), [[0, 0, 0, 60, 60]]])
    assert run.forward()[0] == np.finfo(f32).min
    (dx, _), _ = run.backward([np.ones((1, 1, 1, 1))], [True, False])
    assert not dx.any()


def test_rois_get_zeros_when_asked():
    run = LayerRun(text(1, 1), [np.ones((1, 1, 4, 4)), [[0, 0, 0, 60, 60]]])
    run.forward()
    (_, droi), _ = run.backward([np.ones((1, 1, 1, 1))])
    assert not droi.any() and not run.layer.allow_force_backward(1)


@pytest.mark.parametrize(
    ("options", "shapes", "message"),
    [
        ((0, 2), [(1, 1, 4, 4), (1, 5)], "must be positive"),
        ((2, 2), [(1, 4, 4), (1, 5)], r"feature maps \(N, C, H, W\)"),
        ((2, 2), [(1, 1, 4, 4), (1, 4)], r"RoIs \(R, 5\)"),
    ],
)
def test_refusals(options, shapes, message):
    with pytest.raises(LayerError, match=message):
        LayerRun(text(*options), [np.zeros(shape) for shape in shapes])
