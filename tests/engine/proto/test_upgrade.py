"""Old formats become what Caffe's own upgrade tools made of them (data/upgrade, written for this purpose)."""

import logging
from pathlib import Path

import pytest

from caffelite.errors import PrototxtError
from caffelite.proto import parse_text, read_binary, read_text, upgrade_net, upgrade_solver
from caffelite.proto.upgrade import V0_TYPES, V1_TYPES, resolve_snapshot_prefix

DATA = Path(__file__).parent / "data"
CASES = sorted(p.name.split(".")[0] for p in (DATA / "upgrade").glob("*.upgraded.prototxt"))
UNCHANGED = {"current_net", "data_param_transform", "solver_current"}


def net(text):
    return parse_text(text, "NetParameter")


def upgraded(text):
    parsed = net(text)
    upgrade_net(parsed, "old.prototxt")
    return parsed


def refusal(text):
    with pytest.raises(PrototxtError) as caught:
        upgraded(text)
    return str(caught.value)


@pytest.mark.parametrize("case", CASES)
def test_as_caffes_tool(case, caplog):
    is_solver = case.startswith("solver")
    type_name, upgrade = ("SolverParameter", upgrade_solver) if is_solver else ("NetParameter", upgrade_net)
    old = read_text(DATA / "upgrade" / f"{case}.prototxt", type_name)
    with caplog.at_level(logging.INFO, "caffelite"):
        changed = upgrade(old, case)
    assert changed == (case not in UNCHANGED) == bool(caplog.records)
    assert old == read_text(DATA / "upgrade" / f"{case}.upgraded.prototxt", type_name)
    assert not upgrade(old, case) or case == "batchnorm_params"  # which Caffe does again every time


def test_binary_as_caffes_tool():
    old = read_binary(DATA / "weights" / "v1.caffemodel", "NetParameter")
    assert upgrade_net(old)
    assert old == read_binary(DATA / "weights" / "v1_upgraded.caffemodel", "NetParameter")


def test_every_type_has_a_successor():
    types = parse_text("", "V1LayerParameter").LayerType
    assert set(V1_TYPES) == set(types.keys())
    assert set(V0_TYPES.values()) <= set(types.keys())


def test_every_v0_option_reaches_its_layer():
    """Those that the golden nets do not have."""
    old = upgraded(
        """
        layers { layer { name: "w" type: "window_data" source: "s" batchsize: 2 det_fg_threshold: 0.6
          det_bg_threshold: 0.4 det_fg_fraction: 0.3 det_context_pad: 16 det_crop_mode: "square" } top: "w" }
        layers { layer { name: "i" type: "images" source: "l" batchsize: 3 rand_skip: 4 shuffle_images: true
          new_num: 1 new_channels: 2 new_height: 5 new_width: 6 mirror: true } top: "i" }
        layers { layer { name: "p" type: "padding" pad: 2 } bottom: "i" top: "p" }
        layers { layer { name: "m" type: "pool" pool: STOCHASTIC kernelsize: 3 stride: 2 } bottom: "p" top: "m" }
        layers { layer { name: "n" type: "lrn" k: 2 } bottom: "m" top: "n" }
        layers { layer { name: "o" type: "hdf5_output" hdf5_output_param { file_name: "f" } } bottom: "n" }
        layers { layer { name: "g" type: "infogain_loss" source: "h" } bottom: "n" }
        layers { layer { name: "e" type: "hdf5_data" source: "t" batchsize: 7 } top: "e" }
        """
    )
    window, images, pool, lrn, output, infogain, hdf5 = old.layer
    assert window.window_data_param == parse_text(
        "source: 's' batch_size: 2 fg_threshold: 0.6 bg_threshold: 0.4 fg_fraction: 0.3 context_pad: 16 "
        "crop_mode: 'square'",
        "WindowDataParameter",
    )
    assert images.image_data_param == parse_text(
        "source: 'l' batch_size: 3 rand_skip: 4 shuffle: true new_height: 5 new_width: 6", "ImageDataParameter"
    )
    assert images.transform_param.mirror
    assert pool.bottom == ["i"]
    assert pool.pooling_param == parse_text("pool: STOCHASTIC kernel_size: 3 stride: 2 pad: 2", "PoolingParameter")
    assert lrn.lrn_param.k == 2
    assert output.hdf5_output_param.file_name == "f"
    assert infogain.infogain_loss_param.source == "h"
    assert (hdf5.hdf5_data_param.source, hdf5.hdf5_data_param.batch_size) == ("t", 7)


