"""RoI pooling on the GPU gives the CPU's maxima and winners, in training in every bit."""

import numpy as np
import pytest

from caffelite import TEST, TRAIN, backend
from tests.engine.gradient_check import LayerRun

SHAPES = {
    "a few cells": (2, 5, 9, 12),
    "wider than a warp": (1, 3, 11, 100),
    "a row": (2, 2, 1, 70),
    "one cell": (1, 4, 1, 1),
}


def case(shape, kind):
    generator = np.random.default_rng(len(kind) + shape[3])
    x = generator.standard_normal(shape).astype(np.float32)
    if kind == "ties":
        x = np.round(x)  # of zeros both signs
    elif kind == "no numbers":
        x.ravel()[generator.integers(0, x.size, x.size // 2)] = np.nan
        x.ravel()[generator.integers(0, x.size, x.size // 3)] = -np.inf
    low = generator.uniform(-40, 16 * shape[3], (70, 2))
    high = low + generator.choice([3, 40, 150, 2000], (70, 1)) * generator.uniform(-0.3, 1, (70, 2))
    rois = np.hstack([generator.integers(0, shape[0], (70, 1)), low, high]).astype(np.float32)
    rois[0, 1:], rois[1, 1:] = (-3e38, -np.inf, 3e38, np.inf), (np.inf, 1e9, -np.inf, -1e9)
    return x, rois


def run_of(pooled, x, rois, phase) -> LayerRun:
    options = f"pooled_h: {pooled[0]} pooled_w: {pooled[1]} spatial_scale: 0.0625"
    return LayerRun(f'type: "ROIPooling" roi_pooling_param {{ {options} }}', [x, rois], phase=phase)


def passes(pooled, x, rois) -> list[np.ndarray]:
    """Outputs and gradients in training, before and after winners are kept, and the winners."""
    run = run_of(pooled, x, rois, TRAIN)
    (first,) = run.forward()
    dy = np.random.default_rng(5).standard_normal(first.shape).astype(np.float32)
    (dx, _), _ = run.backward([dy], [True, False])
    (again,) = run.forward()
    return [first, dx, again, backend.to_host(run.layer.argmax)]


@pytest.mark.parametrize("kind", ["usual", "ties", "no numbers"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pooled", [(7, 7), (6, 6), (3, 5), (1, 1), (9, 3), (2, 40)])
def test_gpu_is_cpu(pooled, shape, kind, launches):
    x, rois = case(SHAPES[shape], kind)
    on_gpu = passes(pooled, x, rois)
    (tested,) = run_of(pooled, x, rois, TEST).forward()
    assert launches["roi_maxima"] == (pooled[1] <= 8)
    backend.set_mode_cpu()
    on_cpu = passes(pooled, x, rois)
    for actual, expected in zip(on_gpu, on_cpu, strict=True):
        np.testing.assert_array_equal(actual, expected)
        assert actual.dtype == expected.dtype and np.signbit(actual).tobytes() == np.signbit(expected).tobytes()
    np.testing.assert_array_equal(tested, on_cpu[0])


def test_a_backward_pass_in_a_test_finds_the_winners():
    x, rois = case(SHAPES["a few cells"], "ties")
    gradients = []
    for phase in (TRAIN, TEST):
        run = run_of((7, 7), x, rois, phase)
        (y,) = run.forward()
        gradients.append(run.backward([np.ones(y.shape)], [True, False])[0][0])
    np.testing.assert_array_equal(*gradients)


def test_channels_beside_each_other_stay_apart():
    """17 channels: the last warp has one of its own."""
    x, rois = case((2, 17, 6, 40), "usual")
    (tested,) = run_of((7, 7), x, rois, TEST).forward()
    backend.set_mode_cpu()
    np.testing.assert_array_equal(tested, run_of((7, 7), x, rois, TEST).forward()[0])


def test_no_rois():
    x, _ = case(SHAPES["a few cells"], "usual")
    assert run_of((7, 7), x, np.zeros((0, 5)), TEST).forward()[0].shape == (0, 5, 7, 7)
