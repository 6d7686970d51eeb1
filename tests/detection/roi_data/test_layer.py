"""The data layer under its original module name, in a net."""

import threading

import cv2
import numpy as np
import pytest

import caffelite as caffe
import detection.roi_data  # noqa: F401
from caffelite.errors import CaffeliteError, LayerError
from detection.roi_data.roidb import add_bbox_targets, make_entry, training_roidb

PROTOTXT = """
layer {
  name: "data" type: "Python" %s
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "%s" }
}
"""
FIVE = ("data", "rois", "labels", "bbox_targets", "bbox_loss_weights")


def net_of(tops=FIVE, param_str="'num_classes': 3"):
    text = PROTOTXT % (" ".join(f'top: "{top}"' for top in tops), param_str)
    return caffe.Net(caffe.proto.parse_text(text, "NetParameter", "net.prototxt"), phase=caffe.TRAIN)


@pytest.fixture
def roidb(tmp_path, default_cfg):
    default_cfg.merge({"TRAIN": {"SCALES": [30, 40], "BATCH_SIZE": 16}})
    random = np.random.RandomState(0)
    entries = []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), random.randint(0, 256, (30 + i, 40, 3), np.uint8))
        gt = np.array([[5, 5, 20, 20]])
        image = {"image": str(path), "width": 40, "height": 30 + i, "boxes": gt, "gt_classes": np.array([1 + i % 2])}
        entries.append(make_entry(image, gt + random.randint(-5, 6, (30, 4))))
    roidb = training_roidb(entries)
    add_bbox_targets(roidb, 3)
    return roidb


def minibatches(net, n):
    found = []
    for _ in range(n):
        net.forward()
        found.append([net.blobs[name].data.copy() for name in net.blobs] + [net.layers[0].last_images])
    return found


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert x[-1] == y[-1]
        for u, v in zip(x[:-1], y[:-1], strict=True):
            np.testing.assert_array_equal(u, v)


def test_prefetching_changes_nothing(roidb, default_cfg):
    found = []
    for default_cfg.TRAIN.USE_PREFETCH in (True, False):
        net = net_of()
        net.layers[0].set_roidb(roidb)
        found.append(minibatches(net, 12))
        net.layers[0].close()
    assert_same(*found)
    images, rois, labels, targets, weights = found[0][0][:-1]
    assert images.shape[:2] == (2, 3)
    assert rois.shape == (len(labels), 5) and targets.shape == weights.shape == (len(labels), 12)


@pytest.mark.parametrize("prefetch", [True, False])
def test_state_continues_after_the_last_minibatch_given_out(roidb, default_cfg, prefetch):
    default_cfg.TRAIN.USE_PREFETCH = prefetch
    net = net_of()
    layer = net.layers[0]
    layer.set_roidb(roidb)
    start = layer.get_state()
    first = minibatches(net, 3)
    state = layer.get_state()
    rest = minibatches(net, 6)
    other = net_of()
    other.layers[0].set_roidb(roidb)
    other.layers[0].set_state(state)
    assert_same(minibatches(other, 6), rest)
    other.layers[0].set_state(start)
    assert_same(minibatches(other, 3), first)
    layer.close()
    other.layers[0].close()


@pytest.mark.parametrize("prefetch", [True, False])
def test_closing_loses_nothing(roidb, default_cfg, prefetch):
    default_cfg.TRAIN.USE_PREFETCH = prefetch
    whole, stopped = net_of(), net_of()
    for net in (whole, stopped):
        net.layers[0].set_roidb(roidb)
    wanted = minibatches(whole, 6)
    found = minibatches(stopped, 2)
    stopped.layers[0].close()
    assert_same(found + minibatches(stopped, 4), wanted)
    whole.layers[0].close()
    stopped.layers[0].close()


def test_threads_end(roidb):
    before = set(threading.enumerate())
    net = net_of()
    net.layers[0].set_roidb(roidb)
    net.forward()
    assert {t.name.split("_")[0] for t in set(threading.enumerate()) - before} == {"prefetch"}
    net.layers[0].close()
    assert not set(threading.enumerate()) - before


def test_an_image_that_is_gone_is_named(roidb):
    net = net_of()
    net.layers[0].set_roidb([{**entry, "image": entry["image"].replace("3.png", "gone.png")} for entry in roidb])
    with pytest.raises(CaffeliteError, match=r"gone\.png"):
        minibatches(net, 20)
    net.layers[0].close()


def test_sixth_top_has_the_outside_weights_of_py_faster_rcnn(roidb):
    net = net_of((*FIVE, "outside"))
    net.layers[0].set_roidb(roidb)
    net.forward()
    np.testing.assert_array_equal(net.blobs["outside"].data, net.blobs["bbox_loss_weights"].data > 0)
    net.layers[0].close()


def test_three_tops_without_box_regression(roidb, default_cfg):
    default_cfg.TRAIN.BBOX_REG = False
    net = net_of(FIVE[:3])
    net.layers[0].set_roidb(roidb)
    net.forward()
    assert len(net.blobs["labels"].data) == len(net.blobs["rois"].data)
    net.layers[0].close()


@pytest.mark.parametrize(
    "tops, param_str, says",
    [
        (FIVE[:3], "'num_classes': 3", "BBOX_REG is True: expected 5 or 6 tops, actual 3"),
        (FIVE, "'classes': 3", "expected param_str"),
        (FIVE, "", "expected param_str"),
        (FIVE, "{", "expected param_str"),
    ],
)
def test_set_up_errors(default_cfg, tops, param_str, says):
    with pytest.raises(LayerError, match=says):
        net_of(tops, param_str)


def test_the_data_layer_of_faster_rcnn_is_told_apart(default_cfg):
    with pytest.raises(LayerError, match="gt_boxes is that of Faster R-CNN's data layer, which is not here yet"):
        net_of(("data", "im_info", "gt_boxes"))


def test_forward_without_a_roidb(default_cfg):
    with pytest.raises(LayerError, match=r"there is no roidb: tools/train_net\.py"):
        net_of().forward()
