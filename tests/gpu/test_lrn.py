"""LRN across channels on the GPU, where a thread walks along channels: the sums of the plain kernels, in every bit."""

import numpy as np
import pytest

from caffelite.layers import normalization
from tests.engine.gradient_check import LayerRun


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    monkeypatch.setattr(normalization, "WORTH_PIXELS", 1)


def passes(options: str, x, walk: bool) -> tuple[np.ndarray, np.ndarray]:
    run = LayerRun(f'type: "LRN" lrn_param {{ {options} }}', [x])
    if not walk:
        reshape = run.layer.reshape
        run.layer.reshape = lambda bottom, top: (reshape(bottom, top), setattr(run.layer, "walk", None))
    (y,) = run.forward()
    dy = np.random.default_rng(4).standard_normal(y.shape).astype(np.float32)
    (dx,), _ = run.backward([dy], [True])
    return y, dx


@pytest.mark.parametrize("channels", [1, 2, 5, 31, 32, 33, 70])
@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_the_same_bits_walking_along_channels(size, channels, launches):
    x = np.random.default_rng(channels).standard_normal((2, channels, 5, 7)).astype(np.float32) * 3
    options = f"local_size: {size} alpha: 0.5 beta: 0.75 k: 1.5"
    walked = passes(options, x, True)
    plain = passes(options, x, False)
    walks = int(size in (3, 5))
    assert launches["lrn_forward_across"] == launches["lrn_backward_across"] == walks
    assert launches["lrn_forward"] == launches["lrn_backward_windows"] == 2 - walks
    for actual, expected in zip(walked, plain, strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_another_power():
    x = np.random.default_rng(0).standard_normal((1, 40, 3, 4)).astype(np.float32)
    for actual, expected in zip(passes("beta: 0.6 k: 2", x, True), passes("beta: 0.6 k: 2", x, False), strict=True):
        np.testing.assert_array_equal(actual, expected)
