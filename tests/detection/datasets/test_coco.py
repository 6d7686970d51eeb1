"""Data sets in COCO's format."""

import logging

import numpy as np
import pytest

from detection import datasets
from detection.datasets.check import check, summary
from detection.datasets.coco import CocoDataset
from detection.errors import DatasetError
from tests.detection.datasets.coco_files import CATEGORIES, write_coco

DOG, LIGHT = {"image_id": 10, "category_id": 18}, {"image_id": 9, "category_id": 3}


def read(file):
    return CocoDataset(file, file.parent / "images")


def test_ground_truth(tmp_path):
    objects = [
        {**DOG, "bbox": [1.5, 2, 10, 5.5], "area": 31.0},
        {**LIGHT, "bbox": [0, 0, 60, 40], "area": 2000},
        {**LIGHT, "bbox": [4, 4, 0.5, 3]},
    ]
    dataset = read(write_coco(tmp_path, objects))
    assert dataset.classes == ("__background__", "dog", "traffic light")
    assert dataset.category_of_class == {1: 18, 2: 3}
    assert dataset.name == "instances_some" and dataset.image_set == "some" and dataset.year == 2014
    assert dataset.image_ids == [9, 10] and dataset.image_index == ["1", "0"], "by id, not as listed"
    first, second = dataset.gt_roidb()
    np.testing.assert_allclose(first["boxes"], [(0, 0, 59, 39), (4, 4, 4, 6)])
    np.testing.assert_allclose(second["boxes"], [(1.5, 2, 10.5, 6.5)])
    assert first["gt_classes"].tolist() == [2, 2] and second["gt_classes"].tolist() == [1]
    assert (first["width"], first["height"]) == (60, 40) == dataset.image_size(0)
    assert dataset.objects(0).areas.tolist() == [2000, 1.5], "the stated area, else the box's"


def test_crowds_stand_apart_and_degenerate_boxes_are_counted(tmp_path, caplog):
    objects = [
        {**DOG, "bbox": [5, 5, 20, 20], "iscrowd": 1},
        {**DOG, "bbox": [5, 5, 0, 20]},
        {**DOG, "bbox": [60, 5, 3, 3]},
        {**DOG, "bbox": [5, 5, 4, 4], "area": 0},
        {**DOG, "bbox": [-1, 30, 10, 12]},
    ]
    dataset = read(write_coco(tmp_path, objects))
    with caplog.at_level(logging.INFO):
        entry = dataset.gt_roidb()[1]
    assert entry["boxes"].tolist() == [[0, 30, 9, 39]]
    assert entry["crowd_boxes"].tolist() == [[5, 5, 24, 24]] and entry["crowd_classes"].tolist() == [1]
    text = caplog.text
    assert "degenerate box: 3, the first" in text and "annotation 2 (dog)" in text
    assert "box clipped: 1, the first" in text and "by 2.00 pixels" in text and "1 crowds" in text
    assert "crowds, which are no examples: 1" in summary(dataset)
    assert dataset.objects(1).crowd.tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    "one, message",
    [
        ({"bbox": [1, 2, 3]}, "annotation 1: expected bbox as four numbers, found .1, 2, 3"),
        ({"bbox": [1, 2, 3, float("nan")]}, "four numbers"),
        ({"bbox": [1, 2, 3, 10**400]}, "four numbers"),
        ({"bbox": [1, 2, 3, -1e13]}, "four numbers"),
        ({"bbox": None}, "four numbers"),
        ({"bbox": [1, 2, 3, True]}, "four numbers"),
        ({"bbox": [1, 2, 3, 4], "category_id": 5}, "category_id 5 is none of"),
        ({"bbox": [1, 2, 3, 4], "category_id": [18]}, "category_id .18. is none of"),
        ({"bbox": [1, 2, 3, 4], "iscrowd": "no"}, "iscrowd is 'no'"),
        ({"bbox": [1, 2, 3, 4], "area": "big"}, "expected area as a number"),
    ],
)
def test_faulty_annotations(tmp_path, one, message):
    dataset = read(write_coco(tmp_path, [DOG | one]))
    for read_objects in (dataset.gt_roidb, lambda: dataset.objects(1)):
        with pytest.raises(DatasetError, match=rf"instances_some\.json: image 10, .*{message}"):
            read_objects()
    assert [finding.is_error for finding in check(dataset)] == [False, True]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": 3}, "expected a list of objects 'images', found 3"),
        ({"images": []}, "has no images"),
        ({"images": [{"id": 1, "width": 6, "height": 0, "file_name": "0.png"}]}, "has the size 6 x 0"),
        ({"images": [{"id": 1, "width": 10**400, "height": 4, "file_name": "0.png"}]}, "has the size 10000"),
        ({"images": [{"id": "1", "width": 6, "height": 4, "file_name": "0.png"}]}, "image 1: expected whole numbers"),
        (
            {"images": [{"id": 1, "width": 6, "height": 4, "file_name": "../0.png"}]},
            "expected a file_name in the folder",
        ),
        ({"images": [{"id": 1, "width": 6, "height": 4, "file_name": "/etc/0"}]}, "expected a file_name in the folder"),
        ({"images": [{"id": 1, "width": 6, "height": 4, "file_name": "0.png"}] * 2}, "share their id with another"),
        ({"categories": []}, "has no categories"),
        ({"categories": [{"id": 1}]}, "category 1: expected id and name"),
        ({"categories": [*CATEGORIES, CATEGORIES[0]]}, "category 3: id 18 or name 'dog' is taken"),
        ({"annotations": [{"image_id": 11}]}, "annotation 1: image_id 11 is none of the file's images"),
        ({"annotations": [{"image_id": [9]}]}, "image_id .9. is none"),
    ],
)
def test_faulty_files(tmp_path, changes, message):
    with pytest.raises(DatasetError, match=rf"instances_some\.json: .*{message}"):
        read(write_coco(tmp_path, **{"annotations": [], **changes}))


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100000, b"\xff\xfe{}", b"[]", b'{"images": ' + b"9" * 5000 + b"}"])
def test_what_is_no_json(tmp_path, text):
    file = tmp_path / "a.json"
    file.write_bytes(text)
    with pytest.raises(DatasetError, match=r"a\.json: (cannot be read as JSON|expected an object)"):
        read(file)


