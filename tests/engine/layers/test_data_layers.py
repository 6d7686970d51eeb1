"""The data layers: the original's batches, order, random numbers, what is said of missing and damaged data."""

import gc
import os
import shutil
import sys
import threading
import time

import cv2
import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.errors import CaffeliteError, FileFormatError, LayerError
from caffelite.io import array_to_datum
from caffelite.layers.data.database import Database
from tests.engine.data_nets import IMAGES, LABELS, batches, data_net, net_of, write


@pytest.fixture
def golden_data(shared, monkeypatch):
    monkeypatch.chdir(shared / "golden" / "files" / "data")  # whose prototxts name their files from there
    return np.load("data_expected.npz")


@pytest.fixture
def database(tmp_path):
    return write(tmp_path / "lmdb", [array_to_datum(a, label) for a, label in zip(IMAGES, LABELS)])


# -- the original ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "count", "phases"),
    [
        ("data_plain", 2, (0, 1)),
        ("data_mean_file", 2, (0, 1)),
        ("data_mean_value_scale_crop", 2, (1,)),
        ("hdf5_data", 4, (0, 1)),
        ("image_data", 2, (0, 1)),
    ],
)
def test_batches_of_the_original(golden_data, case, count, phases):
    for phase in phases:
        net = caffe.Net(f"{case}.prototxt", phase)
        for i in range(count):
            net.forward()
            for top in ("data", "label"):
                np.testing.assert_array_equal(net.blobs[top].data, golden_data[f"{case}:{top}:{i}"])


@pytest.mark.parametrize("name", ["lmdb_raw", "lmdb_png", "lmdb_gray_resized"])
def test_records_of_the_original(golden_data, name):
    records = Database(name)
    assert [records[i][0] for i in range(len(records))] == list(golden_data[f"{name}:keys"])
    net = data_net(name, batch=6)
    net.forward()
    np.testing.assert_array_equal(net.blobs["data"].data, golden_data[f"{name}:images"])
    np.testing.assert_array_equal(net.blobs["label"].data, golden_data[f"{name}:labels"])


