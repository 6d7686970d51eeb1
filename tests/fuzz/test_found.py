"""What the fuzzer found stays mended."""

import tracemalloc

import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.backend.kernels import kernels
from caffelite.errors import BackendError, FileFormatError, LayerError, NetError, SolverError
from tests.fuzz import seeds

HUGE = 2**31 - 1


def build(tmp_path, text):
    (tmp_path / "net.prototxt").write_text(text)
    return caffe.Net(str(tmp_path / "net.prototxt"), caffe.TRAIN)


@pytest.mark.parametrize(
    ("kind", "options", "bottom", "message"),
    [
        ("Convolution", "convolution_param { num_output: 2 kernel_size: 3 }", "2 0 5 5", "expected channels at axis 1"),
        (
            "Convolution",
            "convolution_param { num_output: 2 kernel_size: 3 stride: 2147483648 }",
            "2 3 5 5",
            "reaches beyond 2147483647 cells",
        ),
        ("Deconvolution", "convolution_param { num_output: 2 kernel_size: 3 stride: 2 }", "2 3 5 0", "does not fit"),
        ("Im2col", f"convolution_param {{ kernel_size: 1 pad: {HUGE} stride: {HUGE} }}", "2 3 5 5", "reaches beyond"),
        (
            "Pooling",
            f"pooling_param {{ kernel_size: {HUGE} pad: {HUGE - 1} stride: {HUGE} }}",
            "2 3 5 5",
            "reaches beyond",
        ),
        ("BatchNorm", "", "", "with channels"),
        ("BatchNorm", "", "2 0 3", "with channels"),
        ("SPP", "spp_param { pyramid_height: 4294967295 }", "2 3 5 5", "pyramid_height } from 1 to 15"),
        ("Bias", 'bias_param { axis: 0 num_axes: 0 filler { type: "positive_unitball" } }', "2 3", "a scalar has none"),
    ],
)
def test_refused_by_name(tmp_path, kind, options, bottom, message):
    with pytest.raises(LayerError, match=message):
        build(tmp_path, seeds.layer_net(kind, options, [bottom], 1))


def test_a_convolution_in_place_keeps_the_shape(tmp_path):
    text = seeds.layer_net("Convolution", "convolution_param { num_output: 3 kernel_size: 3 }", ["2 3 5 5"], 1)
    with pytest.raises(LayerError, match="in place the shape must stay"):
        build(tmp_path, text.replace('top: "t0"', 'top: "b0"'))


@pytest.mark.parametrize(
    ("kind", "options", "bottom", "top"),
    [
        ("InnerProduct", 'inner_product_param { num_output: 4 weight_filler { type: "xavier" } }', "2 0", (2, 4)),
        ("MVN", "mvn_param { across_channels: true }", "0 3 4", (0, 3, 4)),
        ("Bias", "bias_param { axis: 1 num_axes: 2 }", "2 3 0 6", (2, 3, 0, 6)),
        ("Scale", "scale_param { axis: 1 }", "2 0 6", (2, 0, 6)),
        ("SPP", "spp_param { pyramid_height: 2 }", "0 3 5 5", (0, 15)),
    ],
)
def test_empty_blobs_run(tmp_path, kind, options, bottom, top):
    net = build(tmp_path, seeds.layer_net(kind, options, [bottom], 1))
    assert net.forward()["t0"].shape == top
    assert not np.any(net.forward()["t0"])
    net.backward()


def test_one_row_times_many_columns_needs_little_memory(tmp_path):
    """Sums were reserved for as many columns as fit into a cache: over a gigabyte where the rows are short."""
    net = build(tmp_path, seeds.layer_net("InnerProduct", seeds.LAYERS["InnerProduct"][0][0], ["1 3 6 6"], 1))
    net.blobs["b0"].data[...] = 1
    y = net.forward()["t0"]
    net.blobs["t0"].diff[...] = 1
    net.backward()
    weights, bias = (blob.data for blob in net.params["layer"])
    np.testing.assert_allclose(y[0], weights.sum(axis=0) + bias, rtol=1e-5)
    np.testing.assert_allclose(net.blobs["b0"].diff.ravel(), weights.sum(axis=1), rtol=1e-5)


