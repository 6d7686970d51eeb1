"""The union of data sets."""

import numpy as np
import pytest

from detection.datasets.dataset import UnionDataset
from detection.datasets.voc import VocDataset
from detection.errors import DatasetError


@pytest.fixture
def parts(voc_folder, tmp_path):
    first = voc_folder({"a": [("cat", (1, 1, 10, 10), False)], "b": [("dog", (2, 2, 10, 10), True)]})
    first.rename(tmp_path / "first")
    second = voc_folder({"a": [("dog", (3, 3, 10, 10), False)]}, width=80)
    classes = ["cat", "dog"]
    return [VocDataset(tmp_path / "first", "all", classes, year=2007), VocDataset(second, "all", classes, year=2012)]


def test_images_follow_each_other(parts):
    union = UnionDataset(parts)
    assert len(union) == 3 and union.image_index == ["first_all/a", "b", "voc_all/a"]
    assert union.year == 2012 and union.name == "first_all+voc_all" and union.image_set == "all"
    assert [entry["gt_classes"].tolist() for entry in union.gt_roidb()] == [[1], [2], [2]]
    assert union.image_path(2) == parts[1].image_path(0) and union.image_size(2) == (80, 40)
    assert union.annotation(1)[0].difficult == [True]
    assert UnionDataset([UnionDataset(parts[:1]), parts[1]]).parts == union.parts == tuple(parts)


def test_classes_must_agree(parts, tmp_path):
    other = VocDataset(tmp_path / "first", "all", ["dog", "cat"])
    with pytest.raises(DatasetError, match="classes differ: cat, dog and dog, cat"):
        UnionDataset([parts[1], other])


def test_an_image_in_two_parts(parts):
    with pytest.raises(DatasetError, match=r"2 image\(s\) are in two of the parts, the first: .*first/a"):
        UnionDataset([parts[0], parts[0]])


def test_test_images_whose_annotations_are_secret(parts):
    for path in (parts[1].folder / "Annotations").iterdir():
        path.unlink()
    assert parts[0].has_annotations and not parts[1].has_annotations
    assert not UnionDataset(parts).has_annotations
    with pytest.raises(DatasetError, match="voc_all: no annotations are there for"):
        UnionDataset(parts).gt_roidb()


def test_an_entry_has_crowds(parts):
    entry = parts[0].gt_roidb()[0]
    assert entry["crowd_boxes"].shape == (0, 4) and entry["crowd_classes"].dtype == np.int32