def test_images_that_are_missing_or_of_another_size(tmp_path):
    file = write_coco(tmp_path, [{**DOG, "bbox": [1, 2, 3, 4]}])
    (tmp_path / "images" / "1.png").unlink()
    with pytest.raises(DatasetError, match=r"images/1\.png: image 9 of .*some\.json is missing"):
        read(file).gt_roidb()
    with pytest.raises(DatasetError, match=r"xxx: image 10 of .* is missing"):
        read(write_coco(tmp_path, [], images=[{"id": 10, "width": 9, "height": 9, "file_name": "x" * 999}])).gt_roidb()
    sizes = [{"id": 10, "width": 40, "height": 60, "file_name": "0.png"}]
    with pytest.raises(DatasetError, match="says width 40 height 60, the image has 60 x 40"):
        read(write_coco(tmp_path, [], images=sizes)).gt_roidb()


def test_names(tmp_path):
    place = tmp_path / "coco"
    (place / "annotations").mkdir(parents=True)
    file = write_coco(tmp_path / "a", [{**DOG, "bbox": [1, 2, 3, 4]}])
    with pytest.raises(DatasetError, match=r"expected .*annotations/instances_minival2014\.json"):
        datasets.get("coco_2014_minival", tmp_path)
    file.rename(place / "annotations" / "instances_minival2014.json")
    with pytest.raises(DatasetError, match=r"images in .*coco/val2014 or .*coco/images/val2014"):
        datasets.get("coco_2014_minival", tmp_path)
    (tmp_path / "a" / "images").rename(place / "val2014")
    dataset = datasets.get("coco_2014_minival", tmp_path)
    assert dataset.name == "coco_2014_minival" and dataset.image_set == "minival2014" and len(dataset.gt_roidb()) == 2
    file = write_coco(tmp_path / "b", None)
    dataset = datasets.get(f"{file}:{file.parent / 'images'}")
    assert not dataset.has_annotations and len(dataset) == 2
    with pytest.raises(DatasetError, match="no annotations are there"):
        dataset.gt_roidb()
