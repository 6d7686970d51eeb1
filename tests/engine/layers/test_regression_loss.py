"""Losses of numbers against numbers: gradients, weights, margins, ignored targets, refusals."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

generator = np.random.default_rng(0)
A, B = generator.normal(size=(2, 4, 3, 2))
ZERO_ONE = generator.integers(0, 2, (4, 3, 2))
WEIGHTS = generator.uniform(-2, 2, (4, 3, 2))


@pytest.mark.parametrize("weight", ["", "loss_weight: 0.25"])
def test_euclidean_gradients(weight):
    run = check_gradient(f'type: "EuclideanLoss" {weight}', [A, B], most=24)
    np.testing.assert_allclose(run.forward()[0], ((A - B) ** 2).sum() / 8, rtol=1e-6)


@pytest.mark.parametrize("sigma", [1, 3])
@pytest.mark.parametrize("weights", [[], [ZERO_ONE], [WEIGHTS, np.ones((4, 3, 2))], [WEIGHTS, WEIGHTS[::-1]]])
def test_smooth_l1_gradients(sigma, weights):
    inputs = [A, B, *weights]
    run = check_gradient(
        f'type: "SmoothL1Loss" smooth_l1_loss_param {{ sigma: {sigma} }}',
        inputs,
        propagate_down=[True, True, False, False][: len(inputs)],
        step=1e-3,
        tolerance=3e-3,
    )
    inside, outside = [*weights, 1, 1][:2] if len(weights) != 1 else (weights[0], 1)
    d = np.abs(inside * (A - B))
    f = np.where(d < 1 / sigma**2, 0.5 * (sigma * d) ** 2, d - 0.5 / sigma**2)
    np.testing.assert_allclose(run.forward()[0], (outside * f).sum() / 4, rtol=1e-5)


def test_three_bottoms_weigh_the_gradient_once():
    w = np.full((4, 3, 2), 0.5)
    three = LayerRun('type: "SmoothL1Loss"', [A, B, w])
    four = LayerRun('type: "SmoothL1Loss"', [A, B, w, np.ones_like(w)])
    assert three.forward() == four.forward()
    first, _ = three.backward([1.0], [True, True, False])
    second, _ = four.backward([1.0], [True, True, False, False])
    np.testing.assert_array_equal(first[0] * np.float32(0.5), second[0])
    np.testing.assert_array_equal(first[1] * np.float32(0.5), second[1])


def test_smooth_l1_weights_get_zeros_when_asked():
    run = LayerRun('type: "SmoothL1Loss"', [A, B, ZERO_ONE])
    run.forward()
    bottoms, _ = run.backward([1.0])
    assert not bottoms[2].any() and bottoms[0].any()
    assert [run.layer.allow_force_backward(i) for i in range(3)] == [True, True, False]


@pytest.mark.parametrize("kind", ["EuclideanLoss", "SmoothL1Loss", "SigmoidCrossEntropyLoss"])
def test_an_empty_batch_costs_nothing(kind):
    run = LayerRun(f'type: "{kind}"', [np.zeros((0, 4)), np.zeros((0, 4))])
    assert run.forward()[0] == 0
    (dx, _), _ = run.backward([1.0], [True, False])
    assert dx.shape == (0, 4)


def test_shapes_may_differ_in_last_ones():
    run = LayerRun('type: "SmoothL1Loss"', [A.reshape(4, 6), B.reshape(4, 6, 1, 1)])
    assert run.forward() == LayerRun('type: "SmoothL1Loss"', [A, B]).forward()


@pytest.mark.parametrize("legacy", ["false", "true"])
def test_contrastive_gradients(legacy):
    a, b = generator.normal(size=(2, 6, 4)) / 2
    similar = [1, 0, 0, 1, 0, 0]
    b[1] = a[1] + 0.5  # nearer than the margin
    b[2] += 9  # farther
    text = f'type: "ContrastiveLoss" contrastive_loss_param {{ margin: 3.5 legacy_version: {legacy} }}'
    run = check_gradient(text, [a, b, similar], propagate_down=[True, True, False], tolerance=3e-3)
    (dx, _, _), _ = run.backward([1.0], [True, True, False])
    assert not dx[2].any() and dx[1].any()
    squared = ((a - b) ** 2).sum(axis=1)
    gap = np.maximum(3.5 - squared, 0) if legacy == "true" else np.maximum(3.5 - np.sqrt(squared), 0) ** 2
    np.testing.assert_allclose(run.forward()[0], np.where(similar, squared, gap).sum() / 12, rtol=1e-5)


def test_the_same_point_twice_has_a_gradient():
    run = LayerRun('type: "ContrastiveLoss"', [A.reshape(4, 6), A.reshape(4, 6), [0, 0, 0, 0]])
    assert run.forward()[0] == 0.5
    (dx, _, _), _ = run.backward([1.0], [True, True, False])
    assert not dx.any()
    with pytest.raises(LayerError, match="flags of the pairs"):
        run.backward([1.0])


@pytest.mark.parametrize(
    ("options", "divisor"),
    [
        ("", lambda counted: 4),
        ("normalization: VALID", lambda counted: counted),
        ("normalization: FULL", lambda counted: 24),
        ("normalization: NONE", lambda counted: 1),
        ("normalize: true", lambda counted: counted),
        ("normalize: false", lambda counted: 4),
    ],
)
@pytest.mark.parametrize("ignore", [None, -1])
def test_sigmoid_cross_entropy(options, divisor, ignore):
    targets = generator.uniform(0, 1, A.shape)
    counted = np.ones(A.shape, bool)
    if ignore is not None:
        options += f" ignore_label: {ignore}"
        counted = generator.uniform(size=A.shape) < 0.7
        targets[~counted] = ignore
    text = f'type: "SigmoidCrossEntropyLoss" loss_param {{ {options} }}'
    run = check_gradient(text, [A, targets], propagate_down=[True, False], most=24)
    p = 1 / (1 + np.exp(-A))
    each = -(targets * np.log(p) + (1 - targets) * np.log(1 - p))
    np.testing.assert_allclose(run.forward()[0], each[counted].sum() / divisor(counted.sum()), rtol=1e-5)


def test_sigmoid_cross_entropy_of_great_scores():
    run = LayerRun('type: "SigmoidCrossEntropyLoss"', [[[1000, -1000, 1000]], [[1, 0, 0]]])
    assert run.forward()[0] == 1000
    (dx, _), _ = run.backward([1.0], [True, False])
    assert dx.tolist() == [[0, 0, 1]]
    with pytest.raises(LayerError, match="labels get no gradient"):
        run.backward([1.0])


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("EuclideanLoss", [A, B[:3]], "same first dimension"),
        ("EuclideanLoss", [A, B[:, :2]], "inputs of one size"),
        ("SmoothL1Loss", [A, B[:, :2]], "bottoms of one shape"),
        ("SmoothL1Loss", [A, B, WEIGHTS[:, :2]], "bottoms of one shape"),
        ("SmoothL1Loss", [A, B, A, B, A], "at most 4 bottom"),
        ("ContrastiveLoss", [A, B, [0, 0, 0, 0]], r"two blobs \(N, C\)"),
        ("ContrastiveLoss", [A[:, 0], B[:, 0], [[0, 1]] * 4], "one flag per pair"),
        ("SigmoidCrossEntropyLoss", [A, B[:, :2]], "as many targets as scores"),
    ],
)
def test_refusals(kind, inputs, message):
    with pytest.raises(LayerError, match=message):
        LayerRun(f'type: "{kind}"', inputs)
