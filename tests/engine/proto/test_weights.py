"""Weights and solver states: Caffe's values are read, Caffe's bytes written, and damage is named."""

import os
import random
import re
import resource
from pathlib import Path

import numpy as np
import pytest

from caffelite.errors import CaffeliteError, FileFormatError
from caffelite.proto import message, parse_text, read_binary, upgrade_net, wire, write_binary
from caffelite.proto.weights import (
    read_blobproto,
    read_solverstate,
    read_weights,
    shapes_match,
    write_solverstate,
    write_weights,
)

DATA = Path(__file__).parent / "data" / "weights"


def write_net(path, text):
    write_binary(path, parse_text(text, "NetParameter"))
    return path


def blob(text):
    return f"layer {{ name: 'a' blobs {{ {text} }} }}"


def without_blobs(layer):
    bare = type(layer)()
    bare.CopyFrom(layer)
    bare.ClearField("blobs")
    return bare


def same_layers(layers, expected):
    assert [name for name, _ in layers] == [name for name, _ in expected]
    for (_, blobs), (_, others) in zip(layers, expected):
        assert len(blobs) == len(others)
        for ours, theirs in zip(blobs, others):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs, strict=True)


def test_values_that_caffe_wrote():
    expected = np.load(DATA / "bin_expected.npz")
    layers = dict(read_weights(DATA / "bin_iter_3.caffemodel"))
    for key in (k for k in expected if k.startswith("param:")):
        _, layer, i = key.split(":")
        np.testing.assert_array_equal(layers[layer][int(i)], expected[key], strict=True)
    assert layers["data_in_0_split"] == []
    assert len(layers) == 12


def test_weights_have_caffes_bytes(tmp_path):
    original = DATA / "bin_iter_3.caffemodel"
    net = read_binary(original, "NetParameter")
    layers = [
        (without_blobs(layer), [(array, None) for array in blobs])
        for layer, (_, blobs) in zip(net.layer, read_weights(original))
    ]
    write_weights(tmp_path / "net.caffemodel", net.name, iter(layers))
    assert (tmp_path / "net.caffemodel").read_bytes() == original.read_bytes()


def test_gradients_beside_values(tmp_path):
    data, diff = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    layer = parse_text("name: 'a' include { phase: TRAIN } param { lr_mult: 2 }", "LayerParameter")
    write_weights(tmp_path / "net.caffemodel", "n", [(layer, [(data, diff)])])
    written = read_binary(tmp_path / "net.caffemodel", "NetParameter").layer[0]
    assert list(written.blobs[0].diff) == [1] * 6 and list(written.blobs[0].shape.dim) == [2, 3]
    assert without_blobs(written) == layer
    np.testing.assert_array_equal(read_weights(tmp_path / "net.caffemodel")[0][1][0], data)


def test_arrays_of_any_form_are_written(tmp_path):
    """Scalars, empty arrays, views with strides and doubles."""
    arrays = [np.float32(3).reshape(()), np.empty((0, 2), np.float32), np.arange(6.0).reshape(2, 3).T]
    layer = message("LayerParameter")(name="a")
    write_weights(tmp_path / "net.caffemodel", "", [(layer, [(array, None) for array in arrays])])
    same_layers(read_weights(tmp_path / "net.caffemodel"), [("a", [array.astype(np.float32) for array in arrays])])


def test_v1_with_four_axes():
    expected = np.load(DATA / "v1_expected.npz")
    layers = dict(read_weights(DATA / "v1.caffemodel"))
    assert [array.shape for array in layers["i"]] == [(1, 1, 4, 27), (1, 1, 1, 4)]
    for key in (k for k in expected if k.startswith("param:")):
        _, layer, i = key.split(":")
        array = layers[layer][int(i)]
        assert shapes_match(array.shape, expected[key].shape)
        np.testing.assert_array_equal(array.reshape(expected[key].shape), expected[key])