def test_missing_data_of_public_prototxts_is_named(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = shared / "real" / "prototxts"
    for file, source in {
        "DeepScale+SqueezeNet/SqueezeNet_v1.0/train_val.prototxt": "examples/imagenet/ilsvrc12_train_lmdb",
        "chuanqi305+MobileNetv2-SSDLite/coco/train.prototxt": "trainval_lmdb",
        "cvjena+cnn-models/ResNet_preact/ResNet50_cvgj/test.prototxt": "/home/atlas2_ssd/simon/ilsvrc12/train.txt",
    }.items():
        with pytest.raises(LayerError, match=rf"layer 'data' .*{source}"):
            caffe.Net(str(root / file), caffe.TRAIN)


# -- Data --------------------------------------------------------------------------------------------------------------


def test_reads_over_and_over(database):
    net = data_net(database)
    assert net.blobs["data"].shape == (2, 3, 6, 8) and net.blobs["label"].shape == (2,)
    order = np.arange(8) % 5
    np.testing.assert_array_equal(np.concatenate(batches(net, 4)), IMAGES[order])
    np.testing.assert_array_equal(np.concatenate(batches(data_net(database), 4, "label")), np.array(LABELS)[order])


def test_labels_are_optional(database):
    net = data_net(database, tops=("data",))
    assert list(net.forward()) == ["data"]


def test_encoded_and_float_records(tmp_path):
    pictures = [np.ascontiguousarray(a.transpose(1, 2, 0)) for a in IMAGES]
    encode = lambda image: cv2.imencode(".png", image)[1].tobytes()  # noqa: E731
    datums = [proto.message("Datum")(data=encode(p), encoded=True, label=7) for p in pictures]
    net = data_net(write(tmp_path / "png", datums), batch=5)
    np.testing.assert_array_equal(net.forward()["data"], IMAGES)
    gray = data_net(tmp_path / "png", "transform_param { force_gray: true }", batch=5).forward()["data"]
    np.testing.assert_array_equal(gray[:, 0], [cv2.imdecode(np.frombuffer(d.data, np.uint8), 0) for d in datums])
    write(tmp_path / "one", [proto.message("Datum")(data=encode(pictures[0][:, :, 0]), encoded=True)])
    assert data_net(tmp_path / "one", batch=1).forward()["data"].shape == (1, 1, 6, 8)
    for options in ({"options": "transform_param { force_color: true }"}, {"more": "force_encoded_color: true"}):
        assert data_net(tmp_path / "one", batch=1, **options).forward()["data"].shape == (1, 3, 6, 8)
    values = IMAGES / np.float32(7) - 10
    write(tmp_path / "floats", [array_to_datum(v, 0) for v in values])
    np.testing.assert_array_equal(data_net(tmp_path / "floats", batch=5).forward()["data"], values)


def test_the_first_image_of_a_batch_gives_its_size(tmp_path):
    sizes = [(3, 6, 8), (3, 4, 5), (3, 4, 5)]
    write(tmp_path / "sizes", [array_to_datum(np.zeros(s, np.uint8), 0) for s in sizes])
    assert [b.shape[1:] for b in batches(data_net(tmp_path / "sizes", batch=1), 3)] == sizes
    net = data_net(tmp_path / "sizes", batch=2)
    with pytest.raises(LayerError, match=r"layer 'd' .*record '00000001': expected .*\(3, 6, 8\).* actual \(3, 4, 5\)"):
        net.forward()
    assert batches(data_net(tmp_path / "sizes", "transform_param { crop_size: 4 }", batch=3), 1)[0].shape[2:] == (4, 4)


def test_transform_in_the_original_order(database, tmp_path):
    mean = np.random.default_rng(1).uniform(0, 255, (1, 3, 6, 8)).astype(np.float32)
    proto.write_binary(tmp_path / "mean.binaryproto", caffe.io.array_to_blobproto(mean))
    options = f'transform_param {{ mean_file: "{tmp_path}/mean.binaryproto" scale: 0.3 crop_size: 4 }}'
    expected = (IMAGES[:2] - mean) * np.float32(0.3)
    np.testing.assert_array_equal(data_net(database, options).forward()["data"], expected[:, :, 1:5, 2:6])
    options = "transform_param { mean_value: 104 mean_value: 117.5 mean_value: 123 crop_h: 5 crop_w: 8 }"
    expected = IMAGES[:2] - np.array([104, 117.5, 123], np.float32)[:, None, None]
    np.testing.assert_array_equal(data_net(database, options).forward()["data"], expected[:, :, 0:5])
    np.testing.assert_array_equal(
        data_net(database, "transform_param { mean_value: 9 }").forward()["data"], IMAGES[:2] - np.float32(9)
    )


def test_random_crops_and_mirrors_of_training(database):
    options = "transform_param { crop_size: 4 mirror: true }"
    seen = set()
    for i, batch in enumerate(batches(data_net(database, options, 5, phase=caffe.TRAIN), 60)):
        for image, crop in zip(IMAGES, batch):
            found = [
                (y, x, m)
                for y in range(3)
                for x in range(5)
                for m in (1, -1)
                if np.array_equal(image[:, y : y + 4, x : x + 4][:, :, ::m], crop)
            ]
            assert len(found) == 1, i
            seen.update(found)
    assert len(seen) == 3 * 5 * 2


def test_mean_is_not_mirrored_with_the_image(database, tmp_path):
    mean = np.arange(144, dtype=np.float32).reshape(1, 3, 6, 8)
    proto.write_binary(tmp_path / "mean", caffe.io.array_to_blobproto(mean))
    net = data_net(database, f'transform_param {{ mean_file: "{tmp_path}/mean" mirror: true }}', 5)
    plain = (IMAGES - mean)[:, :, :, ::-1]
    mirrored = [np.array_equal(a, b) for batch in batches(net, 10) for a, b in zip(batch, plain)]
    assert 10 < sum(mirrored) < 40


def test_random_numbers_are_those_of_seed_layer_and_batch(database):
    options = "transform_param { crop_size: 4 mirror: true }"
    make = lambda seed: data_net(database, options, phase=caffe.TRAIN, seed=seed)  # noqa: E731
    first = batches(make(1), 6)
    np.testing.assert_array_equal(first, batches(make(1), 6))
    assert not np.array_equal(first, batches(make(2), 6))
    later = make(1)
    later.pass_state.number = 4  # as a solver that resumes
    np.testing.assert_array_equal(batches(later, 2), first[4:])
    later.pass_state.number = 1
    np.testing.assert_array_equal(batches(later, 2), first[1:3])


def test_state_and_passes_that_end_early(database):
    net, whole = data_net(database), batches(data_net(database), 8)
    batches(net, 2)
    other = data_net(database)
    assert net.layers[0].get_state() == {"cursor": 2}
    other.layers[0].set_state({"cursor": 2})
    np.testing.assert_array_equal(batches(other, 3), whole[2:5])

    text = f"""
        layer {{ name: "d" type: "Data" top: "data" data_param {{ source: "{database}" backend: LMDB batch_size: 2 }} }}
        layer {{ name: "p" type: "Power" bottom: "data" top: "out" }}"""
    net = caffe.Net(proto.parse_text(text, "NetParameter"), caffe.TEST)
    for i in range(3):
        net.forward(end="d")
        np.testing.assert_array_equal(net.blobs["data"].data, whole[i])
    for i in range(3, 6):
        np.testing.assert_array_equal(net.forward()["out"], whole[i])


def test_rand_skip(database):
    starts = {int(data_net(database, more="rand_skip: 5", seed=s).forward()["label"][0]) for s in range(20)}
    assert starts == set(LABELS)
    net, again = (data_net(database, more="rand_skip: 5", seed=3) for _ in range(2))
    np.testing.assert_array_equal(batches(net, 3), batches(again, 3))


def test_the_thread_ends_with_the_net(database):
    before = set(threading.enumerate())
    net = data_net(database)
    assert not set(threading.enumerate()) - before  # nothing is loaded for a net that is only looked at
    net.forward()
    (thread,) = set(threading.enumerate()) - before
    del net
    limit = time.monotonic() + 10
    while thread.is_alive():  # what it still loads knows the layer
        assert time.monotonic() < limit
        gc.collect()
        thread.join(0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch_size of at least 1"),
        ({"options": "transform_param { crop_size: 7 }"}, "crop of 7 x 7 does not fit into an image of 6 x 8"),
        ({"options": "transform_param { crop_h: 3 }"}, "crop_h and crop_w"),
        ({"options": "transform_param { mean_value: 1 mean_value: 2 }"}, "each of 3 channel"),
        ({"options": "transform_param { force_color: true force_gray: true }"}, "actual both"),
        ({"options": 'transform_param { mean_file: "x" mean_value: 1 }'}, "mean_file or mean_value"),
        ({"options": 'transform_param { mean_file: "no/mean" }'}, "mean_file: no/mean: cannot be read"),
        ({"options": "transform_param { noise_param { prob: 1 jpeg: 5 } }"}, "noise_param is not supported"),
        ({"options": "transform_param { resize_param { height: 5 } }"}, "resize_param: expected height and width"),
    ],
)
def test_refuses_parameters(database, options, message):
    with pytest.raises(LayerError, match=f"layer 'd' .*{message}"):
        data_net(database, **options)


