"""Detection in one image and in a set against the authors' own code, with a stand-in for the net."""

import json

import cv2
import numpy as np
import pytest

from detection.boxes import nms_groups
from detection.config import cfg
from detection.fast_rcnn.test import class_detections, im_detect
from detection.fast_rcnn.test import test_net as detect_set
from tests.detection.fast_rcnn.test_detect import Values

CASES = ("single_scale", "multi_scale", "three_images_few_rois")


class StandInNet:
    """Answers with recorded outputs, and keeps what it was fed."""

    def __init__(self, answers):
        self.answers = iter(answers)
        self.blobs = {name: Values() for name in ("data", "rois", "cls_prob", "bbox_pred")}

    def launch(self):
        for name, values in zip(("cls_prob", "bbox_pred"), next(self.answers)):
            self.blobs[name].put(values)


@pytest.fixture(params=CASES)
def golden(request, shared, default_cfg):
    folder = shared / "golden/fast_rcnn" / request.param
    config = json.loads((folder / "config.json").read_text())
    cfg.merge({"TEST": config["TEST"]})
    data = np.load(folder / "data.npz")
    images = [cv2.imread(str(folder / "images" / f"{name}.png")) for name in config["images"]]
    return images, config["num_classes"], data


def answer(data, prefix):
    return data[f"{prefix}:cls_prob_of_fed"], data[f"{prefix}:bbox_pred_of_fed"]


def test_one_image(golden):
    images, num_classes, data = golden
    for i, image in enumerate(images):
        net = StandInNet([answer(data, f"test:{i}")])
        scores, boxes = im_detect(net, image, data[f"test:{i}:boxes"])
        assert net.blobs["data"].read().shape == tuple(data[f"test:{i}:data_shape"])
        np.testing.assert_array_equal(net.blobs["rois"].read(), data[f"test:{i}:rois_fed"])
        np.testing.assert_array_equal(scores, data[f"test:{i}:scores"])
        # exp of float32 differs in its last bit between machines
        np.testing.assert_allclose(boxes, data[f"test:{i}:pred_boxes"], rtol=1e-6)
        groups = [class_detections(scores, boxes, c, np.arange(len(boxes))) for c in range(1, num_classes)]
        for c, keep in enumerate(nms_groups(groups, cfg.TEST.NMS), 1):
            # which of two equal detections is kept depends on numpy's version and on the CPU, as in the original
            want = data[f"test:{i}:nms_keep:{c}"]
            np.testing.assert_array_equal(groups[c - 1][keep], groups[c - 1][want])
            alone = [(groups[c - 1] == row).all(axis=1).sum() == 1 for row in groups[c - 1][want]]
            np.testing.assert_array_equal(keep[alone], want[alone])


def test_set(golden):
    images, num_classes, data = golden
    net = StandInNet(answer(data, f"set:{i}") for i in range(len(images)))
    roidb = []
    for i in range(len(images)):
        boxes, gt_classes = data[f"roidb:{i}:boxes"], data[f"gt_classes:{i}"]
        roidb.append({"boxes": boxes, "gt_classes": np.pad(gt_classes, (0, len(boxes) - len(gt_classes)))})
    detections = detect_set(net, images, roidb, num_classes)
    assert [len(of_class) for of_class in detections] == [len(images)] * num_classes
    assert not any(len(dets) for dets in detections[0])
    for i in range(len(images)):
        for c in range(1, num_classes):
            want = data[f"set:{i}:dets:{c}"]
            assert detections[c][i].shape == want.shape, (i, c)
            np.testing.assert_array_equal(detections[c][i], want)
