"""The roidb: for every image its RoIs, what each overlaps, and its box regression targets (roidb.py of Fast R-CNN).

An entry is a dict: `image` (path), `width`, `height`, `flipped`, `boxes` (R, 4) with the ground truth first,
`gt_classes` (R,) int32, 0 for proposals, `max_overlaps` (R,) float32 and `max_classes` (R,) int32: the best IoU with a
ground-truth box and that box's class (0 where nothing overlaps), `bbox_targets` (R, 5) float32: class, dx, dy, dw, dh.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detection.boxes import bbox_overlaps, encode_boxes, parts_inside
from detection.config import cfg
from detection.errors import DatasetError

logger = logging.getLogger("detection")

CROWD_PART = 0.7
"""A proposal with more of its pixels than this in a crowd is not trained on."""


def build_roidb(dataset, proposals: Sequence[np.ndarray]) -> list[dict[str, Any]]:
    """The roidb of a data set (detection.datasets) with the proposals (P, 4) of every image.

    Without TRAIN.USE_DIFFICULT, difficult objects are no ground truth. A proposal that lies in a crowd to more than
    CROWD_PART is neither foreground nor background (its `max_overlaps` is -1), as in py-faster-rcnn.
    """
    roidb = []
    for i, (gt, boxes) in enumerate(zip(dataset.gt_roidb(), proposals, strict=True)):
        used = ~gt["difficult"] | cfg.TRAIN.USE_DIFFICULT
        image = {"width": gt["width"], "height": gt["height"]}
        image |= {key: gt[key][used] for key in ("boxes", "gt_classes")}
        entry = make_entry({"image": str(dataset.image_path(i)), **image}, boxes)
        if len(gt["crowd_boxes"]):
            in_crowd = parts_inside(entry["boxes"], gt["crowd_boxes"]).max(axis=1) > CROWD_PART
            entry["max_overlaps"][in_crowd & (entry["gt_classes"] == 0)] = -1
        roidb.append(entry)
    if not cfg.TRAIN.USE_DIFFICULT:
        difficult = sum(int(gt["difficult"].sum()) for gt in dataset.gt_roidb())
        logger.info("%s: %d difficult objects are left out", dataset.name, difficult)
    return roidb


def make_entry(image: Mapping[str, Any], proposals: np.ndarray) -> dict[str, Any]:
    """The roidb entry of one image: ground-truth boxes stacked before the proposals (P, 4), with their overlaps.

    `image` has `image`, `width`, `height`, `boxes` (G, 4) and `gt_classes` (G,) of the ground truth.
    """
    gt_boxes = np.asarray(image["boxes"]).reshape(-1, 4)
    gt_classes = np.asarray(image["gt_classes"], np.int32)
    proposals = np.asarray(proposals).reshape(-1, 4)
    max_overlaps = np.ones(len(gt_boxes) + len(proposals), np.float32)
    max_classes = np.zeros(len(max_overlaps), np.int32)
    max_classes[: len(gt_boxes)] = gt_classes
    best, classes = _best_overlaps(proposals, gt_boxes, gt_classes)
    max_overlaps[len(gt_boxes) :] = best
    max_classes[len(gt_boxes) :] = classes
    return {
        **image,
        "boxes": np.vstack((gt_boxes, proposals)) if len(gt_boxes) else proposals.copy(),
        "gt_classes": np.concatenate((gt_classes, np.zeros(len(proposals), np.int32))),
        "max_overlaps": max_overlaps,
        "max_classes": max_classes,
        "flipped": False,
    }


def _best_overlaps(boxes: np.ndarray, gt_boxes: np.ndarray, gt_classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(gt_boxes) or not len(boxes):
        return np.zeros(len(boxes), np.float32), np.zeros(len(boxes), np.int32)
    overlaps = bbox_overlaps(boxes, gt_boxes)
    best = overlaps.max(axis=1)
    return best.astype(np.float32), np.where(best > 0, gt_classes[overlaps.argmax(axis=1)], 0).astype(np.int32)


def flip(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of the mirror image: x1' = width - x2 - 1, x2' = width - x1 - 1. Raises DatasetError."""
    boxes = entry["boxes"].copy()
    boxes[:, 0] = entry["width"] - entry["boxes"][:, 2] - 1
    boxes[:, 2] = entry["width"] - entry["boxes"][:, 0] - 1
    outside = np.flatnonzero((entry["boxes"][:, 2] >= entry["width"]) | (boxes[:, 2] < boxes[:, 0]))
    if len(outside):
        box = entry["boxes"][outside[0]].tolist()
        raise DatasetError(f"{entry['image']}: box {box} does not lie in the image, {entry['width']} pixels wide")
    return {**entry, "boxes": boxes, "flipped": True}


