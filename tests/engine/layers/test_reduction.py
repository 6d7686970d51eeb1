"""Reduction: every operation along every kind of axis."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

X = np.random.default_rng(0).permutation(np.linspace(-2.05, 2.1, 24)).reshape(3, 2, 4)  # none within 0.02 of 0
OPERATIONS = {
    "SUM": lambda rows: rows.sum(1),
    "ASUM": lambda rows: np.abs(rows).sum(1),
    "SUMSQ": lambda rows: (rows**2).sum(1),
    "MEAN": lambda rows: rows.mean(1),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("axis", "shape"), [(0, ()), (1, (3,)), (-1, (3, 2)), (-2, (3,))])
def test_values_and_gradients(operation, axis, shape):
    text = f'type: "Reduction" reduction_param {{ operation: {operation} axis: {axis} coeff: -1.5 }}'
    run = check_gradient(text, [X], tolerance=2e-3)
    (y,) = run.forward()
    rows = X.reshape(int(np.prod(shape)), -1)
    assert y.shape == shape
    np.testing.assert_allclose(y.ravel(), -1.5 * OPERATIONS[operation](rows), rtol=1e-5, atol=1e-6)


def test_reduction_as_a_loss():
    run = check_gradient('type: "Reduction" reduction_param { operation: SUMSQ } loss_weight: 0.5', [X])
    assert run.layer.loss_weights == [0.5]


def test_a_mean_of_nothing():
    with pytest.raises(LayerError, match=r"no elements to take the mean of: the bottom has shape \(3, 0\)"):
        LayerRun('type: "Reduction" reduction_param { operation: MEAN axis: 1 }', [np.zeros((3, 0))])
    (y,) = LayerRun('type: "Reduction" reduction_param { axis: 1 }', [np.zeros((3, 0))]).forward()
    np.testing.assert_array_equal(y, [0, 0, 0])
