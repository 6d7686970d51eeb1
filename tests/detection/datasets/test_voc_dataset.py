"""Reading folders in VOC layout."""

import shutil

import cv2
import numpy as np
import pytest

from detection.datasets.voc import VocDataset
from detection.errors import DatasetError

IMAGES = {
    "b": [("dog", (1, 1, 60, 40), False), ("cat", (11, 6, 30, 25), True)],
    "a": [],
    "c": [("cat", (2, 3, 4, 5), False)],
}


def test_ground_truth(voc_folder):
    dataset = VocDataset(voc_folder(IMAGES), "all")
    assert dataset.name == "voc_all" and dataset.year == 2007
    assert dataset.classes == ("__background__", "cat", "dog")
    assert dataset.image_index == ["b", "a", "c"] and len(dataset) == 3
    first, empty, last = dataset.gt_roidb()
    np.testing.assert_array_equal(first["boxes"], [(0, 0, 59, 39), (10, 5, 29, 24)])
    np.testing.assert_array_equal(first["gt_classes"], [2, 1])
    np.testing.assert_array_equal(first["difficult"], [False, True])
    assert (first["width"], first["height"]) == (60, 40)
    assert empty["boxes"].shape == (0, 4) and empty["gt_classes"].shape == empty["difficult"].shape == (0,)
    np.testing.assert_array_equal(last["boxes"], [(1, 2, 3, 4)])
    assert first["boxes"].dtype == np.float32 and first["gt_classes"].dtype == np.int32


def test_classes_may_be_named(voc_folder):
    folder = voc_folder(IMAGES)
    for classes in (["dog", "cat"], ["__background__", "dog", "cat"]):
        dataset = VocDataset(folder, "all", classes)
        assert dataset.classes == ("__background__", "dog", "cat")
        np.testing.assert_array_equal(dataset.gt_roidb()[0]["gt_classes"], [1, 2])
    with pytest.raises(DatasetError, match=r"b\.xml: object 1 \(dog\): expected one of the classes cat\n"):
        VocDataset(folder, "all", ["cat"]).gt_roidb()
    with pytest.raises(DatasetError, match="named twice: cat, cat"):
        VocDataset(folder, "all", ["cat", "cat"])


def test_image_sets_of_a_folder_number_classes_alike(voc_folder):
    folder = voc_folder(IMAGES)
    voc_folder({"c": IMAGES["c"]}, image_set="some")
    assert VocDataset(folder, "some").classes == VocDataset(folder, "all").classes


def test_clipped_boxes_are_counted_once(voc_folder, caplog):
    dataset = VocDataset(voc_folder({"a": [("cat", (0, 1, 9, 9), 0), ("cat", (5, 0, 9, 9), 0)]}), "all")
    for _ in range(2):
        np.testing.assert_array_equal(dataset.gt_roidb()[0]["boxes"], [(0, 0, 8, 8), (4, 0, 8, 8)])
    (record,) = caplog.records
    assert "box clipped: 2, the first" in record.getMessage() and "object 1 (cat)" in record.getMessage()


def test_folders_and_image_sets_that_are_not_there(voc_folder, tmp_path):
    with pytest.raises(DatasetError, match="JPEGImages, Annotations and ImageSets"):
        VocDataset(tmp_path / "none", "all")
    folder = voc_folder(IMAGES)
    with pytest.raises(DatasetError, match=r"trian\.txt: there is no such image set; those of this data set: all"):
        VocDataset(folder, "trian")
    (folder / "ImageSets" / "Main" / "all.txt").rename(folder / "all.txt")
    with pytest.raises(DatasetError, match=r"all\.txt: there is no such image set; write one: a text, in each line"):
        VocDataset(folder, "all")
    (folder / "all.txt").rename(folder / "ImageSets" / "Main" / "all.txt")
    for line, hint in (
        ("a.jpg", "write image names without the ending"),
        ("a -1", "a list of the images of one class"),
    ):
        (folder / "ImageSets" / "Main" / "typo.txt").write_text(f"a\n{line}")
        with pytest.raises(DatasetError, match=rf"missing; {hint}.*\n.*check_dataset\.py lists all"):
            VocDataset(folder, "typo", ["cat"]).gt_roidb()
    shutil.rmtree(folder / "JPEGImages")
    with pytest.raises(DatasetError, match="JPEGImages: expected the folder"):
        VocDataset(folder, "all").gt_roidb()


@pytest.mark.parametrize(
    "text, message",
    [("", "names no images"), ("\n \n", "names no images"), ("a\nb\na\n", r"more than once: a \(2 times\)")],
)
def test_faulty_image_sets(voc_folder, text, message):
    folder = voc_folder(IMAGES)
    (folder / "ImageSets/Main/all.txt").write_text(text)
    with pytest.raises(DatasetError, match=message):
        VocDataset(folder, "all")


def test_image_set_with_windows_lines_and_mark(voc_folder):
    folder = voc_folder(IMAGES)
    (folder / "ImageSets/Main/all.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert VocDataset(folder, "all").image_index == ["a", "b"]
    (folder / "ImageSets/Main/all.txt").write_bytes(b"\xff\xfea\x00")
    with pytest.raises(DatasetError, match="cannot be read as text"):
        VocDataset(folder, "all")


def test_missing_and_ambiguous_images(voc_folder):
    folder = voc_folder(IMAGES)
    dataset = VocDataset(folder, "all")
    (folder / "JPEGImages/a.png").rename(folder / "JPEGImages/A.txt")
    with pytest.raises(DatasetError, match=r"a\.jpg: image 2 of all\.txt is missing"):
        dataset.gt_roidb()
    cv2.imwrite(str(folder / "JPEGImages/b.jpg"), np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"image b is there more than once: b\.jpg, b\.png"):
        VocDataset(folder, "all").image_path(0)
    (folder / "ImageSets/Main/all.txt").write_text("c.png\n")
    with pytest.raises(DatasetError, match="without the ending"):
        VocDataset(folder, "all").image_path(0)


def test_missing_annotation(voc_folder):
    folder = voc_folder(IMAGES)
    (folder / "Annotations/c.xml").unlink()
    with pytest.raises(DatasetError, match=r"c\.xml: expected an annotation here"):
        VocDataset(folder, "all").gt_roidb()


def test_annotations_without_classes(voc_folder):
    with pytest.raises(DatasetError, match="no annotation names a class"):
        VocDataset(voc_folder({"a": []}), "all")


def test_real_photographs(shared):
    dataset = VocDataset(shared / "real/images/VOC2012_100", "all")
    roidb = dataset.gt_roidb()
    assert len(roidb) == 100 and len(dataset.classes) == 21
    assert sum(len(entry["boxes"]) for entry in roidb) == 273
    first = dataset.image_index.index("2007_000033")
    np.testing.assert_array_equal(roidb[first]["boxes"][0], [8, 106, 498, 262])
    assert (roidb[first]["width"], roidb[first]["height"]) == (500, 366)
    for image_set, images in (("trainval", 160), ("test", 40)):
        raccoons = VocDataset(shared / "real/images/raccoon", image_set)
        assert len(raccoons.gt_roidb()) == images and raccoons.classes == ("__background__", "raccoon")
