"""The GPU's branch of every kernel, compiled for the CPU, and any number of threads give the same bits."""

import functools

import numpy as np
import pytest

from caffelite.backend.kernels import KernelFamily, set_threads
from caffelite.layers import (
    accuracy,
    classification_loss,
    normalization,
    pooling,
    regression_loss,
    roi_pooling,
    softmax,
)
from tests.engine.gradient_check import LayerRun

MODULES = (accuracy, classification_loss, normalization, pooling, regression_loss, roi_pooling, softmax)
generator = np.random.default_rng(5)


@functools.cache
def gathering(family):
    return KernelFamily(family, defines=("-DGATHER=1",))


def normal(*shape):
    return generator.normal(size=shape).astype(np.float32)


def rois(count, images):
    """Boxes of all sorts: fractional, outside, reversed, tiny."""
    corners = np.sort(generator.uniform(-60, 260, (count, 2, 2)), axis=1).reshape(count, 4)
    corners[: count // 8, 2:] = corners[: count // 8, :2] - 30
    corners[-count // 4 :, 2:] = corners[-count // 4 :, :2] + generator.uniform(0, 12, (len(corners[-count // 4 :]), 2))
    return np.hstack([generator.integers(0, images, (count, 1)), corners])


LABELS = generator.integers(0, 5, (3, 7, 11))
POOL = 'type: "Pooling" pooling_param '
CASES = {
    "max of windows apart": (POOL + "{ kernel_size: 2 stride: 2 }", [np.round(normal(2, 5, 21, 40))]),
    "max of windows apart, a rest": (
        POOL + "{ kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 3 round_mode: FLOOR }",
        [np.round(normal(2, 5, 21, 40))],
    ),
    "max": (POOL + "{ kernel_size: 3 stride: 2 pad: 1 }", [np.round(normal(2, 5, 21, 40))]),
    "max two": (POOL + "{ kernel_size: 2 stride: 2 }", [np.round(normal(2, 5, 21, 41))]),
    "max dense": (POOL + "{ kernel_size: 3 stride: 1 pad: 1 }", [np.round(normal(1, 3, 20, 19))]),
    "max rectangle": (POOL + "{ kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 3 }", [normal(2, 5, 21, 40)]),
    "mean": (POOL + "{ pool: AVE kernel_size: 3 stride: 2 pad: 1 }", [normal(2, 5, 21, 40)]),
    "stochastic": (POOL + "{ pool: STOCHASTIC kernel_size: 3 stride: 2 }", [np.abs(normal(2, 5, 20, 40))]),
    "SPP": ('type: "SPP" spp_param { pyramid_height: 3 }', [normal(2, 5, 21, 40)]),
    "LRN across": ('type: "LRN" lrn_param { alpha: 0.5 }', [normal(2, 9, 23, 40)]),
    "LRN of many pixels": ('type: "LRN" lrn_param { alpha: 0.5 }', [normal(2, 9, 65, 130)]),
    "LRN of many pixels, 3": ('type: "LRN" lrn_param { local_size: 3 }', [normal(1, 35, 128, 129)]),
    "LRN beta": ('type: "LRN" lrn_param { alpha: 0.5 beta: 0.6 k: 2 }', [normal(2, 9, 23, 40)]),
    "LRN within": ('type: "LRN" lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }', [normal(2, 3, 23, 40)]),
    "MVN": ('type: "MVN"', [normal(3, 4, 40, 41)]),
    "BatchNorm": ('type: "BatchNorm"', [normal(3, 4, 40, 41)]),
    "Normalize": ('type: "Normalize" norm_param { across_spatial: false }', [normal(3, 4, 40, 41)]),
    "Normalize image": ('type: "Normalize" norm_param { channel_shared: false }', [normal(3, 4, 40, 41)]),
    "ROIPooling": (
        'type: "ROIPooling" roi_pooling_param { pooled_h: 3 pooled_w: 4 spatial_scale: 0.0625 }',
        [np.round(2 * normal(3, 21, 11, 13)), rois(64, 3)],
    ),
    "Softmax": ('type: "Softmax"', [normal(3, 5, 7, 11)]),
    "SoftmaxWithLoss": ('type: "SoftmaxWithLoss" loss_param { ignore_label: 2 }', [normal(3, 5, 7, 11), LABELS]),
    "InfogainLoss": ('type: "InfogainLoss"', [normal(3, 5, 7, 11), LABELS, np.abs(normal(5, 5))]),
    "EuclideanLoss": ('type: "EuclideanLoss"', [normal(3, 5, 700), normal(3, 5, 700)]),
    "SmoothL1Loss": ('type: "SmoothL1Loss"', [normal(3, 5000) for _ in range(4)]),
    "SigmoidCrossEntropyLoss": (
        'type: "SigmoidCrossEntropyLoss" loss_param { ignore_label: -1 }',
        [normal(3, 500), generator.integers(-1, 2, (3, 500))],
    ),
}


def results(text, inputs):
    run = LayerRun(text, inputs)
    tops = run.forward()
    diffs = [np.random.default_rng(3).normal(size=top.shape) for top in tops]
    wanted = [run.layer.allow_force_backward(i) for i in range(len(inputs))]
    bottoms, params = run.backward(diffs, wanted)
    again, _ = run.backward(diffs, wanted)
    for first, second in zip(bottoms, again):
        np.testing.assert_array_equal(first, second, err_msg="a second backward pass")
    return [*tops, *(diff for diff in bottoms if diff is not None), *params]


@pytest.mark.parametrize("name", CASES)
def test_same_bits(name, monkeypatch):
    expected = results(*CASES[name])
    assert all(np.isfinite(values).all() for values in expected)
    try:
        for threads in (1, 3):
            set_threads(threads)
            for actual, values in zip(results(*CASES[name]), expected):
                np.testing.assert_array_equal(actual, values, err_msg=f"{threads} threads")
    finally:
        set_threads(0)
    for module in MODULES:
        monkeypatch.setattr(module, "kernels", gathering)
    for actual, values in zip(results(*CASES[name]), expected):
        np.testing.assert_array_equal(actual, values, err_msg="gather")
