"""Detection with a Fast R-CNN net: one image, or a data set (test.py of Fast R-CNN and of py-faster-rcnn)."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from detection.boxes import clip_boxes, clip_boxes_inside, decode_boxes, nms_groups
from detection.config import cfg
from detection.roi_data.blob import image_scale, images_to_blob, resize, subtract_means

logger = logging.getLogger("detection")

CANONICAL_AREA = 224 * 224
"""Pixels of the RoI, after scaling, that the nets' features suit best: the images they were pre-trained on."""

Detections = list[list[np.ndarray]]
"""[class][image] -> (n, 5) float32: x1, y1, x2, y2, score. Class 0, the background, has none."""


def image_blob(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The image (H, W, 3) BGR at every one of TEST.SCALES as one blob (L, 3, h, w), and the scale factors (L,)."""
    height, width = image.shape[:2]
    scales = [image_scale(height, width, size, cfg.TEST.MAX_SIZE) for size in cfg.TEST.SCALES]
    pixels = subtract_means(image, cfg.pixel_means())
    return images_to_blob([resize(pixels, scale) for scale in scales]), np.array(scales)


def rois_blob(boxes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Boxes (R, 4) as RoIs (R, 5) float32: level, and the box in its pixels.

    The level is that at which the box's scaled area is nearest to CANONICAL_AREA.
    """
    boxes = boxes.astype(np.float64)
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    levels = np.abs(areas[:, None] * scales**2 - CANONICAL_AREA).argmin(axis=1)[:, None]
    return np.hstack((levels, boxes * scales[levels])).astype(np.float32)


def unique_rois(rois: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which RoIs (R, 5) to compute, and for every RoI its place among them: both index arrays.

    RoIs that are equal after rounding at DEDUP_BOXES are one; the first of them stands for all.
    """
    hashes = np.round(rois * cfg.DEDUP_BOXES).dot(np.array([1, 1e3, 1e6, 1e9, 1e12]))
    _, index, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return index, inverse


def im_detect(net, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (R, K) float32 and boxes (R, 4K) float64 of all K classes for the proposals `boxes` (R, 4) of an image
    (H, W, 3) uint8 BGR; the net has inputs data and rois, outputs cls_prob and (with TEST.BBOX_REG) bbox_pred."""
    data, scales = image_blob(image)
    rois = rois_blob(boxes, scales)
    index = inverse = np.arange(len(rois))
    if cfg.DEDUP_BOXES > 0:
        index, inverse = unique_rois(rois)
    rois, boxes = rois[index], boxes[index]
    net.blobs["data"].reshape(*data.shape)
    net.blobs["rois"].reshape(*rois.shape)
    outputs = net.forward(data=data, rois=rois)
    scores = (net.blobs["cls_score"].data if cfg.TEST.SVM else outputs["cls_prob"]).reshape(len(rois), -1)
    if cfg.TEST.BBOX_REG:
        deltas = outputs["bbox_pred"].reshape(len(rois), -1)
        moved = decode_boxes(boxes, deltas, cfg.BOX_WIDTH_OFFSET)
        clip = clip_boxes_inside if cfg.CLIP_BOTH_SIDES else clip_boxes
        moved = clip(moved, *image.shape[:2])
    else:
        moved = np.tile(boxes.astype(np.float64), (1, scores.shape[1]))
    return scores[inverse], moved[inverse]


class RisingSelection:
    """What `fast-rcnn` keeps: of an image the MAX_PER_CLASS best boxes of a class above the class's threshold, which
    rises while images pass so that MAX_PER_SET boxes per image are left; suppression comes last."""

    def __init__(self, num_classes: int, num_images: int):
        self.most = cfg.TEST.MAX_PER_SET * num_images
        self.thresholds = np.full(num_classes, -np.inf)
        self.best: list[list[float]] = [[] for _ in range(num_classes)]
        self.kept: list[list[np.ndarray]] = []

    def add(self, scores: np.ndarray, boxes: np.ndarray) -> None:
        """Take the scores (R, K) and boxes (R, 4K) of the next image."""
        of_image = [np.empty((0, 5), np.float32)]
        for c in range(1, scores.shape[1]):
            above = np.flatnonzero(scores[:, c] > self.thresholds[c])
            top = above[np.argsort(-scores[above, c])[: cfg.TEST.MAX_PER_CLASS]]
            for score in scores[top, c]:
                heapq.heappush(self.best[c], score)
            if len(self.best[c]) > self.most:
                while len(self.best[c]) > self.most:
                    heapq.heappop(self.best[c])
                self.thresholds[c] = self.best[c][0]
            of_image.append(class_detections(scores, boxes, c, top))
        self.kept.append(of_image)

    def finish(self) -> Detections:
        """The detections of all images."""
        images = [
            suppress([dets[dets[:, 4] > threshold] for dets, threshold in zip(of_image, self.thresholds)])
            for of_image in self.kept
        ]
        return [list(of_class) for of_class in zip(*images)]


class ThresholdSelection:
    """What `py-faster-rcnn` keeps: boxes with a score above SCORE_THRESH, suppressed, then the MAX_PER_IMAGE best of
    the image (all, where several share the last score)."""

    def __init__(self, num_classes: int, num_images: int):
        self.kept: list[list[np.ndarray]] = []

    def add(self, scores: np.ndarray, boxes: np.ndarray) -> None:
        """Take the scores (R, K) and boxes (R, 4K) of the next image."""
        of_image = [np.empty((0, 5), np.float32)]
        for c in range(1, scores.shape[1]):
            above = np.flatnonzero(scores[:, c] > cfg.TEST.SCORE_THRESH)
            of_image.append(class_detections(scores, boxes, c, above))
        of_image = suppress(of_image)
        all_scores = np.sort(np.concatenate([dets[:, 4] for dets in of_image]))
        if 0 < cfg.TEST.MAX_PER_IMAGE < len(all_scores):
            least = all_scores[-cfg.TEST.MAX_PER_IMAGE]
            of_image = [dets[dets[:, 4] >= least] for dets in of_image]
        self.kept.append(of_image)

    def finish(self) -> Detections:
        """The detections of all images."""
        return [list(of_class) for of_class in zip(*self.kept)]


SELECTIONS = {"rising": RisingSelection, "threshold": ThresholdSelection}


def class_detections(scores: np.ndarray, boxes: np.ndarray, c: int, rows: np.ndarray) -> np.ndarray:
    """Class c's boxes and scores in these rows, (n, 5) float32."""
    return np.hstack((boxes[rows, 4 * c : 4 * c + 4], scores[rows, c, None])).astype(np.float32)


def suppress(of_image: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Every class's detections after non-maximum suppression at TEST.NMS, best first."""
    return [dets[keep] for dets, keep in zip(of_image, nms_groups(of_image, cfg.TEST.NMS))]


def detect(net, image: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """All classes' detections (n, 5) in one image (H, W, 3) uint8 BGR, given its proposals, after suppression."""
    scores, moved = im_detect(net, image, boxes)
    rows = np.arange(len(scores))
    of_classes = [class_detections(scores, moved, c, rows) for c in range(1, scores.shape[1])]
    return [np.empty((0, 5), np.float32), *suppress(of_classes)]


def test_net(
    net,
    images: Iterable[np.ndarray],
    roidb: Sequence[Mapping[str, np.ndarray]],
    num_classes: int,
    seconds: list[float] | None = None,
) -> Detections:
    """The detections of a net in all images (each (H, W, 3) uint8 BGR) for the `boxes` (R, 4) of their roidb entries.

    An entry with `gt_classes` (R,) has ground truth among its boxes: where it is not 0 the net is fed the box, as the
    original feeds it, but it is never a detection. Which detections are kept is TEST.SELECTION's matter. Logs the mean
    time per image; `seconds` gets the time that detecting took in each, without reading it.
    """
    selection = SELECTIONS[cfg.TEST.SELECTION](num_classes, len(roidb))
    began, seconds = time.perf_counter(), [] if seconds is None else seconds
    for image, entry in zip(tqdm(images, "test", len(roidb), unit="image", disable=None), roidb):
        start = time.perf_counter()
        if len(entry["boxes"]):
            scores, boxes = im_detect(net, image, entry["boxes"])
        else:
            scores, boxes = np.empty((0, num_classes), np.float32), np.empty((0, 4 * num_classes))
        seconds.append(time.perf_counter() - start)
        if "gt_classes" in entry:
            proposals = entry["gt_classes"] == 0
            scores, boxes = scores[proposals], boxes[proposals]
        selection.add(scores, boxes)
    detections = selection.finish()
    total = time.perf_counter() - began
    logger.info(
        "tested %d images in %.1f s: %.3f s per image, of which detection %.3f s",
        len(roidb), total, total / max(1, len(roidb)), sum(seconds) / max(1, len(roidb)),
    )  # fmt: skip
    return detections
