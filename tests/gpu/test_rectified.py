"""On a GPU a layer does the ReLU that follows it in place: the same bits, and nobody who looks between is deceived."""

import functools

import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.backend.kernels import kernels
from caffelite.layers import activation
from caffelite.layers.convolution import Convolution

DATA = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 32 dim: 20 dim: 40 } } }
force_backward: true """
FILLED = 'weight_filler { type: "gaussian" std: 0.1 } bias_filler { type: "gaussian" std: 1 }'
LAYERS = {
    "minimal filtering": f'"Convolution" convolution_param {{ num_output: 32 kernel_size: 3 pad: 1 {FILLED} }}',
    "5 x 5": f'"Convolution" convolution_param {{ num_output: 32 kernel_size: 5 pad: 2 {FILLED} }}',
    "strided": f'"Convolution" convolution_param {{ num_output: 6 kernel_size: 3 stride: 2 group: 2 {FILLED} }}',
    "no bias": '"Convolution" convolution_param { num_output: 7 kernel_size: 1 bias_term: false '
    'weight_filler { type: "xavier" } }',
    "depthwise": f'"DepthwiseConvolution" convolution_param {{ num_output: 32 kernel_size: 3 {FILLED} }}',
    "deconvolution": f'"Deconvolution" convolution_param {{ num_output: 5 kernel_size: 2 stride: 2 {FILLED} }}',
    "inner product": f'"InnerProduct" inner_product_param {{ num_output: 50 {FILLED} }}',
    "inner product, no bias": '"InnerProduct" inner_product_param { num_output: 50 bias_term: false '
    'weight_filler { type: "xavier" } }',
}


def net_of(layer: str, relu: str = 'bottom: "y" top: "y"'):
    text = f'{DATA} layer {{ name: "y" bottom: "x" top: "y" type: {layer} }} layer {{ name: "relu" type: "ReLU" '
    net = caffe.Net(proto.parse_text(f"{text} {relu} }}", "NetParameter", "net"), caffe.TRAIN, seed=3)
    net.blobs["x"].data[...] = np.random.default_rng(1).standard_normal(net.blobs["x"].shape)
    return net


@pytest.fixture
def relus(monkeypatch) -> list:
    """The forward kernels that ReLU layers have launched."""
    run = []

    class Kernels:
        def __getattr__(self, name):
            run.extend([name] if name == "relu_forward" else [])
            return getattr(kernels("activation"), name)

    monkeypatch.setattr(activation, "kernels", lambda family: Kernels())
    return run


def passes(net) -> list[np.ndarray]:
    """What both passes give: the output, and gradients to the input and the parameters."""
    top = net.outputs[0]
    net.forward()
    values = net.blobs[top].data.copy()
    net.clear_param_diffs()
    net.backward(**{top: np.random.default_rng(2).standard_normal(values.shape)})
    return [values, net.blobs["x"].diff.copy(), *[blob.diff.copy() for blob in net.params["y"]]]


@pytest.mark.parametrize("slope", [0, 0.1])
@pytest.mark.parametrize("name", LAYERS)
def test_the_same_bits_in_one_step_and_in_two(name, slope, relus):
    relu = f'bottom: "y" top: "y" relu_param {{ negative_slope: {slope} }}'
    net = net_of(LAYERS[name], relu)
    at_once = passes(net)
    assert len(relus) == 0
    net.after_forward(lambda i: None)  # who could look at what is between
    for actual, expected in zip(at_once, passes(net), strict=True):
        np.testing.assert_array_equal(actual, expected)
        assert np.signbit(actual).tobytes() == np.signbit(expected).tobytes()
    assert len(relus) == 1
    assert (at_once[0] < 0).any() == bool(slope) and (at_once[0] > 0).any()
    net.forward(end="y")
    between = net.blobs["y"].data.copy()
    assert (between < 0).any()
    net.forward(start="relu")
    np.testing.assert_array_equal(net.blobs["y"].data, at_once[0])
    net.debug_info = True
    np.testing.assert_array_equal(net.forward()["y"], at_once[0])
    assert len(relus) == 3


def test_a_pass_that_ends_before_the_relu_does_without_it():
    net = net_of(LAYERS["strided"])
    net.forward(end="y")
    assert (net.blobs["y"].data < 0).any()
    net.forward()
    assert (net.blobs["y"].data >= 0).all()


def test_a_relu_that_is_not_in_place_leaves_its_bottom(relus):
    net = net_of(LAYERS["inner product"], 'bottom: "y" top: "z"')
    net.forward()
    assert (net.blobs["y"].data < 0).any() and len(relus) == 1


class Less(Convolution):
    """A layer of a user's own that knows of no slope."""

    @functools.wraps(Convolution.forward)
    def forward(self, bottom, top):
        super().forward(bottom, top)
        top[0].array[...] -= 1


class Plain(Convolution):
    """Another, in an older way."""

    def convolve(self, x, weights, bias, y):
        self.engine.forward(x, weights, bias, y)
        y -= 1


@pytest.mark.parametrize("kind", [Less, Plain])
def test_a_layer_of_the_users_own_does_what_it_did(kind, relus):
    caffe.register(kind.__name__)(kind)
    usual = net_of(LAYERS["strided"])
    usual.forward(end="y")
    expected = np.maximum(usual.blobs["y"].data - 1, 0)
    net = net_of(LAYERS["strided"].replace('"Convolution"', f'"{kind.__name__}"'))
    for own, theirs in zip(net.params["y"], usual.params["y"]):
        own.data[...] = theirs.data
    net.forward()
    assert len(relus) == 1
    np.testing.assert_allclose(net.blobs["y"].data, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", [1, 2])
def test_a_forward_that_somebody_has_wrapped_is_called(which):
    net = net_of(LAYERS["strided"])
    net.forward()
    expected, layer, calls = net.blobs["y"].data.copy(), net.layers[which], []
    forward = layer.forward
    layer.forward = lambda bottom, top: (calls.append(which), forward(bottom, top))[1]
    net.forward()
    assert calls == [which]
    np.testing.assert_array_equal(net.blobs["y"].data, expected)


@pytest.mark.parametrize("kind", [Convolution, activation.ReLU])
def test_a_class_whose_forward_somebody_has_wrapped_is_called(kind, monkeypatch):
    net = net_of(LAYERS["strided"])
    net.forward()
    expected, calls, forward = net.blobs["y"].data.copy(), [], kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, bottom, top: (calls.append(self), forward(self, bottom, top))[1])
    net.forward()
    assert len(calls) == 1
    np.testing.assert_array_equal(net.blobs["y"].data, expected)


def test_a_relu_behind_a_relu():
    net = net_of(LAYERS["strided"])
    expected = net.forward()["y"].copy()
    more = 'bottom: "y" top: "y" } layer { name: "again" type: "ReLU" bottom: "y" top: "y"'
    twice = net_of(LAYERS["strided"], more)
    np.testing.assert_array_equal(twice.forward()["y"], expected)
