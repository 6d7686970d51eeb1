"""Reshape, Flatten and Permute: shapes, gradients, shared memory, the checks of the parameters."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

X = np.random.default_rng(0).normal(size=(2, 3, 4, 5))


def reshape(options, x=X):
    return LayerRun(f'type: "Reshape" reshape_param {{ {options} }}', [x])


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ("shape { dim: 0 dim: -1 dim: 5 }", (2, 12, 5)),
        ("shape { dim: 0 dim: 0 dim: -1 }", (2, 3, 20)),
        ("shape { dim: -1 }", (120,)),
        ("shape { dim: 6 dim: 20 }", (6, 20)),
        ("shape { dim: 2 dim: -1 } axis: 2 num_axes: 1", (2, 3, 2, 2, 5)),
        ("shape { dim: 1 } axis: 1 num_axes: 0", (2, 1, 3, 4, 5)),
        ("shape { dim: 1 } axis: -1", (2, 3, 4, 5, 1)),
        ("shape { dim: -1 } axis: -3", (2, 3, 20)),
        ("shape { dim: 0 dim: 2 dim: 2 } axis: 1 num_axes: 2", (2, 3, 2, 2, 5)),
    ],
)
def test_shapes(options, shape):
    assert reshape(options).top[0].shape == shape


def test_a_scalar_can_be_made_and_reshaped():
    assert reshape("shape { }", np.ones((1, 1))).top[0].shape == ()
    assert reshape("shape { dim: 1 dim: 1 }", np.float32(2)).top[0].shape == (1, 1)


@pytest.mark.parametrize(
    "text",
    [
        'type: "Reshape" reshape_param { shape { dim: 0 dim: -1 } }',
        'type: "Flatten"',
        'type: "Permute" permute_param { order: 0 order: 1 }',
    ],
)
def test_data_and_diff_are_the_bottoms_memory(text):
    run = check_gradient(text, [X])
    assert np.shares_memory(run.top[0].data, run.bottom[0].data)
    assert np.shares_memory(run.top[0].diff, run.bottom[0].diff)
    run.bottom[0].reshape(20, 3, 4, 5)  # new memory
    run.layer.reshape(run.bottom, run.top)
    assert np.shares_memory(run.top[0].data, run.bottom[0].data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("shape { dim: -1 dim: -1 }", "at most one dimension can be -1"),
        ("shape { dim: 2 dim: -2 }", "expected dimensions of at least -1, actual [-2]"),
        ("shape { dim: 3 dim: 5 }", "expected as many elements as in the bottom, (2, 3, 4, 5): 120, actual [3, 5]"),
        ("shape { dim: 7 dim: -1 }", "cannot be divided by the 7"),
        ("shape { dim: 1 dim: 0 } axis: 3 num_axes: 1", "a 0 has no axis to copy"),
        ("shape { dim: 1 } axis: 5", "axis 5 is out of range"),
        ("shape { dim: 1 } axis: -6", "axis -6 is out of range"),
        ("shape { dim: 1 } axis: 3 num_axes: 2", "axis 3 + num_axes 2 is beyond the last axis"),
        ("shape { dim: 1 } num_axes: -2", "expected num_axes of at least 0, or -1 for all, actual -2"),
    ],
)
def test_reshape_is_checked(options, message):
    with pytest.raises(LayerError) as error:
        reshape(options)
    assert message in str(error.value)


def test_an_empty_bottom_leaves_nothing_to_divide():
    assert reshape("shape { dim: 0 dim: 4 dim: 0 }", np.zeros((0, 2, 2))[:, :, :0]).top[0].shape == (0, 4, 0)
    with pytest.raises(LayerError, match="to find the -1"):
        reshape("shape { dim: 0 dim: -1 }", np.zeros((0, 4)))


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ("", (2, 60)),
        ("axis: 0", (120,)),
        ("axis: 0 end_axis: -2", (24, 5)),
        ("axis: -2", (2, 3, 20)),
        ("axis: 1 end_axis: 1", (2, 3, 4, 5)),
        ("axis: 2 end_axis: 1", (2, 3, 1, 4, 5)),
    ],
)
def test_flatten(options, shape):
    assert LayerRun(f'type: "Flatten" flatten_param {{ {options} }}', [X]).top[0].shape == shape


def test_flatten_is_checked():
    with pytest.raises(LayerError, match="axis 3 is behind end_axis 1"):
        LayerRun('type: "Flatten" flatten_param { axis: 3 end_axis: 1 }', [X])
    with pytest.raises(LayerError, match="axis 4 is out of range"):
        LayerRun('type: "Flatten" flatten_param { axis: 4 }', [X])


@pytest.mark.parametrize("kind", ["Reshape", "Flatten"])
def test_they_do_not_run_in_place(kind):
    with pytest.raises(LayerError, match=f"{kind} does not run in place"):
        LayerRun(f'type: "{kind}" reshape_param {{ shape {{ dim: -1 }} }}', [X], in_place=1)


@pytest.mark.parametrize(
    ("orders", "full"), [([0, 2, 3, 1], [0, 2, 3, 1]), ([2], [2, 0, 1, 3]), ([3, 0], [3, 0, 1, 2])]
)
def test_permute(orders, full):
    text = f'type: "Permute" permute_param {{ {" ".join(f"order: {o}" for o in orders)} }}'
    run = check_gradient(text, [X])
    np.testing.assert_array_equal(run.forward()[0], X.astype(np.float32).transpose(full))


@pytest.mark.parametrize("orders", ["order: 0 order: 0", "order: 4"])
def test_permute_is_checked(orders):
    with pytest.raises(LayerError, match="expected an order of different axes of the bottom"):
        LayerRun(f'type: "Permute" permute_param {{ {orders} }}', [X])


def test_permute_in_place_only_where_nothing_moves():
    LayerRun('type: "Permute"', [X], in_place=1)
    with pytest.raises(LayerError, match="Permute does not run in place"):
        LayerRun('type: "Permute" permute_param { order: 1 }', [X], in_place=1)
