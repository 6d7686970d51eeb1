"""Class counts compared and fitted; where files lie; detections in files."""

import os

import pytest

from caffelite import proto
from caffelite.errors import CaffeliteError, WeightsError
from detection.errors import ConfigError
from detection.fast_rcnn.classes import check_classes, fit_classes, num_classes, stated_classes
from detection.fast_rcnn.files import (
    class_names,
    make_writable,
    newest_model,
    read_solver,
    refuse_other_classes,
    write_class_names,
)

NET = """
layer { name: "data" type: "Python" top: "data" top: "rois"
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 4" } }
layer { name: "cls_score" type: "InnerProduct" bottom: "data" top: "s" inner_product_param { num_output: 4 } }
layer { name: "bbox_pred" type: "%s" bottom: "data" top: "b" %s { num_output: 16 } }
"""
CLASSES = ("__background__", "cat", "dog")


@pytest.fixture(params=[("InnerProduct", "inner_product_param"), ("Convolution", "convolution_param")])
def net(request):
    return proto.parse_text(NET % request.param, "NetParameter", "net.prototxt")


def test_all_places_are_named(net):
    with pytest.raises(ConfigError) as e:
        check_classes(net, CLASSES, "train.prototxt")
    text = str(e.value)
    assert text.startswith("train.prototxt: the data set has 3 classes with the background (__background__, cat, dog)")
    for place in (
        "num_classes of layer 'data': 4",
        "num_output of 'cls_score': 4",
        "num_output / 4 of 'bbox_pred': 4",
        "--fit-classes",
    ):
        assert place in text


def test_one_wrong_place_is_enough(net):
    net.layer[2].inner_product_param.num_output = 12
    net.layer[2].convolution_param.num_output = 12
    with pytest.raises(ConfigError, match="'bbox_pred': 3"):
        check_classes(net, ["__background__", *"abc"], "train.prototxt")


def test_fitting(net):
    fit_classes(net, 3)
    assert set(stated_classes(net).values()) == {3}
    check_classes(net, CLASSES, "train.prototxt")
    assert num_classes(net, "train.prototxt") == 3


def test_a_count_that_is_no_number(net):
    net.layer[0].python_param.param_str = "'num_classes': two"
    with pytest.raises(ConfigError, match="layer 'data': two; num_output of 'cls_score': 4;"):
        check_classes(net, CLASSES, "train.prototxt")
    with pytest.raises(ConfigError, match=r"net\.prototxt: .*'data': expected a number, actual 'two'"):
        num_classes(net, "net.prototxt")


def test_a_net_that_says_nothing():
    net = proto.parse_text('layer { name: "r" type: "ReLU" }', "NetParameter", "net.prototxt")
    check_classes(net, CLASSES, "net.prototxt")
    with pytest.raises(ConfigError, match=r"net\.prototxt: expected a layer cls_score"):
        num_classes(net, "net.prototxt")


@pytest.mark.parametrize(
    "prefix, output, expected",
    [
        ('snapshot_prefix: "out/net"', None, "out/net"),
        ('snapshot_prefix: "out/net"', "elsewhere", "elsewhere/net"),
        ('snapshot_prefix: "net"', None, "output/default/shapes/net"),
        ('snapshot_prefix: "out/"', None, "out/solver"),
        ('snapshot_prefix: "net"', "elsewhere", "elsewhere/net_infix"),
    ],
)
def test_where_snapshots_go(tmp_path, default_cfg, prefix, output, expected):
    default_cfg.TRAIN.SNAPSHOT_INFIX = "infix" if expected.endswith("infix") else ""
    file = tmp_path / "solver.prototxt"
    file.write_text(f'net: "net.prototxt" {prefix}')
    assert read_solver(str(file), "shapes", output).snapshot_prefix == os.path.join(*expected.split("/"))


def test_missing_solver(tmp_path):
    with pytest.raises(CaffeliteError, match=r"--solver .*none\.prototxt: no such file"):
        read_solver(str(tmp_path / "none.prototxt"), "shapes")


