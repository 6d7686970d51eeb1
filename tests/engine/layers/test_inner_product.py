"""InnerProduct: gradients, axes, transposed weights, refusals."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

X = np.random.default_rng(0).normal(size=(3, 2, 4))


def layer(options):
    return f'type: "InnerProduct" inner_product_param {{ {options} weight_filler {{ type: "gaussian" }} }}'


@pytest.mark.parametrize("transpose", ["", "transpose: true"])
@pytest.mark.parametrize(
    ("options", "batch", "length"),
    [
        ("num_output: 5", (3,), 8),
        ("num_output: 5 axis: 2", (3, 2), 4),
        ("num_output: 5 axis: -1 bias_term: false", (3, 2), 4),
        ("num_output: 1 axis: 0", (), 24),
    ],
)
def test_gradients(options, batch, length, transpose):
    run = check_gradient(layer(f"{options} {transpose}"), [X], step=0.1)
    weights, *bias = (blob.data for blob in run.layer.blobs)
    (y,) = run.forward()
    assert y.shape == (*batch, 1 if batch == () else 5)
    weights = weights if transpose else weights.T
    expected = X.reshape(-1, length) @ weights + (bias[0] if bias else 0)
    np.testing.assert_allclose(y.reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


def test_the_batch_may_change_but_not_the_vector():
    run = LayerRun(layer("num_output: 2"), [X])
    run.bottom[0].reshape(7, 8)
    run.layer.reshape(run.bottom, run.top)
    assert run.top[0].shape == (7, 2)
    run.bottom[0].reshape(7, 9)
    with pytest.raises(LayerError, match="vectors of 8, actual 9"):
        run.layer.reshape(run.bottom, run.top)


def test_an_empty_batch():
    run = LayerRun(layer("num_output: 2"), [np.zeros((0, 8))])
    assert run.forward()[0].shape == (0, 2)
    (dx,), params = run.backward([np.zeros((0, 2))])
    assert dx.shape == (0, 8) and not any(diff.any() for diff in params)


@pytest.mark.parametrize(
    ("options", "message"), [("", "num_output"), ("num_output: 2 axis: 3", "axis 3 is out of range")]
)
def test_refusals(options, message):
    with pytest.raises(LayerError, match=message):
        LayerRun(layer(options), [X])


def test_not_in_place():
    with pytest.raises(LayerError, match="in place"):
        LayerRun(layer("num_output: 8"), [X.reshape(3, 8)], in_place=1)
