"""Every type of layer runs in place as it does with a top of its own, or refuses to."""

import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.errors import LayerError
from tests.fuzz import seeds

CASES = [(kind, *case) for kind, cases in seeds.LAYERS.items() for case in cases if case[1] and case[2]]


def run(text):
    """Top and gradients of the last layer of a net, after two passes with the same inputs."""
    caffe.set_random_seed(3)
    net = caffe.Net(proto.parse_text(text, "NetParameter", "net.prototxt"), caffe.TRAIN)
    for _ in range(2):
        generator = np.random.default_rng(2)
        for name in net.inputs:
            net.blobs[name].data[...] = seeds.feed(net.blobs[name].shape, generator)
        net.forward()
    layer, bottom, top, down = net.layers[-1], net.bottom_blobs[-1], net.top_blobs[-1], net.bottom_need_backward[-1]
    outputs = [top[0].data.copy()]
    if not any(layer.loss_weights):
        top[0].diff[...] = np.random.default_rng(5).normal(size=top[0].shape)
    layer.backward(top, down, bottom)
    return outputs + [blob.diff.copy() for blob, wanted in zip(bottom, down) if wanted] + [b.diff for b in layer.blobs]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("kind", "options", "bottoms", "tops"), CASES)
def test_in_place(kind, options, bottoms, tops):
    text = seeds.layer_net(kind, options, bottoms, tops)
    expected = run(text)
    try:
        actual = run(text.replace('top: "t0"', 'top: "b0"'))
    except LayerError as error:
        assert "in place" in str(error) and "another name" in str(error)
    else:
        for values, others in zip(actual, expected, strict=True):
            np.testing.assert_allclose(values, others, rtol=1e-5, atol=1e-6)
