"""HDF5Data, HDF5Output and MemoryData: rows across files, what is written, arrays of the program."""

import h5py
import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.errors import LayerError
from tests.engine.data_nets import batches, net_of


@pytest.fixture
def arrays(tmp_path):
    """Files of 4 and 3 rows, and a list of them."""
    for name, first, count in (("a.h5", 0, 4), ("b.h5", 4, 3)):
        with h5py.File(tmp_path / name, "w") as file:
            rows = np.arange(first, first + count)
            file["x"] = rows[:, None] + np.array([0, 0.25])
            file["n"] = rows.astype(np.int64)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.h5\n{tmp_path}/b.h5\n")
    return tmp_path


def hdf5_net(folder, more="batch_size: 3", options="", tops=("x", "n")):
    return net_of("HDF5Data", f'hdf5_data_param {{ source: "{folder}/list.txt" {more} }} {options}', tops=tops)


def test_rows_across_files(arrays):
    net = hdf5_net(arrays)
    assert net.blobs["x"].shape == (3, 2) and net.blobs["n"].shape == (3,)
    np.testing.assert_array_equal(np.concatenate(batches(net, 5, "n")), np.arange(15) % 7)
    net = hdf5_net(arrays, "batch_size: 16", tops=("x",))
    np.testing.assert_array_equal(batches(net, 1, "x")[0][:, 1], np.arange(16) % 7 + 0.25)


def test_shuffled_rows_stay_in_their_files(arrays):
    rows = np.concatenate(batches(hdf5_net(arrays, "batch_size: 3 shuffle: true"), 14, "n")).reshape(6, 7)
    assert all(sorted(epoch) == list(range(7)) for epoch in rows.tolist())
    assert len({tuple(epoch) for epoch in rows.tolist()}) > 3
    first_files = {bool(set(epoch[:3]) <= {4, 5, 6}) for epoch in rows.tolist()}
    assert first_files == {True, False}
    for epoch in rows.tolist():
        assert set(epoch[:3]) == {4, 5, 6} or set(epoch[:4]) == {0, 1, 2, 3}


def test_hdf5_with_faults(arrays):
    with pytest.raises(LayerError, match="transform_param is not for HDF5Data"):
        hdf5_net(arrays, options="transform_param { scale: 2 }")
    with pytest.raises(LayerError, match=r"a.h5: expected a data set 'y' for the top, actual n, x"):
        hdf5_net(arrays, tops=("y",))
    with pytest.raises(LayerError, match=r"/list.txt': cannot be read"):
        hdf5_net(arrays / "nowhere")
    with h5py.File(arrays / "b.h5", "a") as file:
        del file["n"]
        file["n"] = np.zeros(5)
    with pytest.raises(LayerError, match=r"b.h5: expected as many rows for every top, actual x 3, n 5"):
        hdf5_net(arrays)
    with h5py.File(arrays / "b.h5", "w") as file:
        file.create_dataset("x", (10**9, 2), "f4")
    with pytest.raises(LayerError, match="declares 8000000000 bytes and stores 0"):
        hdf5_net(arrays, tops=("x",))
    with h5py.File(arrays / "b.h5", "w") as file:
        file["x"] = np.zeros((2, 3))
    with pytest.raises(LayerError, match=r"b.h5: expected rows of shapes \[\(2,\)\] as in .*a.h5, actual \[\(3,\)\]"):
        hdf5_net(arrays, tops=("x",))
    (arrays / "b.h5").write_bytes(b"no HDF5")
    with pytest.raises(LayerError, match=r"b.h5: cannot be read as HDF5"):
        hdf5_net(arrays)
    (arrays / "list.txt").write_bytes((arrays / "a.h5").read_bytes())
    with pytest.raises(LayerError, match=r"list\.txt': is an HDF5 file; expected a text that names such"):
        hdf5_net(arrays)
    (arrays / "list.txt").write_text("\n")
    with pytest.raises(LayerError, match="names no HDF5 file"):
        hdf5_net(arrays)