def test_options_without_effect_are_named(database, tmp_path, caplog):
    data_net(database, more="scale: 2 mirror: true")
    assert "layer 'd': scale, mirror: no effect outside of transform_param" in caplog.text
    caplog.clear()
    net = data_net(database, "transform_param { force_gray: true }")
    np.testing.assert_array_equal(batches(net, 1)[0], IMAGES[:2])
    assert caplog.text.count("force_color and force_gray are for encoded images") == 1


def test_refuses_a_mean_of_another_shape(database, tmp_path):
    proto.write_binary(tmp_path / "mean", caffe.io.array_to_blobproto(np.zeros((1, 3, 5, 8))))
    with pytest.raises(LayerError, match=r"mean's shape \(3, 5, 8\) .* actual \(3, 6, 8\)"):
        data_net(database, f'transform_param {{ mean_file: "{tmp_path}/mean" }}')


# -- missing and damaged databases -------------------------------------------------------------------------------------


def test_says_what_is_wrong_with_a_database(database, tmp_path, monkeypatch):
    with pytest.raises(LayerError, match=r"layer 'd' \(Data\): data_param.source '.*/nowhere': no such database"):
        data_net(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayerError, match=r"empty/data.mdb: cannot be read: No such file"):
        data_net(tmp_path / "empty")
    with pytest.raises(LayerError, match="write `backend: LMDB`, LEVELDB is the default"):
        net_of("Data", f'data_param {{ source: "{database}" batch_size: 2 }}')
    with pytest.raises(LayerError, match=r"LevelDB is not supported.*convert_imageset"):
        net_of("Data", f'data_param {{ source: "{tmp_path}/empty" batch_size: 2 backend: LEVELDB }}')
    with pytest.raises(LayerError, match=r"data_param.source, actual none"):
        net_of("Data", "data_param { backend: LMDB batch_size: 2 }")
    (tmp_path / "text").write_text("no database\n" * 1000)
    with pytest.raises(LayerError, match="text: damaged, or no LMDB: no head of an LMDB"):
        data_net(tmp_path / "text")
    with pytest.raises(LayerError, match="an LMDB without records"):
        data_net(write(tmp_path / "none", []))
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(CaffeliteError, match="needs the Python package lmdb: pip install lmdb"):
        write(tmp_path / "new", [])
    data_net(database).forward()  # reading needs none