@pytest.mark.parametrize("prefix, folder", [("models/net", "models"), ("net", "output/default/shapes")])
def test_newest_model(tmp_path, default_cfg, monkeypatch, prefix, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "solver.prototxt").write_text(f'net: "net.prototxt" snapshot_prefix: "{prefix}"')
    (tmp_path / "test.prototxt").write_text("")
    with pytest.raises(WeightsError, match=r"no trained model net_iter_\*.*tools/train_net\.py --solver"):
        newest_model("test.prototxt")
    os.makedirs(folder)
    for age, name in enumerate(("net_iter_20_svd", "net_iter_20", "net_x_iter_10", "other_iter_30", "net_iter_5")):
        path = tmp_path / folder / f"{name}.caffemodel"
        path.write_text("")
        os.utime(path, (1000 - age, 1000 - age))
    assert newest_model("test.prototxt").name == "net_iter_20.caffemodel"
    os.utime(tmp_path / folder / "net_x_iter_10.caffemodel", (2000, 2000))
    assert newest_model("test.prototxt").name == "net_x_iter_10.caffemodel"


def test_no_solver_beside_the_test_net(tmp_path):
    with pytest.raises(WeightsError, match=r"--def .*test\.prototxt: no such file$"):
        newest_model(str(tmp_path / "test.prototxt"))
    with pytest.raises(
        WeightsError, match="--def here/x: no such file; the default job runs from the repository's root"
    ):
        newest_model("here/x")
    (tmp_path / "test.prototxt").write_text("")
    with pytest.raises(WeightsError, match="no --net is given"):
        newest_model(str(tmp_path / "test.prototxt"))


def test_a_training_does_not_take_the_folder_of_other_classes(tmp_path):
    refuse_other_classes(str(tmp_path / "net"), ["__background__", "cat"])
    for name in ("net_iter_3.caffemodel", "net_iter_6.caffemodel"):
        (tmp_path / name).write_bytes(b"")
        refuse_other_classes(str(tmp_path / "net"), ["__background__", "cat"])
    write_class_names(tmp_path / "net_iter_6.caffemodel", ["__background__", "cat", "dog"])
    with pytest.raises(
        CaffeliteError, match=r"holds models of the classes cat, dog, and this training is of cat: .*--output"
    ):
        refuse_other_classes(str(tmp_path / "net"), ["__background__", "cat"])
    refuse_other_classes(str(tmp_path / "another"), ["__background__", "cat"])


def test_the_newest_model_of_so_many_classes(tmp_path, default_cfg, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "solver.prototxt").write_text('snapshot_prefix: "net"')
    (tmp_path / "test.prototxt").write_text("")
    for n, (folder, classes) in enumerate({"a": 3, "b": 4}.items()):
        model = tmp_path / "output" / default_cfg.EXP_DIR / folder / "net_iter_9.caffemodel"
        model.parent.mkdir(parents=True)
        model.write_bytes(b"")
        os.utime(model, (n, n))
        write_class_names(model, list("abcd"[:classes]))
    assert newest_model("test.prototxt").parent.name == "b"
    assert newest_model("test.prototxt", lambda names: len(names) == 3).parent.name == "a"
    assert newest_model("test.prototxt", lambda names: len(names) == 7).parent.name == "b"


def test_class_names(tmp_path):
    (tmp_path / "an_iter_ation").mkdir()
    tmp_path = tmp_path / "an_iter_ation"
    model = tmp_path / "net_iter_10.caffemodel"
    assert class_names(model, 3) == ["__background__", "class 1", "class 2"]
    assert class_names(model, 21)[15] == "person"
    write_class_names(model, CLASSES)
    assert class_names(tmp_path / "net_iter_20.caffemodel", 3) == list(CLASSES)


def test_a_folder_that_cannot_be_written(tmp_path):
    make_writable(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(CaffeliteError, match="file: nothing can be written to this folder: File exists"):
        make_writable(tmp_path / "file")
