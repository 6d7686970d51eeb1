"""Eltwise and Split: gradients, ties, coefficients, shared memory."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

A, B, C = (np.random.default_rng(i).permutation(np.linspace(-2, 2, 24)).reshape(2, 3, 4) for i in range(3))
B, C = B + 0.06, C - 0.05  # no two of one place within 0.02


def eltwise(options):
    return f'type: "Eltwise" eltwise_param {{ {options} }}'


@pytest.mark.parametrize("inputs", [[A, B], [A, B, C]])
@pytest.mark.parametrize(
    "options", ["", "operation: PROD", "operation: PROD stable_prod_grad: false", "operation: MAX"]
)
def test_gradients(options, inputs):
    run = check_gradient(eltwise(options), inputs, step=5e-3, tolerance=3e-3)
    reduce = {"": np.add, "operation: MAX": np.maximum}.get(options, np.multiply).reduce
    np.testing.assert_allclose(run.forward()[0], reduce(inputs), rtol=1e-5, atol=1e-6)


def test_coefficients():
    run = check_gradient(eltwise("coeff: 1 coeff: -0.5 coeff: 2"), [A, B, C])
    np.testing.assert_allclose(run.forward()[0], A - 0.5 * B + 2 * C, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", ["coeff: 3 coeff: -1", "operation: MAX"])
def test_gradients_in_place(options):
    check_gradient(eltwise(options), [A, B], in_place=1, step=5e-3)


def test_product_in_place_has_no_backward_pass():
    run = LayerRun(eltwise("operation: PROD"), [A, B], in_place=1)
    np.testing.assert_allclose(run.forward()[0], A * B, rtol=1e-5)
    with pytest.raises(LayerError, match="PROD has no backward pass in place"):
        run.backward([A])


def test_ties_of_the_maximum_as_in_the_original():
    """The second of the first two wins a tie; a later one must be larger (values of the original)."""
    run = LayerRun(eltwise("operation: MAX"), [[2.0, 1, 0, -2, 2], [2.0, 1, 2, -2, -2], [0.0, 1, 2, -1, 2]])
    np.testing.assert_array_equal(run.forward()[0], [2, 1, 2, -1, 2])
    diffs, _ = run.backward([[1.0, 2, 3, 4, 5]])
    np.testing.assert_array_equal(diffs, [[0, 0, 0, 0, 5], [1, 2, 3, 0, 0], [0, 0, 0, 4, 0]])


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ("coeff: 1", [A, B], "expected a coeff for each of the 2 bottoms or none, actual 1"),
        ("operation: PROD coeff: 1 coeff: 1", [A, B], "coeff is for SUM"),
        ("", [A, B[:1]], "expected bottoms of one shape, actual (2, 3, 4) (bottom 0) and (1, 3, 4) (bottom 1)"),
        ("", [A], "expected at least 2 bottom blob(s), actual 1"),
    ],
)
def test_checks(options, inputs, message):
    with pytest.raises(LayerError) as error:
        LayerRun(eltwise(options), inputs)
    assert message in str(error.value)


@pytest.mark.parametrize("tops", [1, 2, 4])
def test_split_shares_the_data_and_adds_the_gradients(tops):
    run = check_gradient('type: "Split"', [A], tops=tops)
    assert all(np.shares_memory(top.data, run.bottom[0].data) for top in run.top)


def test_split_takes_a_diff_that_nothing_wrote_for_zero():
    run = LayerRun('type: "Split"', [A], tops=3)
    run.forward()
    np.testing.assert_array_equal(run.backward([])[0][0], np.zeros_like(A))
    run.top[1].diff[...] = B
    run.layer.backward(run.top, [True], run.bottom)
    np.testing.assert_array_equal(run.bottom[0].diff, B.astype(np.float32))
    assert not run.top[0].diff_memory.allocated


def test_split_does_not_run_in_place():
    with pytest.raises(LayerError, match="Split does not run in place"):
        LayerRun('type: "Split"', [A], tops=2, in_place=1)