def test_a_file_cut_off_does_not_end_the_process(tmp_path):
    path = write(tmp_path / "large", [array_to_datum(np.zeros((3, 64, 64), np.uint8), 0)] * 20)
    os.truncate(path / "data.mdb", 4096 * 5)
    with pytest.raises(LayerError, match=r"data.mdb: 20480 bytes of .*cut off"):
        data_net(path)


def test_one_database_for_several_nets(database):
    nets = [data_net(database, batch=b) for b in (1, 2)]
    np.testing.assert_array_equal(nets[0].forward()["data"], IMAGES[:1])
    np.testing.assert_array_equal(nets[1].forward()["data"], IMAGES[:2])
    del nets
    gc.collect()
    shutil.rmtree(database)
    write(database, [array_to_datum(255 - IMAGES[0], 0)])  # another one of that name
    np.testing.assert_array_equal(data_net(database, batch=1).forward()["data"], 255 - IMAGES[:1])


GOOD = array_to_datum(IMAGES[0], 1)


@pytest.mark.parametrize(
    ("datum", "message"),
    [
        (b"\x0a\xff\xff\xff\xff\x0f", "6 bytes that are no Datum"),
        (b"", "shape"),
        (proto.message("Datum")(channels=3, height=60000, width=60000, data=b"x"), "1 values do not fill"),
        (proto.message("Datum")(channels=-3, height=-1, width=1, data=b"xxx"), "do not fill"),
        (proto.message("Datum")(channels=1, height=1, width=2, float_data=[1]), "do not fill"),
        (proto.message("Datum")(encoded=True, data=b"\x89PNG"), "no image"),
        (proto.message("Datum")(encoded=True), "no bytes"),
    ],
)
def test_damaged_records_are_named(tmp_path, datum, message):
    path = write(tmp_path / "damaged", [GOOD, datum])
    net = data_net(path, batch=1)
    net.forward()
    with pytest.raises(LayerError, match=rf"layer 'd' .*damaged: record '00000001': .*{message}") as caught:
        net.forward()
    assert isinstance(caught.value.__cause__, FileFormatError)
    np.testing.assert_array_equal(net.forward()["data"], IMAGES[:1])  # the others can still be read


