"""Scale, Bias and PReLU: gradients, axes, in place, sums whose bits do not depend on the machine."""

import numpy as np
import pytest

from caffelite.backend.kernels import KernelFamily, kernels, set_threads
from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

generator = np.random.default_rng(1)
X = generator.uniform(0.1, 1, (2, 3, 4, 5)) * generator.choice([-1, 1], (2, 3, 4, 5))


def values(*shape):
    return np.random.default_rng(2).normal(size=shape)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ("", (3,)),
        ("axis: 0 num_axes: 2", (2, 3)),
        ("axis: 1 num_axes: -1", (3, 4, 5)),
        ("axis: -2 num_axes: 1", (4,)),
        ("num_axes: 0", ()),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_of_a_learned_scale(options, shape, bias, in_place):
    text = f'type: "Scale" scale_param {{ {options} bias_term: {str(bias).lower()} }}'
    params = [values(*shape), values(*shape) + 1][: 1 + bias]
    run = check_gradient(text, [X], params, in_place=in_place, most=20)
    (y,) = run.forward()
    start = {"axis: 1 num_axes: -1": 1, "axis: -2 num_axes: 1": 2, "": 1}.get(options, 0)
    expand = (slice(None),) * len(shape) + (None,) * (4 - start - len(shape))
    expected = X * params[0][expand] + (params[1][expand] if bias else 0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("in_place", [0, 1])
def test_gradients_of_a_scale_from_a_bottom(in_place):
    check_gradient('type: "Scale" scale_param { axis: 1 }', [X, values(3, 4)], in_place=in_place, most=20)
    text = 'type: "Scale" scale_param { axis: 0 bias_term: true }'
    run = check_gradient(text, [X, values(2)], [values(2)], in_place=in_place, most=20)
    assert [blob.shape for blob in run.layer.blobs] == [(2,)]


@pytest.mark.parametrize("in_place", [0, 1])
def test_gradients_of_bias(in_place):
    check_gradient('type: "Bias"', [X], [values(3)], in_place=in_place, most=20)
    check_gradient('type: "Bias" bias_param { axis: -1 }', [X], [values(5)], in_place=in_place, most=20)
    check_gradient('type: "Bias" bias_param { axis: 2 }', [X, values(4, 5)], in_place=in_place, most=20)
    check_gradient('type: "Bias" bias_param { num_axes: 0 }', [X], [values()], in_place=in_place, most=20)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("slope", [0.3, -0.7])
def test_gradients_of_prelu(slope, in_place):
    check_gradient('type: "PReLU"', [X], [np.array([slope, 0.2, -0.1])], in_place=in_place, most=20)
    text = 'type: "PReLU" prelu_param { channel_shared: true }'
    check_gradient(text, [X], [np.array(slope)], in_place=in_place, most=20)
    check_gradient('type: "PReLU"', [X.reshape(40, 3)], [np.array([slope, 0.2, -0.1])], in_place=in_place, most=20)


def test_defaults_of_the_parameters():
    assert LayerRun('type: "Scale" scale_param { bias_term: true }', [X]).layer.blobs[0].data.tolist() == [1, 1, 1]
    assert LayerRun('type: "Scale" scale_param { bias_term: true }', [X]).layer.blobs[1].data.tolist() == [0, 0, 0]
    assert LayerRun('type: "PReLU"', [X]).layer.blobs[0].data.tolist() == [0.25] * 3
    filled = LayerRun('type: "PReLU" prelu_param { filler { type: "constant" value: 0.5 } }', [X])
    assert filled.layer.blobs[0].data.tolist() == [0.5] * 3


def test_a_frozen_scale_in_place_keeps_no_copy():
    run = LayerRun('type: "Scale"', [X], in_place=1)
    run.layer.param_propagate_down = [False]
    run.forward()
    assert run.layer._copy is None


@pytest.mark.parametrize("name", ["scale_sums", "bias_sums", "slope_sums"])
@pytest.mark.parametrize(("planes", "size", "lanes"), [(6, 100, 32), (3, 7, 7), (4, 1, 1), (2, 3000, 1024)])
def test_sums_have_the_same_bits_on_both_machines_and_any_number_of_threads(name, planes, size, lanes):
    dy, x = (np.random.default_rng(i).normal(size=planes * size).astype(np.float32) for i in (3, 4))
    results = []
    for family, threads in (
        (kernels("channelwise"), 1),
        (kernels("channelwise"), 2),
        (KernelFamily("channelwise", ("-DGATHER=1",)), 2),
    ):
        sums = np.full((planes, lanes), np.nan, np.float32)
        set_threads(threads)
        try:
            getattr(family, name)(sums.size, dy, x, planes, size, lanes, sums)
        finally:
            set_threads(0)
        results.append(sums)
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
    terms = {"scale_sums": dy * x, "bias_sums": dy, "slope_sums": dy * np.minimum(x, 0)}[name]
    np.testing.assert_allclose(results[0].sum(1), terms.reshape(planes, size).sum(1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        ('type: "Scale" scale_param { axis: 4 }', [X], "axis 4 is out of range"),
        ('type: "Scale" scale_param { axis: 3 num_axes: 2 }', [X], "axis 3 + num_axes 2 is beyond the last axis"),
        ('type: "Bias" bias_param { num_axes: -2 }', [X], "expected num_axes of at least 0, or -1 for all, actual -2"),
        ('type: "Scale"', [X, values(5)], "shape (5,) does not fit the axes from 1 on of the bottom, shape (2, 3"),
        ('type: "Bias"', [X, values(3, 4, 5, 1)], "does not fit"),
        ('type: "PReLU"', [values(5)], "expected a bottom of at least 2 axes, actual shape (5,)"),
    ],
)
def test_axes_are_checked(text, inputs, message):
    with pytest.raises(LayerError) as error:
        LayerRun(text, inputs)
    assert message in str(error.value)


def test_a_new_number_of_channels_does_not_fit_learned_slopes():
    run = LayerRun('type: "PReLU"', [X])
    run.bottom[0].reshape(2, 4)
    with pytest.raises(LayerError, match="expected 3 channels"):
        run.layer.reshape(run.bottom, run.top)
