"""The roidb: stacking, flipping, targets, and images that cannot be trained on."""

import numpy as np
import pytest

from detection.datasets.coco import CocoDataset
from detection.datasets.voc import VocDataset
from detection.errors import DatasetError
from detection.roi_data.roidb import add_bbox_targets, build_roidb, flip, make_entry, training_roidb
from tests.detection.datasets.coco_files import write_coco


def entry(gt=((10, 10, 29, 29),), classes=(1,), proposals=((12, 10, 31, 29), (25, 25, 60, 60)), width=100):
    image = {"image": "a.png", "width": width, "height": 80}
    image |= {"boxes": np.array(gt, np.uint16).reshape(-1, 4), "gt_classes": np.array(classes)}
    return make_entry(image, np.array(proposals, np.uint16).reshape(-1, 4))


def test_ground_truth_comes_first():
    e = entry()
    np.testing.assert_array_equal(e["boxes"], [[10, 10, 29, 29], [12, 10, 31, 29], [25, 25, 60, 60]])
    np.testing.assert_array_equal(e["gt_classes"], [1, 0, 0])
    np.testing.assert_array_equal(e["max_overlaps"], np.float32([1, 360 / 440, 25 / (400 + 36 * 36 - 25)]))
    np.testing.assert_array_equal(e["max_classes"], [1, 1, 1])
    assert e["max_overlaps"].dtype == np.float32


def test_a_proposal_that_overlaps_nothing_is_background_of_class_0():
    e = entry(proposals=[(60, 60, 70, 70)], classes=[3])
    assert (e["max_overlaps"][1], e["max_classes"][1]) == (0, 0)


def test_of_equal_overlaps_the_first_object_wins():
    e = entry(gt=[(0, 0, 9, 9), (10, 0, 19, 9)], classes=[2, 1], proposals=[(5, 0, 14, 9)])
    assert e["max_classes"][2] == 2


@pytest.mark.parametrize("gt, proposals", [((), ((0, 0, 5, 5),)), (((0, 0, 5, 5),), ()), ((), ())])
def test_no_objects_or_no_proposals(gt, proposals):
    e = entry(gt, [1] * len(gt), proposals)
    assert len(e["boxes"]) == len(e["max_overlaps"]) == len(e["max_classes"]) == len(gt) + len(proposals)


def test_flipping_is_its_own_inverse_and_counts_pixels_from_0():
    e = entry()
    mirrored = flip(e)
    np.testing.assert_array_equal(mirrored["boxes"][0], [70, 10, 89, 29])
    assert mirrored["flipped"]
    np.testing.assert_array_equal(flip(mirrored)["boxes"], e["boxes"])


@pytest.mark.parametrize("box", [(90, 10, 100, 20), (95, 10, 120, 20)])
def test_a_box_outside_the_image_is_named(box):
    with pytest.raises(DatasetError, match=rf"a\.png.*\[{box[0]}, 10, {box[2]}, 20\].*100 pixels"):
        flip(entry(proposals=[box]))


def test_mirror_images_follow_all_originals(default_cfg):
    entries = [entry(), entry(classes=(2,))]
    roidb = training_roidb(entries)
    assert [e["flipped"] for e in roidb] == [False, False, True, True]
    assert [e["max_classes"][0] for e in roidb] == [1, 2, 1, 2]
    default_cfg.TRAIN.USE_FLIPPED = False
    assert len(training_roidb(entries)) == 2


def test_unusable_images_are_dropped_and_counted(default_cfg, caplog):
    nothing = entry(gt=(), classes=(), proposals=[(0, 0, 5, 5)])
    only_foreground = entry(proposals=())
    only_background = entry()
    only_background["max_overlaps"] = np.float32([0.2, 0.3, 0.0])
    roidb = training_roidb([nothing, entry(proposals=[(14, 14, 40, 40)]), only_foreground, only_background])
    assert len(roidb) == 2 * 3
    (record,) = caplog.records
    assert "of 4 images 1 are dropped" in record.message
    assert "1 have background only, 1 foreground only" in record.message


def test_rois_that_are_no_examples_are_left_out(default_cfg):
    e = entry()
    e["max_overlaps"][2] = 0.05
    (kept, _) = training_roidb([e])
    np.testing.assert_array_equal(kept["boxes"], e["boxes"][:2])
    assert [len(kept[key]) for key in ("gt_classes", "max_overlaps", "max_classes")] == [2, 2, 2]
    default_cfg.TRAIN.BG_THRESH_LO = 0.0
    assert len(training_roidb([e])[0]["boxes"]) == 3
    e["max_overlaps"][2] = -1  # in a crowd
    assert len(training_roidb([e])[0]["boxes"]) == 2


