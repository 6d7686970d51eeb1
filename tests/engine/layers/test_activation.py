"""ReLU and ReLU6: gradients, the values at the corners, and what runs in place."""

import numpy as np
import pytest

from tests.engine.gradient_check import LayerRun, check_gradient

X = np.linspace(-3.1, 8.2, 60).reshape(3, 4, 5)  # no element within 0.02 of 0 or 6


@pytest.mark.parametrize("text", ['type: "ReLU"', 'type: "ReLU" relu_param { negative_slope: 0.3 }', 'type: "ReLU6"'])
@pytest.mark.parametrize("in_place", [0, 1])
def test_gradients(text, in_place):
    check_gradient(text, [X], in_place=in_place)


def test_relu_of_corner_values():
    values = [-np.inf, -2, -0.0, 0, 3, np.inf, np.nan]
    (y,) = LayerRun('type: "ReLU" relu_param { negative_slope: 0.5 }', [values]).forward()
    np.testing.assert_array_equal(y, np.float32([-np.inf, -1, 0, 0, 3, np.inf, np.nan]))
    (y,) = LayerRun('type: "ReLU"', [[-5.0]]).forward()
    assert not np.signbit(y[0])


def test_relu_passes_no_gradient_at_zero():
    run = LayerRun('type: "ReLU"', [[-1.0, 0, 1]])
    run.forward()
    np.testing.assert_array_equal(run.backward([[7.0, 7, 7]])[0][0], [0, 0, 7])


@pytest.mark.parametrize("in_place", [0, 1])
def test_relu6_passes_gradient_strictly_between_0_and_6(in_place):
    run = LayerRun('type: "ReLU6"', [[-1.0, 0, 3, 6, 7, np.nan]], in_place=in_place)
    np.testing.assert_array_equal(run.forward()[0], [0, 0, 3, 6, 6, np.nan])
    np.testing.assert_array_equal(run.backward([np.ones(6)])[0][0], [0, 0, 1, 0, 0, 0])


def test_the_diff_of_a_bottom_that_needs_none_is_not_touched():
    run = LayerRun('type: "ReLU"', [X])
    run.forward()
    run.backward([X], propagate_down=[False])
    assert not run.bottom[0].diff_memory.allocated


def test_the_top_follows_the_bottom_to_a_new_shape():
    run = LayerRun('type: "ReLU"', [X])
    run.inputs = [np.full((7, 2), -1.0)]
    run.bottom[0].reshape(7, 2)
    np.testing.assert_array_equal(run.forward()[0], np.zeros((7, 2)))
