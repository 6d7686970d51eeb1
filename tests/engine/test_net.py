"""Nets: building, running in parts, reshaping, sharing, weights in and out, memory, and errors that name things."""

import re

import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.errors import LayerError, NetError, PrototxtError, WeightsError

SMALL = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" %s
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool" type: "Pooling" bottom: "conv1" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" include { phase: TRAIN } }
"""
FROZEN = "param { lr_mult: 0 } param { lr_mult: 0 }"


@pytest.fixture
def build(tmp_path):
    def make(phase=caffe.TRAIN, text=SMALL % "", seed=5, **options):
        path = tmp_path / "net.prototxt"
        path.write_text(text)
        return caffe.Net(str(path), phase, seed=seed, **options)

    return make


def run(net, rng=None):
    rng = rng or np.random.default_rng(0)
    net.blobs["data"].data[...] = rng.standard_normal(net.blobs["data"].shape)
    net.blobs["label"].data[...] = 1
    net.forward()
    net.backward()
    return net


def test_names_follow_pycaffe(build):
    net = build()
    assert net.inputs == ["data", "label"] and net.outputs == ["loss"]
    assert list(net.params) == ["conv1", "fc"] and [b.shape for b in net.params["fc"]] == [(5, 36), (5,)]
    assert net.layer_dict["pool"].type == "Pooling" and net._layer_names[:2] == ["data", "label"]
    assert net.top_names["relu1"] == ["conv1"] and net.bottom_names["loss"] == ["fc", "label"]
    assert net.blob_loss_weights["loss"] == 1
    assert build(caffe.TEST).outputs == ["label", "prob"]


def test_frozen_layers_allocate_no_diffs(build):
    net = build(text=SMALL % FROZEN)
    net.blobs["label"].data[...] = 1
    net._forward(0, len(net.layers) - 1)
    net._backward(len(net.layers) - 1, 0)  # as a solver does; net.backward() would return the inputs' diffs
    assert not any(b.diff_memory.allocated for b in net.params["conv1"])
    assert not any(net.blobs[n].diff_memory.allocated for n in ("data", "conv1", "pool", "label"))
    assert net.blobs["fc"].diff_memory.allocated and net.params["fc"][0].diff_memory.allocated
    assert not net.layer_need_backward[net._layer_names.index("conv1")]


def test_learning_layers_get_gradients(build):
    net = run(build())
    assert all(np.abs(b.diff).max() > 0 for name in net.params for b in net.params[name])


def test_parts_run_alone(build):
    net = build(caffe.TEST)
    net.forward(end="pool")
    net.blobs["pool"].data[...] = 1
    out = net.forward(start="fc", blobs=["fc"])
    assert set(out) == {"prob", "label", "fc"}
    np.testing.assert_allclose(out["prob"].sum(axis=1), 1, rtol=1e-5)
    assert list(net.forward(end="conv1")) == ["conv1"]
    with pytest.raises(NetError, match="no layer 'pol'"):
        net.forward(end="pol")
    for run_part in (lambda: net.forward(blobs=["fc", "fd"]), lambda: net.backward(diffs=["fd"])):
        with pytest.raises(NetError, match="no blob 'fd'; its blobs: data, label, conv1"):
            run_part()


def test_reshape_on_the_fly_keeps_weights(build):
    net = build(caffe.TEST, text=(SMALL % "").split('layer { name: "fc"')[0])
    memory, weights = net.blobs["data"].data_memory, net.params["conv1"][0].data.copy()
    net.blobs["data"].reshape(1, 3, 6, 8)
    net.reshape()
    assert net.blobs["pool"].shape == (1, 4, 2, 3) and net.blobs["data"].data_memory is memory
    net.blobs["data"].reshape(4, 3, 9, 8)
    net.forward()
    assert net.blobs["pool"].data.shape == (4, 4, 4, 3)
    assert np.array_equal(net.params["conv1"][0].data, weights)


def test_growing_inputs_leave_no_stale_memory(build):
    text = """
    force_backward: true
    layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 2 dim: 4 dim: 4 } } }
    layer { name: "c" type: "Convolution" bottom: "d" top: "c"
      convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
    layer { name: "flat" type: "Flatten" bottom: "c" top: "flat" }
    layer { name: "re" type: "Reshape" bottom: "c" top: "re" reshape_param { shape { dim: 0 dim: -1 } } }
    layer { name: "one" type: "Concat" bottom: "re" top: "one" }
    layer { name: "two" type: "Concat" bottom: "flat" bottom: "one" top: "two" }
    layer { name: "cut" type: "Slice" bottom: "two" top: "a" top: "b" }
    layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "e" eltwise_param { operation: PROD } }
    layer { name: "loss" type: "Reduction" bottom: "e" top: "loss" loss_weight: 1 }
    """
    random = np.random.default_rng(0)
    net = build(text=text)
    for shape in ((3, 2, 6, 8), (2, 2, 3, 3), (4, 2, 9, 7), (1, 2, 4, 4)):
        x = random.standard_normal(shape, np.float32)
        fresh = build(text=text)
        for each in (net, fresh):
            each.blobs["d"].reshape(*shape)
            each.clear_param_diffs()
            each.forward(d=x)
            each.backward()
        for name in net.blobs:
            np.testing.assert_array_equal(net.blobs[name].data, fresh.blobs[name].data, name)
            np.testing.assert_array_equal(net.blobs[name].diff, fresh.blobs[name].diff, name)
        np.testing.assert_array_equal(net.params["c"][0].diff, fresh.params["c"][0].diff)


def test_keyword_inputs_are_checked(build):
    net = build(caffe.TEST)
    with pytest.raises(NetError, match=r"inputs \['data', 'label'\]"):
        net.forward(data=np.zeros((2, 3, 8, 8)))
    with pytest.raises(NetError, match="reshape"):
        net.forward(data=np.zeros((1, 3, 8, 8)), label=np.zeros(2))


def test_forward_all_pads_the_last_batch(build):
    net = build(caffe.TEST)
    rows = np.random.default_rng(1).standard_normal((5, 3, 8, 8)).astype(np.float32)
    got = net.forward_all(data=rows, label=np.zeros(5))["prob"]
    assert got.shape == (5, 5)
    one = net.forward(data=rows[[3, 4]], label=np.zeros(2))["prob"]
    np.testing.assert_allclose(got[3:], one, rtol=1e-5)


def test_hooks_see_every_layer(build):
    net, seen = build(), []
    net.before_forward(lambda i: seen.append(("before", i)))
    net.after_backward(lambda i: seen.append(("back", i)))
    run(net)
    n = len(net.layers)
    assert seen == [("before", i) for i in range(n)] + [("back", i) for i in reversed(range(n))]


def test_same_seed_same_weights(build):
    a, b, c = build(), build(), build(seed=6)
    assert np.array_equal(a.params["fc"][0].data, b.params["fc"][0].data)
    assert not np.array_equal(a.params["fc"][0].data, c.params["fc"][0].data)


@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5"])
def test_weights_survive_saving(build, tmp_path, suffix):
    a, b = build(), build(seed=9)
    path = str(tmp_path / ("w" + suffix))
    (a.save_hdf5 if suffix.endswith("h5") else a.save)(path)
    report = b.copy_from(path)
    assert report.loaded == ["conv1", "fc"] and not report.missing + report.unused + report.mismatched
    assert np.array_equal(a.params["conv1"][0].data, b.params["conv1"][0].data)


def test_loading_reports_and_refuses(build, tmp_path):
    path = str(tmp_path / "w.caffemodel")
    build().save(path)
    renamed = build(text=(SMALL % "").replace('name: "fc"', 'name: "fc_new"'))
    report = renamed.copy_from(path)
    assert (report.loaded, report.missing, report.unused) == (["conv1"], ["fc_new"], ["fc"])
    assert "fc_new" in str(report)
    with pytest.raises(WeightsError, match="strict"):
        renamed.copy_from(path, strict=True)
    wider = build(text=(SMALL % "").replace("num_output: 5", "num_output: 6"), seed=1)
    before = wider.params["conv1"][0].data.copy()
    with pytest.raises(WeightsError, match=r"5 x 36.*6 x 36.*rename"):
        wider.copy_from(path)
    assert np.array_equal(before, wider.params["conv1"][0].data), "nothing may be copied when something does not fit"
    assert wider.copy_from(path, skip_mismatched=True).loaded == ["conv1"]


def test_shared_nets_share_memory(build):
    train, test = build(), build(caffe.TEST, seed=8)
    test.share_with(train)
    train.params["fc"][0].data[...] = 3
    assert (test.params["fc"][0].data == 3).all()


def test_blobs_outlive_their_net(build):
    net = build()
    weights = net.params["fc"][0]
    values = weights.data.copy()
    del net
    assert np.array_equal(weights.data, values)


def test_net_from_a_message_and_the_old_constructor(build, tmp_path):
    message, _ = proto.read_net(build().file)
    assert caffe.Net(message, caffe.TEST).outputs == ["label", "prob"]
    path = str(tmp_path / "w.caffemodel")
    build().save(path)
    old = caffe.Net(str(tmp_path / "net.prototxt"), path, caffe.TEST)
    assert np.array_equal(old.params["fc"][0].data, build().params["fc"][0].data)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (('type: "Pooling"', 'type: "Poling"'), NetError, r"net.prototxt:8: layer 'pool'.*did you mean 'Pooling'"),
        (('bottom: "pool"', 'bottom: "pol"'), NetError, r"net.prototxt:9: layer 'fc'.*unknown bottom blob 'pol'"),
        (
            ('bottom: "pool"', 'bottom: "loss"'),
            NetError,
            "unknown bottom blob 'loss'.*'loss' makes it, but further down",
        ),
        (
            ('bottom: "label" top: "loss"', 'bottom: "prob" top: "loss"'),
            NetError,
            r"net.prototxt:12: .*unknown bottom blob 'prob'.*'prob' makes it, .* out here \(phase TRAIN, level 0\)",
        ),
        (
            ('top: "label"', 'include { stage: "deploy" } top: "label"'),
            NetError,
            r"unknown bottom blob 'label'.*'label' makes it, .*level 0\); it is for the stage deploy",
        ),
        (
            ('bottom: "conv1" top: "conv1"', 'bottom: "x" top: "x"'),
            NetError,
            "unknown bottom blob 'x'.*known here: data",
        ),
        (("kernel_size: 2", "kernal_size: 2"), PrototxtError, r"net.prototxt:8:\d+.*kernal_size.*kernel_size"),
        (('top: "loss"', 'top: "conv1"'), LayerError, "made by another layer"),
        (("kernel_size: 2", "kernel_size: 2 pad: 2"), LayerError, r"net.prototxt:8: layer 'pool' \(Pooling\)"),
    ],
)
def test_errors_name_file_line_and_layer(build, change, error, words):
    with pytest.raises(error, match=words):
        build(text=(SMALL % "").replace(*change))


def test_debug_info_prints_means(build, caplog):
    net = build()
    net.debug_info = True
    with caplog.at_level("INFO", "caffelite"):
        run(net)
    assert "Layer conv1, top blob conv1 data:" in caplog.text and "Layer fc, param blob 0 diff:" in caplog.text
    w = [blob for blobs in net.params.values() for blob in blobs]
    norms = [sum(np.abs(values).sum() for values in of) for of in ([b.data for b in w], [b.diff for b in w])]
    found = re.search(r"All net params \(data, diff\): L1 norm = \((.*), (.*)\); L2 norm = \((.*), (.*)\)", caplog.text)
    assert [float(found[1]), float(found[2])] == pytest.approx(norms, rel=1e-4)
    assert float(found[3]) == pytest.approx(np.sqrt(sum(np.square(b.data).sum() for b in w)), rel=1e-4)


@pytest.mark.parametrize("suffix", [".caffemodel", ".caffemodel.h5"])
def test_shared_parameters_survive_saving(build, tmp_path, suffix):
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 } } }
    layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" }
      inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
    layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
      inner_product_param { num_output: 4 } }
    """
    a, b = build(text=text), build(text=text, seed=9)
    path = str(tmp_path / ("w" + suffix))
    (a.save_hdf5 if suffix.endswith("h5") else a.save)(path)
    assert b.copy_from(path).loaded == ["a", "b"]
    assert np.array_equal(b.params["b"][0].data, a.params["a"][0].data)