def test_v0(tmp_path):
    text = """layers { layer { name: "a" type: "conv" blobs { num: 1 channels: 1 height: 1 width: 2 data: [1, 2] } } }
              layers { layer { name: "b" type: "relu" } }"""
    layers = read_weights(write_net(tmp_path / "v0.caffemodel", text))
    same_layers(layers, [("a", [np.array([[[[1, 2]]]], np.float32)]), ("b", [])])


def test_doubles_stay_doubles(tmp_path):
    path = write_net(tmp_path / "net.caffemodel", blob("shape { dim: 2 } double_data: 0.1 double_data: 2"))
    same_layers(read_weights(path), [("a", [np.array([0.1, 2])])])


def test_values_that_are_not_packed(tmp_path):
    """Each value with a key of its own, in two runs with the shape between them."""
    run = [b"\x2d" + np.float32(value).tobytes() for value in range(5)]
    blob_bytes = b"".join(run[:3]) + b"\x3a\x02\x08\x05" + b"".join(run[3:])
    (tmp_path / "mean.binaryproto").write_bytes(blob_bytes)
    np.testing.assert_array_equal(read_blobproto(tmp_path / "mean.binaryproto"), np.arange(5, dtype=np.float32))


def test_unknown_fields_are_skipped(tmp_path):
    net = read_binary(DATA / "bin_iter_3.caffemodel", "NetParameter").SerializeToString()
    strange = b"\xf8\x3f\x01" + b"\xfa\x3f\x03abc" + b"\xfd\x3f1234" + b"\xf9\x3f12345678"
    (tmp_path / "net.caffemodel").write_bytes(strange + net + strange)
    same_layers(read_weights(tmp_path / "net.caffemodel"), read_weights(DATA / "bin_iter_3.caffemodel"))


def test_nothing_is_copied():
    layers = dict(read_weights(DATA / "bin_iter_3.caffemodel"))
    array = layers["ip1"][0]
    assert not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("shape { dim: 2 dim: 3 } data: [1, 2, 3]", "a blob of shape (2, 3) holds 3 values"),
        ("shape { dim: 1000000 dim: 1000000 }", "a blob of shape (1000000, 1000000) holds 0 values"),
        ("shape { dim: -1 dim: -1 } data: 1", "holds 1 values"),
        ("num: 1 channels: 2 height: 1 data: [1, 2]", "a blob of shape (1, 2, 1, 0) holds 2 values"),
        ("shape { dim: [" + "1, " * 40 + "1] } data: 1", "a blob has 41 axes, more than 32"),
        ("data: [1, 2]", "a blob of shape () holds 2 values"),
    ],
)
def test_shapes_that_do_not_fit(text, problem, tmp_path):
    path = write_net(tmp_path / "net.caffemodel", blob(text))
    with pytest.raises(FileFormatError, match=re.escape(problem)) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}: damaged, or another format: ")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"),
        (b"\x0a\x01x", "holds no layers"),
        (b"\xa2\x06\x05\x0a", "field 100 ends 4 bytes behind the message that holds it at byte 0 of 4"),
        (b"\xa2\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "a number has more than 10 bytes at byte 2"),
        (b"\xa2", "a number is cut off at byte 0"),
        (b"\x02\x00", "a field has the number 0 at byte 0"),
        (b"version https://git-lfs", "is a text (a prototxt, or a pointer of Git LFS?)"),
        (b"version \xff", "unknown wire type 6 at byte 0"),
        (b"\xa2\x06\x07\x3a\x05\x2a\x03abc", "3 bytes are no whole number of float32 values at byte 7"),
        (b"\xa2\x06\x00\x12\x00", "layers of the old and the new form"),
    ],
)
def test_damaged_files(content, problem, tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=re.escape(problem)) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("read", [read_weights, read_solverstate, read_blobproto])
def test_a_missing_file(read, tmp_path):
    with pytest.raises(FileFormatError, match="gone: cannot be read: No such file"):
        read(tmp_path / "gone")


def test_every_cut_and_random_damage_is_an_error_or_harmless(tmp_path):
    path, content = tmp_path / "net.caffemodel", (DATA / "v1.caffemodel").read_bytes()
    dice = random.Random(3)
    refused = 0
    for k in range(600):
        damaged = bytearray(content)
        if k % 2:
            del damaged[dice.randrange(len(content)) :]
        else:
            damaged[dice.randrange(len(content))] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except FileFormatError:
            refused += 1
    assert refused > 300


