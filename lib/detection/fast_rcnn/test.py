"""Detection with a Fast R-CNN net: one image, or a data set (test.py of Fast R-CNN and of py-faster-rcnn)."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.boxes import clip_boxes, clip_boxes_inside, decode_boxes, nms_groups
from detection.config import cfg
from detection.datasets.image import read_image
from detection.prefetch import prefetcher
from detection.progress import watched
from detection.roi_data.blob import image_scale, images_to_blob, resize, subtract_means

logger = logging.getLogger("detection")

CANONICAL_AREA = 224 * 224
"""Pixels of the RoI, after scaling, that the nets' features suit best: the images they were pre-trained on."""

Image = str | Path | np.ndarray
"""A file, or the pixels (H, W, 3) uint8 BGR."""

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


@dataclass(frozen=True)
class Query:
    """What a net is asked about the proposals (P, 4) of an image of so many pixels: the `boxes` (R, 4) that stand for
    them, one for each RoI; `inverse` (P,) has the RoI of every proposal."""

    boxes: np.ndarray
    inverse: np.ndarray
    height: int
    width: int


def query(image: np.ndarray, boxes: np.ndarray) -> tuple[list[np.ndarray], Query]:
    """What to ask a net about the proposals `boxes` (P, 4) of an image (H, W, 3) uint8 BGR: its data (L, 3, h, w) and
    RoIs (R, 5), and the rest."""
    data, scales = image_blob(image)
    rois = rois_blob(boxes, scales)
    index = inverse = np.arange(len(rois))
    if cfg.DEDUP_BOXES > 0:
        index, inverse = unique_rois(rois)
    return [data, rois[index]], Query(boxes[index], inverse, *image.shape[:2])


def load_query(item: tuple[Image, np.ndarray]) -> tuple[list[np.ndarray], Query | None]:
    """`query` for an image and boxes (P, 4); nothing to ask where there are no boxes. Raises DatasetError."""
    image, boxes = item
    if not len(boxes):
        return [], None
    return query(image if isinstance(image, np.ndarray) else read_image(image), boxes)


def feed(net, batch: Sequence[tuple]) -> None:
    """Give a net its data and RoIs, each (host array, its copy on the device or None)."""
    for name, values in zip(("data", "rois"), batch):
        net.blobs[name].put(*values)


def answers(net, asked: Query) -> tuple[np.ndarray, np.ndarray]:
    """What a net has computed: scores (P, K) float32 and boxes (P, 4K) float64 of all K classes for every proposal."""
    rois = len(asked.boxes)
    scores = net.blobs["cls_score" if cfg.TEST.SVM else "cls_prob"].read().reshape(rois, -1)
    if cfg.TEST.BBOX_REG:
        deltas = net.blobs["bbox_pred"].read().reshape(rois, -1)
        moved = decode_boxes(asked.boxes, deltas, cfg.BOX_WIDTH_OFFSET)
        clip = clip_boxes_inside if cfg.CLIP_BOTH_SIDES else clip_boxes
        moved = clip(moved, asked.height, asked.width)
    else:
        moved = np.tile(asked.boxes.astype(np.float64), (1, scores.shape[1]))
    return scores[asked.inverse], moved[asked.inverse]


def im_detect(net, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores (P, K) float32 and boxes (P, 4K) float64 of all K classes for the proposals `boxes` (P, 4) of an image
    (H, W, 3) uint8 BGR; the net has inputs data and rois, outputs cls_prob and (with TEST.BBOX_REG) bbox_pred."""
    arrays, asked = query(image, boxes)
    feed(net, [(values, None) for values in arrays])
    net.launch()
    return answers(net, asked)


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
    images: Iterable[Image],
    roidb: Sequence[Mapping[str, np.ndarray]],
    num_classes: int,
    seconds: list[float] | None = None,
) -> Detections:
    """The detections of a net in all images for the `boxes` (R, 4) of their roidb entries.

    An entry with `gt_classes` (R,) has ground truth among its boxes: where it is not 0 the net is fed the box, as the
    original feeds it, but it is never a detection. Which detections are kept is TEST.SELECTION's matter. Images are
    read and scaled ahead by a Prefetcher; while a GPU computes, the detections of the image before are selected. Logs
    the mean time per image; `seconds` gets the time from each image's detections to the next one's.
    """
    selection = SELECTIONS[cfg.TEST.SELECTION](num_classes, len(roidb))
    nothing = np.empty((0, num_classes), np.float32), np.empty((0, 4 * num_classes))

    def select(entry: Mapping[str, np.ndarray], scores: np.ndarray, boxes: np.ndarray) -> None:
        if "gt_classes" in entry:
            proposals = entry["gt_classes"] == 0
            scores, boxes = scores[proposals], boxes[proposals]
        selection.add(scores, boxes)

    began = last = time.perf_counter()
    seconds = [] if seconds is None else seconds
    found = None
    items = (((image, entry["boxes"]), entry) for image, entry in zip(images, roidb, strict=True))
    loaded = prefetcher(load_query, items)
    try:
        for staged, asked, entry in watched(loaded, len(roidb), "test"):
            if asked:
                with staged as batch:
                    feed(net, batch)
                net.launch()
                loaded.fill()  # while a GPU computes
            if found:
                select(*found)
            found = entry, *(answers(net, asked) if asked else nothing)
            now = time.perf_counter()
            seconds.append(now - last)
            last = now
    finally:
        loaded.close()
    if found:
        select(*found)
    detections = selection.finish()
    total = time.perf_counter() - began
    logger.info("tested %d images in %.1f s: %.3f s per image", len(roidb), total, total / max(1, len(roidb)))
    return detections
