"""Detection beyond the golden values: both selections, levels, deduplication, and images without proposals."""

import numpy as np
import pytest

from detection.fast_rcnn import test as detection
from detection.fast_rcnn.test import RisingSelection, ThresholdSelection, detect, im_detect, rois_blob, unique_rois


class Values:
    """A blob of a stand-in for a net."""

    def put(self, values, device=None):
        self.values = np.array(values)

    def read(self):
        return self.values


class LinearNet:
    """Scores and deltas that are functions of the RoI alone, so that equal RoIs answer equally."""

    def __init__(self, num_classes=3):
        self.num_classes, self.passes = num_classes, 0
        self.blobs = {name: Values() for name in ("data", "rois", "cls_score", "cls_prob", "bbox_pred")}

    @property
    def rois(self):
        return self.blobs["rois"].values

    def launch(self):
        self.passes += 1
        scores = np.exp(np.sin(self.rois[:, 1:2] + np.arange(self.num_classes)))
        self.blobs["cls_score"].put(-scores)
        self.blobs["cls_prob"].put((scores / scores.sum(axis=1, keepdims=True)).astype(np.float32))
        self.blobs["bbox_pred"].put(np.tile(np.float32([0.1, 0, 0, 0]), (len(self.rois), self.num_classes)))


@pytest.fixture
def image():
    return np.random.RandomState(0).randint(0, 256, (60, 80, 3), np.uint8)


@pytest.fixture
def boxes():
    corners = np.random.RandomState(1).randint(0, 30, (40, 2))
    return np.hstack((corners, corners + 20))


def test_deduplication_saves_work_and_changes_little(image, boxes, default_cfg):
    default_cfg.merge({"TEST": {"SCALES": [60]}})
    net = LinearNet()
    scores, moved = im_detect(net, image, boxes)
    computed = len(net.rois)
    assert computed < len(boxes)
    default_cfg.DEDUP_BOXES = 0
    all_scores, all_moved = im_detect(net, image, boxes)
    assert len(net.rois) == len(boxes)
    assert scores.shape == all_scores.shape == (40, 3) and moved.shape == all_moved.shape == (40, 12)
    # what stands for a box is nearer than a cell of the feature map
    assert np.abs(moved - all_moved).max() <= 16


def test_equal_rois_share_the_first_ones_answer():
    rois = np.float32([[0, 32, 0, 64, 64], [0, 0, 0, 10, 10], [0, 33, 1, 63, 65], [0, 0, 0, 10, 10]])
    index, inverse = unique_rois(rois)
    assert sorted(index) == [0, 1]
    assert index[inverse].tolist() == [0, 1, 0, 1]


def test_every_roi_goes_to_the_level_that_suits_its_size():
    boxes = np.array([[0, 0, 223, 223], [0, 0, 111, 111], [0, 0, 447, 447], [0, 0, 9, 9]])
    rois = rois_blob(boxes, np.array([0.5, 1.0, 2.0]))
    assert rois[:, 0].tolist() == [1, 2, 0, 2]
    np.testing.assert_array_equal(rois[2], [0, 0, 0, 223.5, 223.5])


def test_the_papers_five_levels(default_cfg):
    """An image of 500 x 375: factors 1.28 to 3.2; the sides of squares at which a level gives way to the next one."""
    default_cfg.merge({"TEST": {"SCALES": [480, 576, 688, 864, 1200], "MAX_SIZE": 2000}})
    data, scales = detection.image_blob(np.full((375, 500, 3), 255, np.uint8))
    np.testing.assert_allclose(scales, np.array([480, 576, 688, 864, 1200]) / 375)
    assert data.shape == (5, 3, 1200, 1600)
    assert data[0, :, :480, :640].all() and not data[0, :, 480:].any() and not data[0, :, :, 640:].any()
    # halfway between two areas: side^2 * (s^2 + t^2) / 2 = 224^2
    borders = 224 / np.sqrt((scales[:-1] ** 2 + scales[1:] ** 2) / 2)
    for level, border in enumerate(borders):
        for side, want in ((np.ceil(border), level), (np.floor(border), level + 1)):
            (roi,) = rois_blob(np.array([[3, 5, 3 + side - 1, 5 + side - 1]]), scales)
            assert roi[0] == want
            np.testing.assert_allclose(roi[1:], np.array([3, 5, side + 2, side + 4]) * scales[want], rtol=1e-6)
    _, scales = detection.image_blob(np.zeros((200, 500, 3), np.uint8))
    assert scales[-1] == 2000 / 500  # 1200 / 200 would be too long


