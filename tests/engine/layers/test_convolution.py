"""Convolution, Deconvolution and depthwise convolution: gradients, options, in place, refusals."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

X = np.random.default_rng(0).normal(size=(2, 4, 6, 5))


def layer(kind, options):
    return (
        f'type: "{kind}" convolution_param {{ {options} weight_filler {{ type: "gaussian" }} '
        'bias_filler { type: "uniform" } }'
    )


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
@pytest.mark.parametrize(
    "options",
    [
        "num_output: 3 kernel_size: 3",
        "num_output: 3 kernel_size: 3 stride: 2 pad: 1 bias_term: false",
        "num_output: 6 kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 2 pad_h: 2 pad_w: 0 group: 2",
        "num_output: 2 kernel_size: 2 dilation: 2 dilation: 1 pad: 1",
        "num_output: 3 kernel_size: 1",
    ],
)
def test_gradients(kind, options):
    check_gradient(layer(kind, options), [X], most=20, step=0.1, tolerance=2e-3)


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
@pytest.mark.parametrize(
    ("shape", "options", "weights"),
    [
        ((2, 3, 7), "num_output: 2 kernel_size: 3 stride: 2", (2, 3, 3)),
        ((1, 2, 3, 4, 5), "num_output: 3 kernel_size: 2 pad: 1 stride: 2", (3, 2, 2, 2, 2)),
        ((2, 2, 3, 5, 4), "num_output: 2 kernel_size: 3 axis: 2", (2, 3, 3, 3)),
        ((2, 2, 3, 5, 4), "num_output: 2 kernel_size: 3 axis: -3", (2, 3, 3, 3)),
        ((4, 3), "num_output: 2", (2, 3)),
    ],
)
def test_gradients_over_other_axes(kind, shape, options, weights):
    x = np.random.default_rng(1).normal(size=shape)
    run = check_gradient(layer(kind, options), [x], most=15, step=0.1, tolerance=2e-3)
    if kind == "Deconvolution":
        weights = (weights[1], weights[0], *weights[2:])
    assert run.layer.blobs[0].shape == weights


def test_several_bottoms_share_the_weights():
    text = layer("Convolution", "num_output: 3 kernel_size: 3")
    both = check_gradient(text, [X, X[::-1]], tops=2, most=15, step=0.1, tolerance=2e-3)
    alone = LayerRun(text, [X], [blob.data for blob in both.layer.blobs])
    np.testing.assert_array_equal(alone.forward()[0], both.forward()[0])


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_in_place(kind):
    text = layer(kind, "num_output: 4 kernel_size: 3 pad: 1")
    run = check_gradient(text, [X], in_place=1, most=15, step=0.1, tolerance=2e-3)
    apart = LayerRun(text, [X], [blob.data for blob in run.layer.blobs])
    np.testing.assert_array_equal(apart.forward()[0], run.forward()[0])


@pytest.mark.parametrize("kind", ["DepthwiseConvolution", "ConvolutionDepthwise"])
@pytest.mark.parametrize("outputs", [4, 8])
def test_depthwise_is_one_group_per_channel(kind, outputs):
    options = f"num_output: {outputs} kernel_size: 3 pad: 1"
    run = check_gradient(layer(kind, options), [X], most=15, step=0.1, tolerance=2e-3)
    params = [blob.data for blob in run.layer.blobs]
    assert params[0].shape == (outputs, 1, 3, 3)
    grouped = LayerRun(layer("Convolution", options + " group: 4"), [X], params)
    np.testing.assert_array_equal(run.forward()[0], grouped.forward()[0])


def test_a_frozen_layer_computes_no_gradients():
    run = LayerRun(layer("Convolution", "num_output: 3 kernel_size: 3"), [X])
    run.forward()
    run.layer.param_propagate_down = [False, True]
    _, (weights, bias) = run.backward([np.ones(run.top[0].shape)], [False])
    assert not weights.any() and bias.tolist() == [2 * 4 * 3] * 3
    assert not run.bottom[0].diff_memory.allocated


def test_the_image_may_change_its_size_but_not_its_channels():
    run = LayerRun(layer("Convolution", "num_output: 3 kernel_size: 3"), [X])
    run.bottom[0].reshape(1, 4, 10, 11)
    run.inputs = [np.zeros((1, 4, 10, 11), np.float32)]
    assert run.forward()[0].shape == (1, 3, 8, 9)
    run.bottom[0].reshape(1, 5, 10, 11)
    with pytest.raises(LayerError, match="expected 4 channels"):
        run.layer.reshape(run.bottom, run.top)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("kernel_size: 3", "num_output"),
        ("num_output: 3", "kernel_size must be given once or once per spatial axis"),
        ("num_output: 3 kernel_size: 1 kernel_size: 1 kernel_size: 1", "actual 3 times"),
        ("num_output: 3 kernel_size: 3 kernel_h: 3", "not both"),
        ("num_output: 3 kernel_h: 3", "kernel sizes must be positive"),
        ("num_output: 3 kernel_size: 0", "kernel sizes must be positive"),
        ("num_output: 3 kernel_size: 1 stride: 0", "stride sizes must be positive"),
        ("num_output: 3 kernel_size: 1 stride_h: 1", "stride sizes must be positive"),
        ("num_output: 3 kernel_size: 1 dilation: 0", "dilation sizes must be positive"),
        ("num_output: 3 kernel_size: 1 group: 2", r"num_output \(3\)"),
        ("num_output: 3 kernel_size: 1 group: 3", r"channels \(4\)"),
        ("num_output: 4 kernel_size: 1 group: 0", r"group \(0\)"),
        ("num_output: 3 kernel_size: 7", "does not fit"),
        ("num_output: 3 kernel_size: 3 dilation: 3", "does not fit"),
        ("num_output: 3 kernel_size: 1 axis: 4", "axis 4 is out of range"),
        ("num_output: 3 kernel_h: 1 kernel_w: 1 axis: 2", "two spatial axes"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(LayerError, match=message):
        LayerRun(layer("Convolution", options), [X])


def test_more_refusals():
    with pytest.raises(LayerError, match="bottoms of one shape"):
        LayerRun(layer("Convolution", "num_output: 3 kernel_size: 3"), [X, X[:, :, 1:]], tops=2)
    with pytest.raises(LayerError, match="one top per bottom"):
        LayerRun(layer("Convolution", "num_output: 3 kernel_size: 3"), [X, X])
    with pytest.raises(LayerError, match="4 spatial axes"):
        LayerRun(layer("Convolution", "num_output: 3 kernel_size: 1"), [np.zeros((1, 1, 2, 2, 2, 2))])
    with pytest.raises(LayerError, match="does not fit"):
        LayerRun(layer("Deconvolution", "num_output: 3 kernel_size: 2 pad: 4"), [X])
    with pytest.raises(LayerError, match="group must be the number of channels"):
        LayerRun(layer("DepthwiseConvolution", "num_output: 4 kernel_size: 1 group: 2"), [X])
