"""Data sets by name."""

import shutil

import pytest

from detection import datasets
from detection.datasets import shapes
from detection.datasets.voc import VOC_CLASSES
from detection.errors import DatasetError

IMAGES = {"a": [("cat", (1, 1, 30, 20), False)], "b": [("dog", (5, 5, 60, 40), True)]}


def test_folder_of_ones_own(voc_folder):
    folder = voc_folder(IMAGES)
    dataset = datasets.get(f"{folder}:all")
    assert dataset.classes == ("__background__", "cat", "dog") and dataset.name == "voc_all"
    assert datasets.get(f"{folder}:all:dog, cat").classes == ("__background__", "dog", "cat")
    for name in (f"{folder}:all:zero-based", f"{folder}:all:cat,dog:zero-based"):
        dataset = datasets.get(name)
        assert dataset.classes == ("__background__", "cat", "dog")
        assert dataset.gt_roidb()[0]["boxes"].tolist() == [[1, 1, 30, 20]]


def test_voc(voc_folder, tmp_path):
    folder = voc_folder({"a": [("cat", (1, 1, 30, 20), False)]}, image_set="trainval")
    for place in ("VOCdevkit2012/VOC2012", "VOCdevkit/VOC2012"):
        shutil.copytree(folder, tmp_path / "data" / place)
        dataset = datasets.get("voc_2012_trainval", tmp_path / "data")
        assert dataset.folder == tmp_path / "data" / place
        assert dataset.name == "voc_2012_trainval" and dataset.year == 2012
        assert dataset.classes[1:] == VOC_CLASSES and len(VOC_CLASSES) == 20
        shutil.rmtree(tmp_path / "data")
    with pytest.raises(DatasetError, match=r"VOCdevkit2012/VOC2012 or .*VOCdevkit/VOC2012"):
        datasets.get("voc_2012_trainval", tmp_path / "data")


def test_shapes(tmp_path):
    with pytest.raises(DatasetError, match="make_shapes"):
        datasets.get("shapes_train", tmp_path)
    shapes.make(tmp_path / "shapes", shapes.ShapesOptions(train=2, test=1))
    assert len(datasets.get("shapes_train", tmp_path)) == 2
    assert datasets.get("shapes_test", tmp_path).classes[1:] == shapes.CLASSES


def test_unions(voc_folder, tmp_path):
    place = tmp_path / "data/VOCdevkit/VOC2007"
    for image_set, images in (("trainval", {"a": [("cat", (1, 1, 30, 20), False)], "b": []}), ("test", {"c": []})):
        shutil.copytree(voc_folder(images, image_set=image_set), place, dirs_exist_ok=True)
    dataset = datasets.get("voc_2007_trainval+voc_2007_test", tmp_path / "data")
    assert dataset.name == "voc_2007_trainval+voc_2007_test" and dataset.image_set == "trainval+test"
    assert dataset.image_index == ["a", "b", "c"] and dataset.classes[1:] == VOC_CLASSES
    whole = datasets.get("voc_2007_trainvaltest", tmp_path / "data")
    assert whole.name == "voc_2007_trainvaltest" and whole.image_index == dataset.image_index
    assert [part.name for part in whole.parts] == ["voc_2007_trainval", "voc_2007_test"]
    own = datasets.get(f"{place}:test:cat+{place}:trainval:cat")
    assert own.image_index == ["c", "a", "b"] and own.name == "VOC2007_test+VOC2007_trainval"
    with pytest.raises(DatasetError, match=r"2 image.s. are in two of the parts, the first: .*VOC2007/a"):
        datasets.get("voc_2007_trainval+voc_2007_trainvaltest", tmp_path / "data")


def test_a_folder_whose_name_has_a_plus(voc_folder, tmp_path):
    voc_folder(IMAGES).rename(tmp_path / "c++")
    assert len(datasets.get(f"{tmp_path}/c++:all")) == 2


@pytest.mark.parametrize("name", ["", "voc", "coco_val", "a+b", "folder", ":all", "folder:"])
def test_other_names(name, tmp_path):
    with pytest.raises(DatasetError, match="not the name of a data set; expected shapes_SET"):
        datasets.get(name, tmp_path)
