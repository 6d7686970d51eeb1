"""ArgMax, BatchReindex, Filter and Embed: ties, indices that are none, gradients."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

X = np.random.default_rng(0).normal(size=(4, 5, 3, 2)).astype(np.float32)


def arg_max(options, x):
    return LayerRun(f'type: "ArgMax" argmax_param {{ {options} }}', [x]).forward()[0]


def test_argmax_over_all_but_the_first_axis():
    np.testing.assert_array_equal(arg_max("", X), X.reshape(4, -1).argmax(1).reshape(4, 1, 1, 1))
    order = np.argsort(-X.reshape(4, -1), axis=1)[:, :3]
    both = arg_max("top_k: 3 out_max_val: true", X)
    assert both.shape == (4, 2, 3, 1)
    np.testing.assert_array_equal(both[:, 0, :, 0], order)
    np.testing.assert_array_equal(both[:, 1, :, 0], np.take_along_axis(X.reshape(4, -1), order, 1))
    assert arg_max("", X[:, 0, 0, 0]).shape == (4, 1, 1)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_argmax_along_an_axis(axis):
    order = np.take(np.argsort(-X, axis=axis), range(2), axis)
    np.testing.assert_array_equal(arg_max(f"axis: {axis} top_k: 2", X), order)
    values = arg_max(f"axis: {axis} top_k: 2 out_max_val: true", X)
    np.testing.assert_array_equal(values, np.take_along_axis(X, order, axis))


def test_the_larger_index_of_equal_elements_comes_first_as_in_the_original():
    rows = [[1, 1, 1, 1, 2, 0, 2, 2], [0, 1, 0, 0, 2, 0, 0, 2], [0, 1, 2, 0, 1, 0, 0, 0], [0, 0, 0, 0, 2, 0, 0, 2]]
    expected = [[[7, 6, 4]], [[7, 4, 1]], [[2, 4, 1]], [[7, 4, 6]]]
    np.testing.assert_array_equal(arg_max("top_k: 3", np.float32(rows)), expected)


def test_argmax_ranks_what_is_not_a_number_below_infinity_alone():
    row = np.float32([[-np.inf, 1, np.nan, -np.inf, np.inf]])
    np.testing.assert_array_equal(arg_max("top_k: 5", row), [[[4, 2, 1, 3, 0]]])


def test_argmax_checks():
    with pytest.raises(LayerError, match="expected a top_k of at most 30, actual 31"):
        arg_max("top_k: 31", X)
    with pytest.raises(LayerError, match="expected a top_k of at least 1"):
        arg_max("top_k: 0", X)
    run = LayerRun('type: "ArgMax"', [X])
    run.forward()
    with pytest.raises(LayerError, match="no backward pass"):
        run.backward([np.zeros((4, 1, 1, 1))])


def test_batch_reindex():
    indices = np.float32([2, 0, 2, 3, 3, 2])
    run = check_gradient('type: "BatchReindex"', [X, indices], propagate_down=[True, False], most=40)
    np.testing.assert_array_equal(run.forward()[0], X[indices.astype(int)])
    with pytest.raises(LayerError, match="no gradient exists for the indices"):
        run.backward([np.zeros((6, 5, 3, 2))])


@pytest.mark.parametrize("wrong", [-1, 4, 1.5, np.nan])
def test_indices_that_are_none_are_refused(wrong):
    with pytest.raises(LayerError, match=rf"bottom 1, element 1: expected an index from 0 to 3, actual {wrong}"):
        LayerRun('type: "BatchReindex"', [X, [0, wrong]]).forward()
    with pytest.raises(LayerError, match="bottom 0, element 2: expected an index from 0 to 3"):
        LayerRun('type: "Embed" embed_param { input_dim: 4 num_output: 2 }', [[[0, 1], [wrong, 2]]]).forward()


def test_filter():
    labels, selector = np.float32([6, 3, 1, 2]), np.float32([1, 0, 1, 0])[:, None]
    text = 'type: "Filter"'
    run = LayerRun(text, [X, labels, selector], tops=2)
    assert run.top[0].shape == X.shape  # all of it until there is data
    data, kept = run.forward()
    np.testing.assert_array_equal(data, X[[0, 2]])
    np.testing.assert_array_equal(kept, [6, 1])
    check_gradient(text, [X, labels, selector], tops=2, propagate_down=[True, True, False], most=40)
    with pytest.raises(LayerError, match="no gradient exists for the selector"):
        run.backward([data, kept])


def test_filter_that_lets_nothing_through():
    run = LayerRun('type: "Filter"', [X, np.zeros(4)])
    assert run.forward()[0].shape == (0, 5, 3, 2)
    diffs, _ = run.backward([np.zeros((0, 5, 3, 2))], propagate_down=[True, False])
    np.testing.assert_array_equal(diffs[0], np.zeros_like(X))


@pytest.mark.parametrize(
    ("inputs", "tops", "message"),
    [
        ([X, np.zeros((4, 2))], 1, "a selector (the last bottom) of one number for each item, actual shape (4, 2)"),
        ([X, np.zeros(3)], 1, "bottom 0 has shape (4, 5, 3, 2), the selector (3,)"),
        ([X, np.zeros(4)], 2, "one top for each bottom but the selector: 1, actual 2"),
    ],
)
def test_filter_checks(inputs, tops, message):
    with pytest.raises(LayerError) as error:
        LayerRun('type: "Filter"', inputs, tops=tops)
    assert message in str(error.value)


@pytest.mark.parametrize("bias", [False, True])
def test_embed(bias):
    generator = np.random.default_rng(1)
    indices, params = np.float32([[0, 4], [2, 2], [4, 0]]), [generator.normal(size=(5, 3)), generator.normal(size=3)]
    text = f'type: "Embed" embed_param {{ input_dim: 5 num_output: 3 bias_term: {str(bias).lower()} }}'
    run = check_gradient(text, [indices], params[: 1 + bias], propagate_down=[False])
    np.testing.assert_allclose(
        run.forward()[0], params[0][indices.astype(int)] + (params[1] if bias else 0), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(LayerError, match="no gradient exists for the indices"):
        run.backward([np.zeros((3, 2, 3))])


@pytest.mark.parametrize(("options", "what"), [("num_output: 2", "input_dim"), ("input_dim: 2", "num_output")])
def test_embed_checks(options, what):
    with pytest.raises(LayerError, match=f"{what} above 0"):
        LayerRun(f'type: "Embed" embed_param {{ {options} }}', [[1.0]])