def test_mutated_records_only_raise_errors_of_the_project(tmp_path):
    generator = np.random.default_rng(5)
    picture = cv2.imencode(".jpg", IMAGES[0].transpose(1, 2, 0))[1].tobytes()
    originals = [GOOD, array_to_datum(IMAGES[0] / 2, 1), proto.message("Datum")(data=picture, encoded=True)]
    mutated = []
    for k in range(300):
        record = bytearray(originals[k % 3].SerializeToString())
        for _ in range(generator.integers(1, 4)):
            record[generator.integers(min(len(record), 40))] = generator.integers(256)
        mutated.append(bytes(record[: generator.integers(1, len(record) + 1)] if k % 5 == 0 else record))
    net = data_net(write(tmp_path / "mutated", [GOOD, *mutated]), batch=1)
    outcomes = []
    for _ in range(301):
        try:
            assert net.forward()["data"].size < 10**7
            outcomes.append(True)
        except CaffeliteError:
            outcomes.append(False)
    assert 10 < sum(outcomes) < 290


# -- ImageData ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Five PNGs and a list of them."""
    for i, image in enumerate(IMAGES):
        cv2.imwrite(str(tmp_path / f"image {i}.png"), image.transpose(1, 2, 0))
    (tmp_path / "list.txt").write_text("".join(f"image {i}.png\t{label}\n\n" for i, label in enumerate(LABELS)))
    return tmp_path


def image_net(folder, more="", options="", **kwargs):
    param = f'image_data_param {{ source: "{folder}/list.txt" root_folder: "{folder}/" {more} }} {options}'
    return net_of("ImageData", param, **kwargs)


def test_images_of_a_list(pictures):
    net = image_net(pictures, "batch_size: 2")
    np.testing.assert_array_equal(np.concatenate(batches(net, 3)), IMAGES[[0, 1, 2, 3, 4, 0]])
    assert image_net(pictures).forward()["label"].tolist() == [3]
    resized = image_net(pictures, "new_height: 3 new_width: 5").forward()["data"][0]
    np.testing.assert_array_equal(resized.transpose(1, 2, 0), cv2.resize(IMAGES[0].transpose(1, 2, 0), (5, 3)))
    gray = image_net(pictures, "is_color: false new_height: 3 new_width: 5").forward()["data"]
    assert gray.shape == (1, 1, 3, 5)


def test_shuffled_images(pictures):
    labels = np.concatenate(batches(image_net(pictures, "shuffle: true batch_size: 3"), 10, "label")).reshape(6, 5)
    assert all(sorted(epoch) == sorted(LABELS) for epoch in labels.tolist())
    assert len({tuple(epoch) for epoch in labels.tolist()}) > 3
    again = np.concatenate(batches(image_net(pictures, "shuffle: true batch_size: 3"), 10, "label")).reshape(6, 5)
    np.testing.assert_array_equal(labels, again)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list of images is empty"),
        ("image 0.png\n", r"list.txt:1: expected a name and a label, actual 'image 0.png"),
        ("3\n", r"list.txt:1: expected a name"),
        ("missing.png 1\n", r"missing.png: cannot be read: No such file"),
        ("../x.png 1\n", r"list.txt:1: '../x.png' leads out of the root folder"),
        ("/a/../../x.png 1\n", r"list.txt:1: '/a/../../x.png' leads out of the root folder"),
        ("list.txt 1\n", r"list.txt: \d+ bytes that are no image"),
    ],
)
def test_lists_with_faults(pictures, text, message):
    (pictures / "list.txt").write_text(text)
    with pytest.raises(LayerError, match=f"layer 'd' .*{message}"):
        image_net(pictures)


def test_without_a_root_a_list_names_any_file(pictures):
    (pictures / "list.txt").write_text(f"{pictures}/sub/../image 1.png 4\n")
    (pictures / "sub").mkdir()
    net = net_of("ImageData", f'image_data_param {{ source: "{pictures}/list.txt" }}')
    assert net.forward()["label"].tolist() == [4]


def test_one_of_two_sizes(pictures):
    with pytest.raises(LayerError, match="new_height and new_width, or neither"):
        image_net(pictures, "new_height: 3")
