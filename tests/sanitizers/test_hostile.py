"""Values that no layer wants: each is refused by name or has a defined result, and nothing is read or written outside.

Here the results are looked at; test_sanitizers.py runs this file again under AddressSanitizer.
"""

import itertools

import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.backend.kernels import KernelFamily
from caffelite.errors import CaffeliteError, LayerError
from caffelite.layers import roi_pooling
from tests.engine.gradient_check import LayerRun
from tests.fuzz import seeds

HOSTILE = [np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 2.0**31, -(2.0**31), 2.0**32, 1e10, -1.0, -0.0, 1e-45, 7.0]
CASES = [(kind, *case) for kind, cases in seeds.LAYERS.items() for case in cases if case[1] and kind != "HDF5Output"]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def attempt(text, inputs, phase):
    """All blobs and the inputs' gradients, or the refusal, of a net of one layer."""
    caffe.set_random_seed(1)
    net = caffe.Net(proto.parse_text(text, "NetParameter", "test"), phase)
    try:
        for _ in range(2):  # Filter, for one, looks at its data from the second pass on
            for name, values in inputs.items():
                net.blobs[name].data[...] = values
            net.forward()
            for name in net.outputs:
                net.blobs[name].diff[...] = 1
            net.backward()
    except CaffeliteError as e:
        return str(e)
    return [blob.data.copy() for blob in net.blobs.values()] + [net.blobs[name].diff.copy() for name in inputs]


@pytest.mark.parametrize(("kind", "options", "bottoms", "tops"), CASES)
def test_every_layer_with_hostile_bottoms(kind, options, bottoms, tops):
    text = seeds.layer_net(kind, options, bottoms, tops)
    generator = np.random.default_rng(1)
    shapes = {f"b{i}": tuple(map(int, shape.split())) for i, shape in enumerate(bottoms)}
    for name, value in itertools.product(shapes, [*HOSTILE, None]):
        values = generator.choice(HOSTILE, shapes[name]) if value is None else np.full(shapes[name], value)
        usual = {key: seeds.feed(shape, generator) for key, shape in shapes.items()}
        attempt(text, {**usual, name: values}, caffe.TEST)
        some = {**usual, name: np.where(generator.random(shapes[name]) < 0.2, values, usual[name])}
        # what was left in memory takes no part
        np.testing.assert_equal(attempt(text, some, caffe.TRAIN), attempt(text, some, caffe.TRAIN))


@pytest.fixture(params=["cpu", "gpu's branch"])
def rois_net(request, monkeypatch):
    """Runs RoI pooling over (2, 3, 5, 6) maps forward and backward, by the CPU's text and by what is the GPU's."""
    if request.param != "cpu":
        gathering = KernelFamily("roi_pooling", ("-DGATHER=1",))
        monkeypatch.setattr(roi_pooling, "kernels", lambda family: gathering)
    maps = np.random.default_rng(1).normal(size=(2, 3, 5, 6)).astype(np.float32)
    text = 'type: "ROIPooling" roi_pooling_param { pooled_h: %d pooled_w: %d spatial_scale: %g }'

    def run(rois, pooled=(2, 3), scale=0.5):
        layer = LayerRun(text % (*pooled, scale), [maps, rois])
        (y,) = layer.forward()
        return maps, y, layer.backward([np.ones(y.shape)], [True, False])[0][0]

    return run


def test_rois_of_hostile_coordinates(rois_net):
    generator = np.random.default_rng(2)
    values = [value for value in HOSTILE if not np.isnan(value)] + [0.0, 3.0, 5.5, 11.0, 12.0, 100.0]
    rois = generator.choice(values, (3000, 5))
    rois[:, 0] = generator.choice([-0.9, -0.0, 0, 1, 1.9], 3000)
    for pooled, scale in ((2, 3), 0.5), ((1, 1), 1e-38), ((7, 7), 3e38), ((3, 300), -1):
        maps, y, dx = rois_net(rois[: 60000 // (pooled[0] * pooled[1])], pooled, scale)
        assert np.isin(y, [*maps.ravel(), 0]).all(), "an output is a number of the map, or 0"
        assert np.array_equal(dx, np.floor(dx)) and dx.min() >= 0 and dx.sum() <= y.size, "a gradient goes to one cell"


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_no_number(rois_net, scale):
    maps, y, dx = rois_net([[0, 0, 0, 9, 9], [1, 3, 3, 4, 4]], scale=scale)
    assert np.isin(y, [*maps.ravel(), 0]).all() and np.isfinite(dx).all()


@pytest.mark.parametrize(("column", "value"), [(0, 2.0), (0, -1.0), (0, 1e10), (0, -np.inf), (0, np.inf), (0, np.nan),
                                               (1, np.nan), (2, np.nan), (3, np.nan), (4, np.nan)])  # fmt: skip
def test_rois_that_are_refused(rois_net, column, value):
    rois = np.tile([0.0, 1, 1, 9, 9], (5, 1))
    rois[3, column] = value
    with pytest.raises(LayerError, match=r"RoI 3 is .*expected numbers, and an image from 0 to 1"):
        rois_net(rois)


LABELLED = {
    "SoftmaxWithLoss": ("", [(4, 5), (4,)]),
    "SoftmaxWithLoss in space": ("softmax_param { axis: 1 }", [(2, 5, 3, 2), (2, 1, 3, 2)]),
    "InfogainLoss": ("", [(4, 5), (4,), (1, 1, 5, 5)]),
    "MultinomialLogisticLoss": ("", [(4, 5), (4,)]),
    "HingeLoss": ("", [(4, 5), (4,)]),
    "Accuracy": ("", [(4, 5), (4,)]),
    "Embed": ("embed_param { num_output: 3 input_dim: 5 }", [(4,)]),
    "BatchReindex": ("", [(5, 3), (4,)]),
}


@pytest.mark.parametrize("case", LABELLED)
@pytest.mark.parametrize("value", [5.0, -1.0, 2.0**31, -(2.0**31), 2.0**32, 3.4e38, np.inf, -np.inf, np.nan])
def test_indices_that_are_none(case, value):
    options, shapes = LABELLED[case]
    inputs = [np.ones(shape) for shape in shapes]
    of_labels = min(1, len(inputs) - 1)
    run = LayerRun(f'name: "it" type: "{case.split()[0]}" {options}', inputs)
    run.forward()
    run.inputs[of_labels].flat[-1] = value
    with pytest.raises(LayerError, match=r"'it'.*(expected a class from 0 to 4|expected an index from 0 to 4)"):
        run.forward()
