"""The data tools of the command line: the original's databases, means and upgraded files, and what they refuse."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

import caffelite as caffe
from caffelite import cli, proto
from caffelite.layers.data import database as databases
from caffelite.layers.data.database import Database, new_database
from tests.engine.data_nets import IMAGES, LABELS, net_of

OLD = Path(__file__).parent / "proto" / "data"


@pytest.fixture
def pictures(tmp_path):
    """Five images, one of them a JPEG, and a list of them."""
    names = [f"{i}.png" for i in range(4)] + ["4.JPG"]
    for name, image in zip(names, IMAGES):
        cv2.imwrite(str(tmp_path / name), image.transpose(1, 2, 0))
    (tmp_path / "list.txt").write_text("".join(f"{name} {label}\n" for name, label in zip(names, LABELS)))
    return tmp_path


def convert(folder, *options, status=0):
    arguments = ["convert_imageset", *options, f"{folder}/", f"{folder}/list.txt", f"{folder}/db"]
    assert cli.main(arguments) == status
    return (
        [Database(folder / "db").read(i, "Datum")[1] for i in range(len(Database(folder / "db")))] if not status else []
    )


def all_records(path):
    records = Database(path)
    return [records[i] for i in range(len(records))]


# -- the original ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("lmdb_raw", []),
        ("lmdb_png", ["--encoded"]),
        ("lmdb_gray_resized", ["--gray", "--resize_width", "4", "--resize_height=5"]),
    ],
)
def test_databases_of_the_original(shared, tmp_path, name, options):
    data = shared / "golden" / "files" / "data"
    command = ["convert_imageset", *options, f"{data}/img/", f"{data}/list.txt", f"{tmp_path}/made"]
    assert cli.main(command) == 0
    assert all_records(tmp_path / "made") == all_records(data / name)


def test_mean_of_the_original(shared, tmp_path, capsys):
    data = shared / "golden" / "files" / "data"
    assert cli.main(["compute_image_mean", str(data / "lmdb_raw"), str(tmp_path / "mean")]) == 0
    assert (tmp_path / "mean").read_bytes() == (data / "mean.binaryproto").read_bytes()
    assert "mean_value channel [2]: 121.22" in capsys.readouterr().out


# -- convert_imageset --------------------------------------------------------------------------------------------------


def test_keys_and_pixels(pictures):
    datums = convert(pictures)
    assert [key for key, _ in all_records(pictures / "db")][3:] == ["00000003_3.png", "00000004_4.JPG"]
    assert [d.label for d in datums] == LABELS
    np.testing.assert_array_equal([caffe.io.datum_to_array(d) for d in datums[:4]], IMAGES[:4])


def test_shuffled_in_the_same_order_for_a_seed(pictures):
    orders = []
    for i, seed in enumerate(("0", "0", "1")):
        orders.append([d.label for d in convert(pictures, "--shuffle", "--seed", seed)])
        (pictures / "db").rename(pictures / f"db{i}")
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == sorted(LABELS)


def test_encoded_files_are_kept_where_nothing_changes(pictures):
    datums = convert(pictures, "--encoded")
    names = ["0.png", "1.png", "2.png", "3.png", "4.JPG"]
    assert [d.data for d in datums] == [(pictures / name).read_bytes() for name in names]
    assert all(d.encoded for d in datums)


def test_encoded_anew_where_something_changes(pictures):
    datums = convert(pictures, "--encode_type", "jpg")
    assert all(d.encoded and d.data.startswith(b"\xff\xd8") for d in datums)
    assert datums[4].data == (pictures / "4.JPG").read_bytes()
    (pictures / "db").rename(pictures / "db0")
    decode = lambda d: cv2.imdecode(np.frombuffer(d.data, np.uint8), cv2.IMREAD_UNCHANGED)  # noqa: E731
    assert {decode(d).shape for d in convert(pictures, "--encoded", "--gray")} == {(6, 8)}
    (pictures / "db").rename(pictures / "db1")
    sizes = ("--resize_width", "5", "--resize_height", "3")
    assert {decode(d).shape for d in convert(pictures, "--encoded", *sizes)} == {(3, 5, 3)}


def test_images_that_cannot_be_read_are_counted(pictures, capsys, caplog):
    (pictures / "1.png").write_bytes(b"rubbish")
    (pictures / "2.png").unlink()
    assert [d.label for d in convert(pictures)] == [3, 1, 5]
    assert "3 images; 2 could not be read" in capsys.readouterr().out
    assert "1.png: 7 bytes that are no image" in caplog.text and "2.png: cannot be read" in caplog.text
    assert [key[:8] for key, _ in all_records(pictures / "db")] == ["00000000", "00000003", "00000004"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "leveldb"], "expected lmdb"),
        (["--resize_width", "5"], "--resize_width and --resize_height above 0, or neither"),
        (["--encode_type", "nothing"], "cannot encode an image as '.nothing'"),
        (["--check_size"], r"3.png: expected an image of shape (3, 6, 8) like the first, actual (3, 2, 2)"),
    ],
)
def test_conversions_that_fail_leave_nothing(pictures, capsys, options, message):
    cv2.imwrite(str(pictures / "3.png"), np.zeros((2, 2, 3), np.uint8))
    convert(pictures, *options, status=1)
    assert message in capsys.readouterr().err
    assert {p.name for p in pictures.iterdir()} == {"0.png", "1.png", "2.png", "3.png", "4.JPG", "list.txt"}


def test_nothing_is_written_over(pictures, capsys):
    convert(pictures)
    convert(pictures, status=1)
    assert "db: exists already; remove it or choose another name" in capsys.readouterr().err


def test_no_image_at_all(pictures, capsys):
    (pictures / "list.txt").write_text("a.png 1\nb.png 2\n")
    convert(pictures, status=1)
    assert "none of its 2 image(s) could be read" in capsys.readouterr().err
    assert not (pictures / "db").exists()


def test_databases_grow_while_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(databases, "FIRST_MAP_SIZE", 2**16)
    monkeypatch.setattr(databases, "RECORDS_PER_COMMIT", 7)
    with new_database(tmp_path / "db") as put:
        for i in range(100):
            put(f"{i:03d}", bytes([i]) * 5000)
    assert all_records(tmp_path / "db") == [(f"{i:03d}", bytes([i]) * 5000) for i in range(100)]
    records = Database(tmp_path / "db")
    assert [records[i][0] for i in (50, 3, 3, 99)] == ["050", "003", "003", "099"]


# -- compute_image_mean ------------------------------------------------------------------------------------------------


def test_mean_of_floats_and_of_different_sizes(tmp_path, capsys):
    with new_database(tmp_path / "floats") as put:
        for i in range(3):
            put(str(i), caffe.io.array_to_datum(np.full((1, 2, 2), i + 0.5)).SerializeToString())
    command = ["compute_image_mean", str(tmp_path / "floats"), str(tmp_path / "mean")]
    assert cli.main(command) == 0
    np.testing.assert_array_equal(proto.weights.read_blobproto(tmp_path / "mean"), np.full((1, 1, 2, 2), 1.5))
    with new_database(tmp_path / "sizes") as put:
        for i in (2, 3):
            put(str(i), caffe.io.array_to_datum(np.zeros((1, i, 2), np.uint8)).SerializeToString())
    assert cli.main(["compute_image_mean", str(tmp_path / "sizes")]) == 1
    assert "record '3': expected an image of shape (1, 2, 2)" in capsys.readouterr().err


# -- extract_features --------------------------------------------------------------------------------------------------


@pytest.fixture
def features(pictures):
    """A net on a database of the pictures, with its weights; gives the arguments and the blobs of two passes."""
    convert(pictures)
    model = pictures / "net.prototxt"
    model.write_text(f"""
        layer {{ name: "d" type: "Data" top: "data" top: "label" data_param {{
          source: "{pictures}/db" backend: LMDB batch_size: 3 }} }}
        layer {{ name: "c" type: "Convolution" bottom: "data" top: "maps" convolution_param {{
          num_output: 2 kernel_size: 3 weight_filler {{ type: "xavier" }} }} }}
        layer {{ name: "i" type: "InnerProduct" bottom: "maps" top: "out" inner_product_param {{
          num_output: 4 weight_filler {{ type: "xavier" }} }} }}""")
    net = caffe.Net(str(model), caffe.TEST)
    net.save(pictures / "w.caffemodel")
    blobs = {"maps": [], "out": []}
    for _ in range(2):
        net.forward()
        for name, rows in blobs.items():
            rows.extend(net.blobs[name].data.copy())
    return ["extract_features", str(pictures / "w.caffemodel"), str(model)], blobs


def test_features_in_lmdb(features, tmp_path):
    command, blobs = features
    assert cli.main([*command, "maps,out", f"{tmp_path}/a,{tmp_path}/b", "2", "lmdb"]) == 0
    for name, path, shape in (("maps", "a", (2, 4, 6)), ("out", "b", (4, 1, 1))):
        assert [key for key, _ in all_records(tmp_path / path)] == [f"{i:010d}" for i in range(6)]
        for i, expected in enumerate(blobs[name]):
            stored = caffe.io.datum_to_array(Database(tmp_path / path).read(i, "Datum")[1])
            np.testing.assert_array_equal(stored, expected.reshape(shape))


def test_features_in_hdf5_are_read_by_hdf5_data(features, tmp_path):
    command, blobs = features
    assert cli.main([*command, "out", f"{tmp_path}/out.h5", "2", "hdf5"]) == 0
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_array_equal(file["out"], blobs["out"])
    (tmp_path / "h5.txt").write_text(f"{tmp_path}/out.h5")
    net = net_of("HDF5Data", f'hdf5_data_param {{ source: "{tmp_path}/h5.txt" batch_size: 6 }}', tops=("out",))
    np.testing.assert_array_equal(net.forward()["out"], blobs["out"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maps,out", "a", "2", "lmdb"], "expected one output for each blob, actual 1 for 2"),
        (["nothing", "a", "2", "lmdb"], "has no blob nothing; its blobs: data, label, maps, out"),
        (["out", "a", "0", "lmdb"], "at least 1 pass"),
    ],
)
def test_features_that_cannot_be(features, capsys, arguments, message):
    assert cli.main([*features[0], *arguments]) == 1
    assert message in capsys.readouterr().err


# -- upgrades ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["v0_net", "v1_net", "input_fields", "solver_type_enum", "current_net"])
def test_texts_as_the_originals_tools_upgrade_them(tmp_path, capsys, case):
    kind, message = ("solver", "SolverParameter") if case.startswith("solver") else ("net", "NetParameter")
    old, new = OLD / "upgrade" / f"{case}.prototxt", tmp_path / "new"
    assert cli.main([f"upgrade_{kind}_proto_text", str(old), str(new)]) == 0
    assert proto.read_text(new, message) == proto.read_text(OLD / "upgrade" / f"{case}.upgraded.prototxt", message)
    assert ("is in the latest format" if case == "current_net" else "upgraded") in capsys.readouterr().out


def test_binary_as_the_originals_tool_upgrades_it(tmp_path):
    old, new = OLD / "weights" / "v1.caffemodel", tmp_path / "new"
    assert cli.main(["upgrade_net_proto_binary", str(old), str(new)]) == 0
    upgraded = OLD / "weights" / "v1_upgraded.caffemodel"
    assert proto.read_binary(new, "NetParameter") == proto.read_binary(upgraded, "NetParameter")


def test_upgrades_of_no_such_file(tmp_path, capsys):
    for command in ("upgrade_net_proto_text", "upgrade_net_proto_binary", "upgrade_solver_proto_text"):
        assert cli.main([command, str(tmp_path / "old"), str(tmp_path / "new")]) == 1
        assert "old: cannot be read: No such file" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
