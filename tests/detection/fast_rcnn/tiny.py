"""A net of a few thousand weights, four images and their RoIs: a training that takes milliseconds."""

import cv2
import numpy as np

from caffelite import proto
from detection.fast_rcnn.train import Trainer
from detection.roi_data.roidb import make_entry

CLASSES = ("__background__", "dark", "bright", "absent")
NET = """
name: "tiny"
layer { name: "data" type: "Python" top: "data" top: "rois" top: "labels" top: "bbox_targets" top: "bbox_loss_weights"
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 4" } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool" type: "ROIPooling" bottom: "conv1" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.5 } }
layer { name: "fc6" type: "InnerProduct" bottom: "pool" top: "fc6"
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6" }
layer { name: "cls_score" type: "InnerProduct" bottom: "fc6" top: "cls_score"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "bbox_pred" type: "InnerProduct" bottom: "fc6" top: "bbox_pred"
  inner_product_param { num_output: 16 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels" top: "loss_cls" loss_weight: 1 }
layer { name: "loss_bbox" type: "SmoothL1Loss" bottom: "bbox_pred" bottom: "bbox_targets" bottom: "bbox_loss_weights"
  top: "loss_bbox" loss_weight: 1 }
"""
OPTIONS = {"TRAIN": {"SCALES": [32], "BATCH_SIZE": 16, "SNAPSHOT_ITERS": 3}}


def make_entries(folder):
    """The roidb entries of the images, which are written to the folder."""
    random = np.random.RandomState(0)
    entries = []
    for i in range(4):
        image = random.randint(100, 140, (32, 48, 3)).astype(np.uint8)
        image[8:20, 10:30] = (30, 220)[i % 2]
        path = folder / f"{i}.png"
        cv2.imwrite(str(path), image)
        gt = np.array([[10, 8, 29, 19]])
        described = {"image": str(path), "width": 48, "height": 32, "boxes": gt, "gt_classes": np.array([1 + i % 2])}
        entries.append(make_entry(described, np.clip(gt + random.randint(-6, 7, (40, 4)), 0, 31)))
    return entries


def solver_param(tmp_path, folder="out", more="", net=NET):
    (tmp_path / "train.prototxt").write_text(net)
    (tmp_path / folder).mkdir(exist_ok=True)
    text = f"""
        train_net: "{tmp_path / "train.prototxt"}" snapshot_prefix: "{tmp_path / folder / "tiny"}"
        base_lr: 1e-5 lr_policy: "step" stepsize: 4 gamma: 0.1 momentum: 0.9 random_seed: 7 {more}
    """
    return proto.parse_text(text, "SolverParameter", "solver.prototxt")


def trainer_of(param, entries, classes=CLASSES, fit=False):
    trainer = Trainer(param, classes, fit)
    trainer.set_data(entries)
    return trainer
