"""Concat, Slice, Crop, Tile and Silence: values against numpy, gradients, the checks of the parameters."""

import numpy as np
import pytest

import caffelite as caffe
from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

X = np.random.default_rng(0).normal(size=(2, 6, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("options", "axis"), [("", 1), ("axis: 0", 0), ("axis: -1", 3), ("axis: -2", 2), ("concat_dim: 2", 2)]
)
def test_concat(options, axis):
    parts = np.split(X, {0: [1], 1: [1, 3], 2: [1], 3: [1, 2]}[axis], axis)
    run = check_gradient(f'type: "Concat" concat_param {{ {options} }}', parts, most=10)
    np.testing.assert_array_equal(run.forward()[0], X)


def test_concat_writes_the_gradients_that_are_asked_for_and_no_other():
    run = LayerRun('type: "Concat"', [X[:, :2], X[:, 2:]])
    run.forward()
    diffs, _ = run.backward([X], propagate_down=[False, True])
    np.testing.assert_array_equal(diffs[1], X[:, 2:])
    assert not run.bottom[0].diff_memory.allocated


@pytest.mark.parametrize("kind", ["Concat", "Slice"])
def test_one_bottom_and_one_top_share_memory(kind):
    run = check_gradient(f'type: "{kind}"', [X], most=10)
    assert np.shares_memory(run.top[0].data, run.bottom[0].data)


@pytest.mark.parametrize(
    ("options", "tops", "axis", "cuts"),
    [
        ("", 3, 1, [2, 4]),
        ("axis: 0", 2, 0, [1]),
        ("axis: -1 slice_point: 1", 2, 3, [1]),
        ("slice_point: 1 slice_point: 4", 3, 1, [1, 4]),
        ("slice_dim: 2 slice_point: 2", 2, 2, [2]),
    ],
)
def test_slice(options, tops, axis, cuts):
    run = check_gradient(f'type: "Slice" slice_param {{ {options} }}', [X], tops=tops, most=20)
    for top, expected in zip(run.forward(), np.split(X, cuts, axis), strict=True):
        np.testing.assert_array_equal(top, expected)


@pytest.mark.parametrize(
    ("text", "inputs", "tops", "message"),
    [
        ("Concat", [X, X[0]], 1, "differ along axis 1 only, actual (2, 6, 3, 4) (bottom 0) and (6, 3, 4) (bottom 1)"),
        ("Concat", [X, X[:1]], 1, "differ along axis 1 only"),
        ("Concat concat_param { axis: 1 concat_dim: 1 }", [X], 1, "either axis or concat_dim, actual both"),
        ("Concat concat_param { concat_dim: 4 }", [X], 1, "axis 4 is out of range"),
        ("Slice", [X], 4, "that 4 tops cut evenly, actual 6 (axis 1 of (2, 6, 3, 4))"),
        ("Slice slice_param { slice_point: 1 }", [X], 3, "expected 2 slice_point(s) for 3 tops, actual 1"),
        ("Slice slice_param { slice_point: 3 slice_point: 2 }", [X], 3, "rise between 0 and 6"),
        ("Slice slice_param { slice_point: 6 }", [X], 2, "rise between 0 and 6"),
        ("Slice slice_param { axis: 1 slice_dim: 1 }", [X], 2, "either axis or slice_dim, actual both"),
        ("Crop crop_param { axis: 1 offset: 1 offset: 1 }", [X, X[:, :1]], 1, "expected 1 offset or 3"),
        ("Crop crop_param { offset: 1 }", [X, X], 1, "axis 2: offset 1 and size 3 do not fit into bottom 0"),
        ("Crop", [X, X[0]], 1, "in bottom 1, actual (6, 3, 4)"),
        ("Tile", [X], 1, "expected a number of tiles above 0, actual none"),
        ("Tile tile_param { tiles: -2 }", [X], 1, "above 0, actual -2"),
    ],
)
def test_checks(text, inputs, tops, message):
    kind, _, options = text.partition(" ")
    with pytest.raises(LayerError) as error:
        LayerRun(f'type: "{kind}" {options}', inputs, tops=tops)
    assert message in str(error.value)


@pytest.mark.parametrize(("kind", "inputs"), [("Concat", [X, X]), ("Slice", [X])])
def test_they_do_not_run_in_place(kind, inputs):
    with pytest.raises(LayerError, match=f"{kind} does not run in place"):
        LayerRun(f'type: "{kind}"', inputs, in_place=1)


@pytest.mark.parametrize(
    ("options", "reference", "where"),
    [
        ("", (2, 6, 2, 3), np.s_[:, :, :2, :3]),
        ("offset: 1", (9, 9, 2, 3), np.s_[:, :, 1:3, 1:4]),
        ("axis: 1 offset: 4 offset: 0 offset: 2", (2, 2, 3, 1), np.s_[:, 4:, :, 2:3]),
        ("axis: -1 offset: 3", (2, 6, 3, 1), np.s_[..., 3:]),
    ],
)
def test_crop(options, reference, where):
    run = check_gradient(f'type: "Crop" crop_param {{ {options} }}', [X, np.zeros(reference)], most=20)
    np.testing.assert_array_equal(run.forward()[0], X[where])


@pytest.mark.parametrize(
    ("options", "repeats"),
    [("tiles: 2", (1, 2, 1, 1)), ("axis: 0 tiles: 3", (3, 1, 1, 1)), ("axis: -1 tiles: 2", (2,))],
)
def test_tile(options, repeats):
    run = check_gradient(f'type: "Tile" tile_param {{ {options} }}', [X], most=20)
    np.testing.assert_array_equal(run.forward()[0], np.tile(X, repeats))


def test_silence_gives_zero_gradients():
    run = LayerRun('type: "Silence"', [X, X], tops=0)
    run.forward()
    diffs, _ = run.backward([], propagate_down=[True, False])
    np.testing.assert_array_equal(diffs[0], np.zeros_like(X))
    assert not run.bottom[1].diff_memory.allocated


def test_a_crop_that_does_not_fit_says_where_it_stands(tmp_path):
    file = tmp_path / "net.prototxt"
    shape = 'input: "{0}" input_shape {{ dim: 1 dim: 1 dim: {1} dim: {1} }}'
    inputs = shape.format("a", 5) + shape.format("b", 4)
    layer = 'layer { name: "c" type: "Crop" bottom: "a" bottom: "b" top: "t" crop_param { axis: 2 offset: 2 } }'
    file.write_text(f"{inputs}\n{layer}")
    with pytest.raises(LayerError, match=r"net\.prototxt:2: layer 'c' \(Crop\): axis 2: offset 2 and size 4"):
        caffe.Net(str(file), caffe.TEST)