def test_a_file_beyond_two_gigabytes(tmp_path):
    """2.2 GB, as a hole in the file: it takes neither disk nor memory."""
    path, count = tmp_path / "large.binaryproto", 550_000_000
    shape = wire.bytes_field(7, *wire.bytes_field(1, wire.varint(count)))
    with open(path, "wb") as file:
        file.writelines([*shape, wire.key(5, wire.BYTES), wire.varint(4 * count)])
        file.seek(4 * count - 4, 1)
        file.write(np.float32(7).tobytes())
    array = read_blobproto(path)
    assert array.shape == (count,)
    assert array[0] == 0 and array[-1] == 7


def test_solver_state_that_caffe_wrote(tmp_path):
    expected = np.load(DATA / "bin_expected.npz")
    original = DATA / "bin_iter_3.solverstate"
    state = read_solverstate(original)
    assert (state.iter, state.learned_net, state.current_step) == (3, "bin_iter_3.caffemodel", 1)
    assert len(state.history) == 14
    for i, values in enumerate(state.history):
        np.testing.assert_array_equal(values, expected[f"history:{i}"], strict=True)
    write_solverstate(tmp_path / "net.solverstate", *state)
    assert (tmp_path / "net.solverstate").read_bytes() == original.read_bytes()


@pytest.mark.parametrize("content", [b"\x12\x01x", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"])
def test_a_file_that_is_no_solver_state(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"names no iteration; expected a \.solverstate"):
        read_solverstate(tmp_path / "x")


def test_mean():
    mean = read_blobproto(DATA / "mean.binaryproto")
    theirs = read_binary(DATA / "mean.binaryproto", "BlobProto")
    assert mean.shape == (1, 3, 7, 9)
    assert mean.ravel().tolist() == list(theirs.data)


def test_shapes_match_as_in_caffe():
    """Blob::ShapeEquals: old files count axes from the last."""
    assert shapes_match((4, 27), (4, 27))
    assert shapes_match((1, 1, 4, 27), (4, 27))
    assert shapes_match((1, 1, 1, 4), (4,))
    assert shapes_match((1, 1, 1, 1), ())
    assert not shapes_match((1, 4, 1, 27), (4, 27))
    assert not shapes_match((4, 27, 1, 1), (4, 27))
    assert not shapes_match((1, 4), (4,))
    assert not shapes_match((1, 1, 2, 3), (1, 1, 1, 2, 3))


def test_real_models(shared):
    """As protobuf reads them, and written again byte for byte where nothing was upgraded."""
    files = sorted((shared / "real").rglob("*.caffemodel"))
    assert files
    for path in files:
        net = read_binary(path, "NetParameter")
        upgrade_net(net, path)
        layers = dict(read_weights(path))
        for layer in net.layer:
            for ours, theirs in zip(layers[layer.name], layer.blobs, strict=True):
                np.testing.assert_array_equal(ours.ravel(), np.array(theirs.data, np.float32))


@pytest.mark.parametrize("limit", [10, 3000, 5000, 6200, 7000])
@pytest.mark.parametrize("name", ["x.solverstate", "x.solverstate.h5"])
def test_a_disk_that_takes_no_more(tmp_path, name, limit):
    history = [np.ones((40, 40), np.float32)] * 2
    path = tmp_path / name
    write_solverstate(path, 1, "before", 0, history)
    before, size = path.read_bytes(), path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(limit, size - 1), limits[1]))
    try:
        with pytest.raises(CaffeliteError, match=rf"{re.escape(name)}: cannot be written: .*File too large"):
            write_solverstate(path, 2, "after", 0, history)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    if os.path.isdir("/proc/self/fd"):  # an open file keeps its room on the disk
        assert not [fd for fd in os.listdir("/proc/self/fd") if str(tmp_path) in _target(fd)]
    write_solverstate(path, 3, "later", 0, history)
    assert read_solverstate(path).iter == 3


def _target(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""