def test_a_v0_option_of_another_type_is_dropped_and_said(caplog):
    old = upgraded('layers { layer { name: "r" type: "relu" num_output: 3 } }')
    assert old == net('layer { name: "r" type: "ReLU" }')
    assert "'r' of type 'relu' has no option num_output" in caplog.text


def test_v0_keeps_blobs_and_force_backward():
    blob = "num: 1 channels: 1 height: 1 width: 2 data: 1 data: 2"
    old = upgraded(f'force_backward: true layers {{ layer {{ name: "i" type: "innerproduct" blobs {{ {blob} }} }} }}')
    assert old == net(f'force_backward: true layer {{ name: "i" type: "InnerProduct" blobs {{ {blob} }} }}')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('layers { layer { name: "c" type: "convo" } }', "layer 'c' has the unknown type 'convo'; did you mean conv?"),
        ('layers { layer { name: "c" type: "conv" } bottom: "x" }', "layer 'c' has the unknown bottom 'x'"),
        (
            'input: "d" layers { layer { name: "p" type: "padding" } bottom: "d" top: "p" }'
            'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }',
            "padding layer 'p' feeds layer 'r' of type 'relu'",
        ),
        (
            'input: "d" layers { layer { name: "p" type: "padding" } bottom: "d" top: "p" }'
            'layers { layer { name: "c" type: "conv" } bottom: "p" bottom: "p" top: "r" }',
            "must have one bottom each",
        ),
        ('layers { type: RELU } layer { type: "ReLU" }', "has both `layer` and `layers`"),
        ('input: "a" input: "b" input_dim: 1 input_dim: 2 input_dim: 3 input_dim: 4', "2 inputs (a, b) but 1 shapes"),
        ('input: "a" input: "b" input_shape { dim: 1 }', "2 inputs (a, b) but 1 shapes"),
    ],
)
def test_refusals(text, expected):
    error = refusal(text)
    assert error.startswith("old.prototxt: ") and expected in error


def test_inputs_without_shape_are_dropped_and_said(caplog):
    assert upgraded('input: "a" layer { name: "r" }') == net('layer { name: "r" }')
    assert "inputs a have no shape" in caplog.text


def test_shares_of_v1_parameters_and_rates_meet_in_one_spec():
    old = upgraded('layers { param: "w" blob_share_mode: STRICT blob_share_mode: PERMISSIVE weight_decay: 0 }')
    assert old == net('layer { param { name: "w" share_mode: STRICT decay_mult: 0 } param { share_mode: PERMISSIVE } }')


def test_solver_with_type_and_enum_is_refused():
    solver = parse_text('type: "Adam" solver_type: SGD', "SolverParameter")
    with pytest.raises(PrototxtError, match=r"s\.prototxt: gives both type and solver_type"):
        upgrade_solver(solver, "s.prototxt")


@pytest.mark.parametrize(("prefix", "expected"), [(None, "job/solver"), ("", "solver"), ("out/net", "out/net")])
def test_snapshot_prefix(prefix, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    solver = parse_text("" if prefix is None else f"snapshot_prefix: {prefix or '.'!r}", "SolverParameter")
    resolve_snapshot_prefix(solver, "job/solver.prototxt")
    assert solver.snapshot_prefix == expected