def test_nothing_to_train_on(default_cfg):
    with pytest.raises(DatasetError, match="none of 1 images has a RoI"):
        training_roidb([entry(gt=(), classes=(), proposals=[(0, 0, 5, 5)])])


def test_targets_have_mean_0_and_deviation_1_per_class(default_cfg):
    random = np.random.RandomState(0)
    entries = []
    for c in (1, 2) * 5:
        shifts = random.randint(-2, 3, (20, 4))
        entries.append(entry(classes=[c], proposals=np.array([10, 10, 29, 29]) + shifts))
    means, stds = add_bbox_targets(entries, 4)
    targets = np.vstack([e["bbox_targets"] for e in entries])
    for c in (1, 2):
        of_class = targets[targets[:, 0] == c, 1:]
        np.testing.assert_allclose(of_class.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(of_class.std(axis=0), 1, atol=1e-5)
    assert means.shape == stds.shape == (16,)
    # neither the background nor a class that no image has
    np.testing.assert_array_equal(stds.reshape(4, 4)[[0, 3]], 0)
    assert np.isfinite(targets).all()


def test_a_class_with_one_target_value_gives_no_nan(default_cfg):
    e = entry(proposals=())
    _, stds = add_bbox_targets([e], 2)
    np.testing.assert_array_equal(stds, 0)
    np.testing.assert_array_equal(e["bbox_targets"], [[1, 0, 0, 0, 0]])


def test_rois_below_the_threshold_have_no_target(default_cfg):
    e = entry()
    add_bbox_targets([e], 2)
    np.testing.assert_array_equal(e["bbox_targets"][:, 0], [1, 1, 0])
    np.testing.assert_array_equal(e["bbox_targets"][2], 0)


def test_precomputed_normalisation(default_cfg):
    default_cfg.merge({"TRAIN": {"BBOX_NORMALIZE_TARGETS_PRECOMPUTED": True}, "PROFILE": "py-faster-rcnn"})
    e = entry()
    means, stds = add_bbox_targets([e], 3)
    np.testing.assert_array_equal(stds, [0.1, 0.1, 0.2, 0.2] * 3)
    np.testing.assert_array_equal(means, 0)
    np.testing.assert_allclose(e["bbox_targets"][1], [1, -2 / 20 / 0.1, 0, 0, 0], rtol=1e-6)


def test_plain_targets(default_cfg):
    default_cfg.TRAIN.BBOX_NORMALIZE_TARGETS = False
    e = entry()
    means, stds = add_bbox_targets([e], 3)
    assert not means.any() and (stds == 1).all()
    np.testing.assert_allclose(e["bbox_targets"][1], [1, -2 / 19, 0, 0, 0], rtol=1e-6)


def test_difficult_objects_are_used_or_not(voc_folder, default_cfg, caplog):
    objects = [("cat", (1, 1, 20, 20), True), ("dog", (31, 1, 50, 20), False)]
    dataset = VocDataset(voc_folder({"a": objects, "b": objects[:1]}), "all")
    proposals = [np.array([(0, 0, 19, 18), (30, 0, 49, 18)])] * 2
    assert [e["max_classes"].tolist() for e in build_roidb(dataset, proposals)] == [[1, 2, 1, 2], [1, 1, 0]]
    default_cfg.TRAIN.USE_DIFFICULT = False
    with caplog.at_level("INFO"):
        assert [e["max_classes"].tolist() for e in build_roidb(dataset, proposals)] == [[2, 0, 2], [0, 0]]
    assert "voc_all: 2 difficult objects are left out" in caplog.text


def test_proposals_in_a_crowd_are_no_examples(tmp_path):
    crowd = {"image_id": 9, "category_id": 18, "bbox": [0, 0, 20, 20], "iscrowd": 1}
    dog = {"image_id": 9, "category_id": 18, "bbox": [5, 5, 10, 10]}
    file = write_coco(tmp_path, [crowd, dog])
    proposals = np.array([(5, 5, 14, 13), (13, 0, 22, 9), (14, 0, 23, 9), (40, 20, 50, 30)])
    entry, _ = build_roidb(CocoDataset(file, tmp_path / "images"), [proposals, proposals])
    assert entry["max_overlaps"][0] == 1, "an object in a crowd stays one"
    assert entry["max_overlaps"][1] == -1 and entry["gt_classes"].tolist() == [1, 0, 0, 0, 0]
    assert (entry["max_overlaps"][2:] >= 0).all(), "7 tenths in the crowd are not too many"