def test_output_of_every_pass_is_in_the_file(arrays):
    text = f"""
        layer {{ name: "in" type: "HDF5Data" top: "x" top: "n" hdf5_data_param {{
          source: "{arrays}/list.txt" batch_size: 3 }} }}
        layer {{ name: "out" type: "HDF5Output" bottom: "x" bottom: "n" hdf5_output_param {{
          file_name: "{arrays}/out.h5" }} }}"""
    net = caffe.Net(proto.parse_text(text, "NetParameter"), caffe.TEST)
    net.forward()
    net.forward()
    with h5py.File(arrays / "out.h5") as file:
        assert file["data"].shape == (6, 2, 1, 1) and file["label"].shape == (6, 1, 1, 1)
        np.testing.assert_array_equal(np.ravel(file["label"]), range(6))
        np.testing.assert_array_equal(file["data"][:, 1, 0, 0], np.arange(6) + 0.25)
    with pytest.raises(LayerError, match=r"layer 'out' .*nowhere/out.h5': cannot be written"):
        caffe.Net(proto.parse_text(text.replace("/out.h5", "/nowhere/out.h5"), "NetParameter"), caffe.TEST)


SHAPE = "memory_data_param { batch_size: 2 channels: 3 height: 6 width: 8 }"


def test_arrays_of_the_program():
    net = net_of("MemoryData", SHAPE)
    assert net.blobs["data"].shape == (2, 3, 6, 8) and net.blobs["label"].shape == (2,)
    with pytest.raises(LayerError, match=r"call net.set_input_arrays"):
        net.forward()
    images = np.random.default_rng(0).random((4, 3, 6, 8), np.float32)
    net.set_input_arrays(images, np.arange(4, dtype=np.float32))
    for i in (0, 2, 0):
        assert net.forward()["label"].tolist() == [i, i + 1]
        np.testing.assert_array_equal(net.blobs["data"].data, images[i : i + 2])
    images[2:] = 7
    assert (net.forward()["data"] == 7).all()  # as in pycaffe, the array is not copied
    net.set_input_arrays(images, np.arange(4.0).reshape(4, 1, 1, 1))
    assert net.forward()["label"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ((3, 3, 6, 8), 3, "a multiple of 2"),
        ((2, 1, 6, 8), 2, r"\[a multiple of 2, 3, 6, 8\], actual \[2, 1, 6, 8\]"),
        ((0, 3, 6, 8), 0, "a multiple of 2"),
        ((2, 3, 6, 8), 3, "expected 2 labels"),
    ],
)
def test_arrays_that_do_not_fit(images, labels, message):
    with pytest.raises(LayerError, match=message):
        net_of("MemoryData", SHAPE).set_input_arrays(np.zeros(images), np.zeros(labels))


def test_memory_needs_all_sizes():
    with pytest.raises(LayerError, match="batch_size, channels, height and width above 0"):
        net_of("MemoryData", "memory_data_param { batch_size: 2 channels: 3 height: 6 }")


def test_rows_of_other_files_are_not_read(arrays):
    with h5py.File(arrays / "b.h5", "a") as file:
        del file["x"]
        file["x"] = h5py.ExternalLink("a.h5", "x")
    with pytest.raises(LayerError, match=r"b.h5: /x lies in another file"):
        hdf5_net(arrays)


def test_output_does_not_overwrite_what_is_no_hdf5(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    param = f'hdf5_output_param {{ file_name: "{tmp_path}/notes.txt" }}'
    text = f"""layer {{ name: "in" type: "Input" top: "x" top: "n" input_param {{ shape {{ dim: 2 }} }} }}
        layer {{ name: "out" type: "HDF5Output" bottom: "x" bottom: "n" {param} }}"""
    with pytest.raises(LayerError, match=r"notes.txt' is there and no HDF5 file: it is not overwritten"):
        caffe.Net(proto.parse_text(text, "NetParameter", "test"), caffe.TEST)
    assert (tmp_path / "notes.txt").read_text() == "mine"