def training_roidb(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The entries that can be trained on and, with TRAIN.USE_FLIPPED, after all of them their mirror images.

    An image none of whose RoIs is foreground or background is dropped; what was dropped is logged. RoIs that are
    neither are left out: no draw can meet them, and the draws depend on the numbers of the others alone. Raises
    DatasetError.
    """
    t = cfg.TRAIN
    kept, no_foreground, no_background = [], 0, 0
    for entry in entries:
        overlaps = entry["max_overlaps"]
        foreground = bool((overlaps >= t.FG_THRESH).any())
        background = bool(((overlaps < t.BG_THRESH_HI) & (overlaps >= t.BG_THRESH_LO)).any())
        no_foreground += background and not foreground
        no_background += foreground and not background
        if foreground or background:
            kept.append(_usable(entry))
    dropped = len(entries) - len(kept)
    if dropped or no_foreground or no_background:
        logger.warning(
            "of %d images %d are dropped (no RoI is foreground or background), %d have background only, "
            "%d foreground only",
            len(entries), dropped, no_foreground, no_background,
        )  # fmt: skip
    if not kept:
        raise DatasetError(
            f"none of {len(entries)} images has a RoI that can be trained on: foreground needs an IoU >= "
            f"{t.FG_THRESH}, background one in [{t.BG_THRESH_LO}, {t.BG_THRESH_HI}); check annotations and proposals"
        )
    return kept + [flip(entry) for entry in kept] if t.USE_FLIPPED else kept


def _usable(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry without the RoIs that are no example of anything: of dense proposals nine in ten."""
    t = cfg.TRAIN
    rows = entry["max_overlaps"] >= min(t.FG_THRESH, t.BG_THRESH_LO, t.BBOX_THRESH)
    return {**entry, **{key: entry[key][rows] for key in ("boxes", "gt_classes", "max_overlaps", "max_classes")}}


def add_bbox_targets(roidb: Sequence[dict[str, Any]], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Give every entry its normalised `bbox_targets`; returns means and stds, each (4 * num_classes,) float64.

    Means and standard deviations are those of every class over the roidb (or TRAIN.BBOX_NORMALIZE_*, if precomputed; or
    0 and 1 without TRAIN.BBOX_NORMALIZE_TARGETS). A class without targets has mean and deviation 0.
    """
    for entry in roidb:
        entry["bbox_targets"] = _compute_targets(entry)
    if not cfg.TRAIN.BBOX_NORMALIZE_TARGETS:
        means, stds = np.zeros((num_classes, 4)), np.ones((num_classes, 4))
    elif cfg.TRAIN.BBOX_NORMALIZE_TARGETS_PRECOMPUTED:
        means = np.tile(cfg.TRAIN.BBOX_NORMALIZE_MEANS, (num_classes, 1))
        stds = np.tile(cfg.TRAIN.BBOX_NORMALIZE_STDS, (num_classes, 1))
    else:
        means, stds = _target_statistics(roidb, num_classes)
    divisors = np.where(stds > 0, stds, 1)
    for entry in roidb:
        targets = entry["bbox_targets"]
        matched = np.flatnonzero(targets[:, 0] > 0)
        classes = targets[matched, 0].astype(int)
        # two steps, each rounded to float32, as the original does
        targets[matched, 1:] -= means[classes]
        targets[matched, 1:] /= divisors[classes]
    return means.ravel(), stds.ravel()


def _compute_targets(entry: Mapping[str, Any]) -> np.ndarray:
    """Class and unnormalised dx, dy, dw, dh of every RoI, (R, 5) float32; zeros where no ground truth is matched."""
    boxes, overlaps = entry["boxes"], entry["max_overlaps"]
    targets = np.zeros((len(boxes), 5), np.float32)
    gt = np.flatnonzero(overlaps == 1)
    matched = np.flatnonzero(overlaps >= cfg.TRAIN.BBOX_THRESH)
    if len(gt) and len(matched):
        assigned = gt[bbox_overlaps(boxes[matched], boxes[gt]).argmax(axis=1)]
        targets[matched, 0] = entry["max_classes"][matched]
        targets[matched, 1:] = encode_boxes(boxes[matched], boxes[assigned], cfg.BOX_WIDTH_OFFSET)
    return targets


def _target_statistics(roidb: Sequence[Mapping[str, Any]], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    counts = np.full((num_classes, 1), cfg.EPS)
    sums = np.zeros((num_classes, 4))
    squares = np.zeros((num_classes, 4))
    for entry in roidb:
        targets = entry["bbox_targets"]
        for c in np.unique(targets[:, 0]).astype(int):
            if c > 0:
                of_class = targets[targets[:, 0] == c, 1:]
                counts[c] += len(of_class)
                sums[c] += of_class.sum(axis=0)
                squares[c] += (of_class**2).sum(axis=0)
    means = sums / counts
    return means, np.sqrt(np.maximum(squares / counts - means**2, 0))
