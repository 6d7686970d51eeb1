"""The HDF5 forms of weights and solver states: structure and values as Caffe's."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from caffelite.errors import FileFormatError
from caffelite.proto import message
from caffelite.proto.hdf5 import write_weights_hdf5
from caffelite.proto.weights import read_solverstate, read_weights, write_solverstate

DATA = Path(__file__).parent / "data" / "weights"
WEIGHTS, STATE = DATA / "hdf_iter_3.caffemodel.h5", DATA / "hdf_iter_3.solverstate.h5"


def tree(path):
    """Names with shapes and types; a string's padding aside."""
    with h5py.File(path, "r") as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: (getattr(item, "shape", None), _type(item))}))
        return found


def _type(item):
    return str(item.dtype) if isinstance(item, h5py.Dataset) else "group"


def layer(name):
    return message("LayerParameter")(name=name)


def test_values_that_caffe_wrote():
    expected = np.load(DATA / "hdf_expected.npz")
    layers = dict(read_weights(WEIGHTS))
    for key in (k for k in expected if k.startswith("param:")):
        _, name, i = key.split(":")
        np.testing.assert_array_equal(layers[name][int(i)], expected[key], strict=True)
    assert layers["sil"] == [] and len(layers) == 12


def test_weights_have_caffes_structure(tmp_path):
    layers = read_weights(WEIGHTS)
    write_weights_hdf5(tmp_path / "net.h5", [(layer(name), [(a, None) for a in blobs]) for name, blobs in layers])
    assert tree(tmp_path / "net.h5") == tree(WEIGHTS)
    for (name, blobs), (again, others) in zip(layers, read_weights(tmp_path / "net.h5"), strict=True):
        assert name == again
        for ours, theirs in zip(blobs, others, strict=True):
            np.testing.assert_array_equal(ours, theirs, strict=True)


def test_gradients_shared_blobs_and_slashes(tmp_path):
    ones = np.ones(2, np.float32)
    entries = [(layer("block/conv"), [(None, ones), (ones, ones)]), (layer("block/relu"), [])]
    write_weights_hdf5(tmp_path / "net.h5", entries)
    assert tree(tmp_path / "net.h5")["diff/block/conv/0"] == ((2,), "float32")
    (conv, blobs), relu = read_weights(tmp_path / "net.h5")
    assert conv == "block/conv" and blobs[0] is None and blobs[1].tolist() == [1, 1]
    assert relu == ("block/relu", [])


def test_layers_whose_names_collide(tmp_path):
    with pytest.raises(FileFormatError, match="the name of layer 'a' cannot be used in HDF5"):
        write_weights_hdf5(tmp_path / "net.h5", [(layer("a"), []), (layer("a"), [])])
    assert list(tmp_path.iterdir()) == []


def test_solver_state_goes_round(tmp_path):
    expected = np.load(DATA / "hdf_expected.npz")
    state = read_solverstate(STATE)
    assert state[:3] == (3, "hdf_iter_3.caffemodel.h5", 1)
    assert len(state.history) == 28
    for i, values in enumerate(state.history):
        np.testing.assert_array_equal(values, expected[f"history:{i}"], strict=True)
    write_solverstate(tmp_path / "net.solverstate.h5", *state)
    assert tree(tmp_path / "net.solverstate.h5") == tree(STATE)
    again = read_solverstate(tmp_path / "net.solverstate.h5")
    assert again[:3] == state[:3]
    for ours, theirs in zip(again.history, state.history, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def make(path, **items):
    with h5py.File(path, "w") as file:
        for name, value in items.items():
            file[name.replace("__", "/")] = value
    return path


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ({"other": [1.0]}, "has no group /data"),
        ({"data": [1.0]}, "has no group /data"),
        ({"data__a__weights": [1.0]}, "/data/a/weights is no blob"),
        ({"data__a__99999999": [1.0]}, "/data/a/99999999 is no blob"),
        ({"data__a__0": [1]}, "/data/a/0 holds no floats"),
    ],
)
def test_other_contents(items, problem, tmp_path):
    with pytest.raises(FileFormatError, match=problem):
        read_weights(make(tmp_path / "net.h5", **items))


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ({"iter": [1]}, "lacks current_step, history"),
        ({"iter": [1], "current_step": [0], "history__0": [1.0], "learned_net": [1]}, "learned_net is no string"),
        ({"iter": [1], "current_step": [0], "history__1": [1.0]}, "damaged"),
        ({"iter": [-1], "current_step": [0], "history__0": [1.0]}, "expected iteration and step from 0, actual -1, 0"),
        ({"iter": [1], "current_step": [2**31], "history__0": [1.0]}, "expected iteration and step from 0"),
    ],
)
def test_states_that_are_none(items, problem, tmp_path):
    with pytest.raises(FileFormatError, match=problem):
        read_solverstate(make(tmp_path / "net.h5", **items))


def test_a_size_that_the_file_does_not_hold_is_not_allocated(tmp_path):
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.create_dataset("data/a/0", (10**6, 10**6), "f4", chunks=(10, 10))
    with pytest.raises(FileFormatError, match="declares 4000000000000 bytes and stores 0"):
        read_weights(tmp_path / "net.h5")


def test_a_cut_file(tmp_path):
    (tmp_path / "net.h5").write_bytes(WEIGHTS.read_bytes()[:5000])
    with pytest.raises(FileFormatError, match="damaged, or no HDF5 file of Caffe"):
        read_weights(tmp_path / "net.h5")


@pytest.mark.parametrize("way", ["external link", "external storage", "virtual data set"])
def test_numbers_of_other_files_are_not_read(tmp_path, way):
    (tmp_path / "raw").write_bytes(bytes(16))
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x"] = np.zeros(4, np.float32)
    with h5py.File(tmp_path / "net.h5", "w") as file:
        layer = file.create_group("data/a")
        if way == "external link":
            layer["0"] = h5py.ExternalLink("other.h5", "x")
        elif way == "external storage":
            layer.create_dataset("0", (4,), "f4", external=[(str(tmp_path / "raw"), 0, 16)])
        else:
            layout = h5py.VirtualLayout((4,), "f4")
            layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
            layer.create_virtual_dataset("0", layout)
    try:
        assert read_weights(tmp_path / "net.h5") == [("a", [])]  # links are no blobs
        assert way == "external link"
    except FileFormatError as e:
        assert "/data/a/0 lies in another file" in str(e)


def test_a_state_whose_history_is_linked(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["history/0"] = np.zeros(4, np.float32)
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file["iter"], file["current_step"] = [1], [0]
        file["history"] = h5py.ExternalLink("other.h5", "history")
    with pytest.raises(FileFormatError, match="/history/0 lies in another file"):
        list(read_solverstate(tmp_path / "net.h5").history)


@pytest.mark.parametrize("iteration", [[1, 2], 1.5, b"1"])
def test_an_iteration_that_is_no_number(tmp_path, iteration):
    with pytest.raises(FileFormatError, match="/iter is no whole number"):
        read_solverstate(make(tmp_path / "net.h5", iter=iteration, current_step=[0], history__0=[1.0]))
