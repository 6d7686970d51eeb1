"""Input, DummyData and Parameter: shapes, fills, the checks of the parameters."""

import numpy as np
import pytest

import caffelite
from caffelite import proto
from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun


def source(kind, options, tops=1, **more):
    return LayerRun(f'type: "{kind}" {options}', [], tops=tops, **more)


def test_input_shapes():
    once = source("Input", "input_param { shape { dim: 2 dim: 3 } }", tops=2)
    assert [top.shape for top in once.top] == [(2, 3), (2, 3)]
    each = source("Input", "input_param { shape { dim: 2 } shape { } }", tops=2)
    assert [top.shape for top in each.top] == [(2,), ()]


def test_an_input_keeps_the_shape_that_the_user_gives_it():
    run = source("Input", "input_param { shape { dim: 2 dim: 3 } }")
    run.top[0].reshape(5, 1)
    assert run.forward()[0].shape == (5, 1)


def test_dummy_data_fills_constants_once_and_the_rest_in_every_pass():
    options = """dummy_data_param { shape { dim: 2 dim: 50 } data_filler { type: "constant" value: 2.5 }
        data_filler { type: "gaussian" std: 3 } }"""
    run = source("DummyData", options, tops=2)
    constant, first = run.forward()
    np.testing.assert_array_equal(constant, np.full((2, 50), 2.5))
    assert 2 < first.std() < 4
    np.testing.assert_array_equal(run.forward()[1], first)
    run.layer.pass_state.number += 1
    run.top[0].data[...] = 7
    constant, second = run.forward()
    assert (second != first).all() and (constant == 7).all()


def test_dummy_data_of_older_prototxts():
    run = source("DummyData", "dummy_data_param { num: 2 num: 4 channels: 3 height: 1 width: 5 }", tops=2)
    assert [top.shape for top in run.top] == [(2, 3, 1, 5), (4, 3, 1, 5)]
    assert not run.forward()[0].any()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("Input", "input_param { shape { dim: 1 } shape { dim: 2 } }", "once for each of 3 top(s), actual 2"),
        ("Input", "input_param { shape { dim: 2 dim: -1 } }", "dimensions of at least 0, actual [2, -1]"),
        ("DummyData", "", "shape once or once for each of 3 top(s), actual 0"),
        ("DummyData", "dummy_data_param { num: 2 channels: 3 height: 1 }", "width once or once for each"),
        ("DummyData", "dummy_data_param { num: 2 shape { dim: 1 } }", "either shape or num, channels, height"),
        (
            "DummyData",
            'dummy_data_param { shape { dim: 1 } data_filler { type: "msra" } data_filler { type: "msra" } }',
            "data_filler once or once for each of 3 top(s), actual 2",
        ),
        ("DummyData", 'dummy_data_param { shape { dim: 1 } data_filler { type: "normal" } }', "unknown filler"),
    ],
)
def test_checks(kind, options, message):
    with pytest.raises(LayerError) as error:
        source(kind, options, tops=3)
    assert message in str(error.value)


def test_a_parameter_is_learned():
    run = source("Parameter", "parameter_param { shape { dim: 2 dim: 3 } }")
    run.layer.blobs[0].data[...] = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(run.forward()[0], np.arange(6).reshape(2, 3))
    _, (diff,) = run.backward([np.ones((2, 3))])
    np.testing.assert_array_equal(diff, np.ones((2, 3)))
    run.layer.backward(run.top, [], [])
    np.testing.assert_array_equal(run.layer.blobs[0].diff, np.full((2, 3), 2))


def test_a_parameter_in_a_net():
    text = """layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 3 } } }
        layer { name: "loss" type: "Reduction" bottom: "p" top: "loss" loss_weight: 1
                reduction_param { operation: SUMSQ } }"""
    net = caffelite.Net(proto.parse_text(text, "NetParameter", "test"), caffelite.TRAIN)
    net.params["p"][0].data[...] = [1, 2, 3]
    assert net.forward()["loss"] == 14
    net.backward()
    np.testing.assert_array_equal(net.params["p"][0].diff, [2, 4, 6])