def test_deduplication_knows_no_levels(default_cfg):
    """As in the originals: the level is rounded like a coordinate, and so is 0 for all of the paper's five.

    Of the authors' 2888 and 2057 proposals of their demo's images this mixes up 3 and none.
    """
    rois = np.float32([[4, 16, 16, 240, 240], [0, 17, 16, 240, 241], [4, 160, 16, 400, 240]])
    index, inverse = unique_rois(rois)
    assert index[inverse].tolist() == [0, 0, 2]


def test_boxes_are_moved_and_clipped(image, default_cfg):
    default_cfg.merge({"TEST": {"SCALES": [60]}})
    _, moved = im_detect(LinearNet(), image, np.array([[70, 10, 79, 30]]))
    np.testing.assert_allclose(moved[0, :4], [70.9, 10, 79, 30])
    default_cfg.TEST.BBOX_REG = False
    _, same = im_detect(LinearNet(), image, np.array([[70, 10, 79, 30]]))
    np.testing.assert_array_equal(same[0], [70, 10, 79, 30] * 3)


def test_py_faster_rcnn_boxes(image, default_cfg):
    default_cfg.merge({"TEST": {"SCALES": [60]}, "PROFILE": "py-faster-rcnn"})
    _, moved = im_detect(LinearNet(), image, np.array([[60, 10, 69, 30]]))
    # width 10: the centre moves by 1, and x2 = x1 + 10
    np.testing.assert_allclose(moved[0, :4], [61, 10, 71, 31])


def test_svm_scores(image, boxes, default_cfg):
    default_cfg.merge({"TEST": {"SCALES": [60], "SVM": True}})
    scores, _ = im_detect(LinearNet(), image, boxes)
    assert (scores < 0).all()


def test_no_answer_is_overwritten_by_the_next_image(image, boxes, default_cfg):
    """Nets answer with views of their blobs."""
    default_cfg.merge({"TEST": {"SCALES": [60]}, "DEDUP_BOXES": 0})
    net = LinearNet()
    scores, _ = im_detect(net, image, boxes)
    kept = scores.copy()
    net.blobs["cls_prob"].values[:] = 0
    np.testing.assert_array_equal(scores, kept)


def test_detect_suppresses_per_class(image, boxes, default_cfg):
    default_cfg.merge({"TEST": {"SCALES": [60]}})
    dets = detect(LinearNet(), image, boxes)
    assert len(dets) == 3 and len(dets[0]) == 0
    for of_class in dets[1:]:
        assert 0 < len(of_class) < len(boxes)
        assert (np.diff(of_class[:, 4]) <= 0).all()


@pytest.mark.parametrize("profile", ["fast-rcnn", "py-faster-rcnn"])
def test_images_without_proposals(image, boxes, default_cfg, profile):
    default_cfg.merge({"TEST": {"SCALES": [60]}, "PROFILE": profile})
    net = LinearNet()
    found = detection.test_net(net, [image] * 3, [{"boxes": boxes}, {"boxes": boxes[:0]}, {"boxes": boxes}], 3)
    assert net.passes == 2
    assert [len(of_class) for of_class in found] == [3, 3, 3]
    assert len(found[1][0]) and not len(found[1][1])
    np.testing.assert_array_equal(found[1][0], found[1][2])


def scored(scores):
    """Boxes far from each other with these scores of one class."""
    n = len(scores)
    corners = 20.0 * np.arange(n)[:, None].repeat(2, axis=1)
    boxes = np.hstack((corners, corners + 10))
    return np.stack((np.zeros(n), scores), axis=1).astype(np.float32), np.tile(boxes, (1, 2))


def test_the_rising_threshold(default_cfg):
    default_cfg.merge({"TEST": {"MAX_PER_SET": 2, "MAX_PER_CLASS": 3}})
    selection = RisingSelection(2, 2)
    selection.add(*scored([0.1, 0.5, 0.4, 0.3]))  # 0.1 is the fourth best
    assert selection.thresholds[1] == -np.inf
    selection.add(*scored([0.9, 0.8, 0.2]))  # of six scores four stay; the threshold is the least of them
    assert selection.thresholds[1] == np.float32(0.4)
    _, (first, second) = selection.finish()
    np.testing.assert_array_equal(first[:, 4], np.float32([0.5]))
    np.testing.assert_array_equal(second[:, 4], np.float32([0.9, 0.8]))


def test_the_fixed_threshold(default_cfg):
    default_cfg.merge({"TEST": {"MAX_PER_IMAGE": 3}})
    selection = ThresholdSelection(2, 2)
    selection.add(*scored([0.05, 0.06, 0.04]))
    selection.add(*scored([0.9, 0.5, 0.3, 0.3, 0.2]))
    _, (first, second) = selection.finish()
    np.testing.assert_array_equal(first[:, 4], np.float32([0.05, 0.06])[1:])
    np.testing.assert_array_equal(second[:, 4], np.float32([0.9, 0.5, 0.3, 0.3]))  # ties share the last place