def test_declared_sizes_cost_nothing_until_they_are_touched(tmp_path):
    net = build(
        tmp_path,
        f'layer {{ name: "d" type: "DummyData" top: "d" dummy_data_param {{ shape {{ dim: {HUGE} }} }} }}\n'
        'layer { name: "p" type: "Power" bottom: "d" top: "p" }',
    )
    assert [blob.data_memory.allocated for blob in net.blobs.values()] == [False, False]


def scaled(shape: str, axis: int) -> str:
    """A shape with one axis two million times as long, if it has the axis."""
    dims = shape.split()
    if axis < len(dims):
        dims[axis] = str(2_000_000 * int(dims[axis]))
    return " ".join(dims)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_huge_nets_are_built_without_memory(tmp_path, monkeypatch, axis):
    monkeypatch.chdir(tmp_path)
    built = 0
    for kind, cases in seeds.LAYERS.items():
        for options, bottoms, tops in cases:
            text = seeds.layer_net(kind, options, [scaled(shape, axis) for shape in bottoms], tops)
            if tops and "loss_weight" not in options:
                text = text.replace(' top: "t0"', ' top: "t0"' + " loss_weight: 2" * tops)
            tracemalloc.start()
            try:
                caffe.Net(proto.parse_text(text, "NetParameter", "net.prototxt"), caffe.TRAIN)
                built += 1
            except NetError:  # of more than 2^31 elements, or its rows have another length
                pass
            finally:
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            assert peak < 2e6, text
    assert built > 50


@pytest.mark.parametrize(
    "options",
    ['lr_policy: "exp" gamma: 1e38', 'lr_policy: "poly" max_iter: 2 power: -1', 'lr_policy: "fixed" base_lr: inf'],
)
def test_rates_are_finite(options):
    rate = "" if "base_lr" in options else "base_lr: 1"
    solver = caffe.get_solver(proto.parse_text(f"{seeds.TRAINED} {rate} {options}", "SolverParameter"))
    with pytest.raises(SolverError, match="gives no finite rate"):
        solver.step(12)


def test_the_last_iteration():
    solver = caffe.get_solver(proto.parse_text(f'{seeds.TRAINED} base_lr: 1 lr_policy: "fixed"', "SolverParameter"))
    solver.iter = HUGE - 1
    solver.step(1)
    with pytest.raises(SolverError, match=f"expected to stop at iteration {HUGE} at the latest, actual {HUGE + 1}"):
        solver.step(1)


def test_pairs_of_blobs_with_different_numbers_of_axes(tmp_path):
    net = build(tmp_path, seeds.layer_net("ContrastiveLoss", "", ["4 5", "4 5 1", "4"], 1))
    for i, value in enumerate((2, 1, 1)):
        net.blobs[f"b{i}"].data[...] = value
    assert net.forward()["t0"] == 5 / 2
    net.backward()
    assert net.blobs["b1"].diff.shape == (4, 5, 1) and (net.blobs["b1"].diff == -1 / 4).all()


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_a_state_that_names_an_impossible_file(tmp_path, name):
    solver = caffe.get_solver(proto.parse_text(f'{seeds.TRAINED} base_lr: 1 lr_policy: "fixed"', "SolverParameter"))
    history = [proto.message("BlobProto")(data=blob.data.ravel()) for blob in solver.history]
    for message, blob in zip(history, solver.history):
        message.shape.dim.extend(blob.shape)
    state = proto.message("SolverState")(iter=1, learned_net=name, history=history, current_step=0)
    (tmp_path / "state").write_bytes(state.SerializeToString())
    with pytest.raises(FileFormatError, match="cannot be read"):
        solver.restore(tmp_path / "state")


def test_kernels_get_no_integers_that_are_cut_off():
    x = np.ones(2, np.float32)
    with pytest.raises(BackendError, match="4294967297 is beyond int32"):
        kernels("elementwise").scaled(2**32 + 1, 1.0, x, x)
