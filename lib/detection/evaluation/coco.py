"""Average precision and recall as COCO measures them, and its result file.

Boxes are x, y, width, height in pixels. Source: pycocotools' cocoeval.py, to which the tests compare.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.datasets.coco import CocoDataset
from detection.evaluation.voc import Detections, expect_fit

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = (1, 10, 100)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}

_LIMITS = np.array(list(AREAS.values()))


@dataclass(frozen=True)
class CocoEvaluation:
    """`precision` (T, R, K, A, M) at each IoU threshold, recall, class, area range and number of detections, `recall`
    (T, K, A, M) the highest reached; -1 where a class has no objects. `classes` are the K names."""

    dataset: str
    classes: tuple[str, ...]
    precision: np.ndarray
    recall: np.ndarray

    def ap(self, iou: float | None = None, area: str = "all", class_name: str | None = None) -> float:
        """Mean precision over recalls and classes (or of one), at one IoU threshold or as a mean over all; nan where
        there is nothing to find."""
        return self._mean(self.precision, iou, area, class_name, -1)

    def ar(self, detections: int = 100, area: str = "all") -> float:
        """Mean over IoU thresholds and classes of the recall with so many detections an image; nan as above."""
        return self._mean(self.recall, None, area, None, MAX_DETECTIONS.index(detections))

    def _mean(self, values: np.ndarray, iou: float | None, area: str, class_name: str | None, m: int) -> float:
        values = values[..., list(AREAS).index(area), m]
        if iou is not None:
            values = values[[int(np.argmin(np.abs(IOU_THRESHOLDS - iou)))]]
        if class_name is not None:
            values = values[..., [self.classes.index(class_name)]]
        values = values[values > -1]
        return float(values.mean()) if len(values) else float("nan")

    @property
    def summary(self) -> dict[str, float]:
        """COCO's twelve numbers."""
        sizes = list(AREAS)[1:]
        return {
            "AP": self.ap(), "AP50": self.ap(0.5), "AP75": self.ap(0.75),
            **{f"AP{size[0]}": self.ap(area=size) for size in sizes},
            **{f"AR{detections}": self.ar(detections) for detections in MAX_DETECTIONS},
            **{f"AR{size[0]}": self.ar(area=size) for size in sizes},
        }  # fmt: skip


@dataclass(frozen=True)
class _Matches:
    """One class in one image: detections (n,) best first, at most the most that count, and how each fares.

    `true` and `false` (A, T, n); `objects` (A,): those that count.
    """

    scores: np.ndarray
    true: np.ndarray
    false: np.ndarray
    objects: np.ndarray


def evaluate(dataset: CocoDataset, all_boxes: Detections) -> CocoEvaluation:
    """AP of detections `all_boxes[class][image]` (n, 5), x1 y1 x2 y2 score, corners included.

    Raises EvaluationError, DatasetError.
    """
    expect_fit(dataset, all_boxes)
    objects = [dataset.objects(i) for i in range(len(dataset))]
    shape = (len(IOU_THRESHOLDS), dataset.num_classes - 1, len(AREAS), len(MAX_DETECTIONS))
    precision, recall = np.full((shape[0], len(RECALLS), *shape[1:]), -1.0), np.full(shape, -1.0)
    for k in range(1, dataset.num_classes):
        matches = []
        for of_image, dets in zip(objects, all_boxes[k]):
            of_class = of_image.classes == k
            if of_class.any() or len(dets):
                dets = np.asarray(dets, np.float64).reshape(-1, 5)
                ground_truth = of_image.boxes[of_class], of_image.areas[of_class], of_image.crowd[of_class]
                matches.append(_match(with_sizes(dets), dets[:, 4], *ground_truth))
        _accumulate(matches, precision[:, :, k - 1], recall[:, k - 1])
    return CocoEvaluation(dataset.name, dataset.classes[1:], precision, recall)


def with_sizes(dets: np.ndarray) -> np.ndarray:
    """x, y, width, height (n, 4) of boxes (n, 4 or more) with inclusive corners."""
    return np.concatenate([dets[:, :2], dets[:, 2:4] - dets[:, :2] + 1], axis=1)


def overlaps(boxes: np.ndarray, gt_boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of every box (n, 4) with every object (m, 4): (n, m); with a crowd, the part of the box that lies in it."""
    x, y, w, h = (c[:, None] for c in boxes.T)
    u, v, s, t = gt_boxes.T
    width = np.maximum(np.minimum(x + w, u + s) - np.maximum(x, u), 0)
    height = np.maximum(np.minimum(y + h, v + t) - np.maximum(y, v), 0)
    intersection = width * height
    union = np.where(crowd, w * h, w * h + s * t - intersection)
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)


def _match(
    boxes: np.ndarray, scores: np.ndarray, gt_boxes: np.ndarray, areas: np.ndarray, crowd: np.ndarray
) -> _Matches:
    """Detections take objects in the order of their scores, at all thresholds and for all area ranges at once.

    Each takes the free object that it overlaps most, the last of equals, and only if none of those suits, one that does
    not count (crowds, which any number may take, and objects of other sizes).
    """
    best = np.argsort(-scores, kind="stable")[: MAX_DETECTIONS[-1]]
    boxes, scores = boxes[best], scores[best]
    ignored = crowd | (areas < _LIMITS[:, :1]) | (areas > _LIMITS[:, 1:])  # (A, m)
    sizes = boxes[:, 2] * boxes[:, 3]
    other_size = (sizes < _LIMITS[:, :1]) | (sizes > _LIMITS[:, 1:])  # (A, n)
    shape = (len(AREAS), len(IOU_THRESHOLDS))
    matched, dropped = np.zeros((2, *shape, len(scores)), bool)
    if len(areas) and len(scores):
        # from the last object, so that argmax finds the last of equals
        iou = overlaps(boxes, gt_boxes, crowd)[:, ::-1]
        turned, crowd = ignored[:, None, ::-1], crowd[::-1]
        enough = iou[:, None] >= np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]  # (n, T, m)
        free = np.ones((*shape, len(areas)), bool)
        area, threshold = np.indices(shape)
        for n in np.flatnonzero(enough[:, 0].any(axis=1)):
            suits = free & enough[n]
            counting = suits & ~turned
            suits = np.where(counting.any(axis=2, keepdims=True), counting, suits)
            taken = np.where(suits, iou[n], -1.0).argmax(axis=2)
            found = suits.any(axis=2)
            matched[:, :, n] = found
            dropped[:, :, n] = found & turned[area, 0, taken]
            free[area, threshold, taken] &= ~found | crowd[taken]
    dropped |= ~matched & other_size[:, None]
    return _Matches(scores, matched & ~dropped, ~matched & ~dropped, (~ignored).sum(axis=1))


def _accumulate(matches: Sequence[_Matches], precision: np.ndarray, recall: np.ndarray) -> None:
    """Fill in precision (T, R, A, M) and recall (T, A, M) of one class from its images."""
    if not matches:
        return
    objects = np.sum([match.objects for match in matches], axis=0)
    for m, most in enumerate(MAX_DETECTIONS):
        scores = np.concatenate([match.scores[:most] for match in matches])
        order = np.argsort(-scores, kind="stable")
        true, false = (
            np.concatenate([getattr(match, key)[:, :, :most] for match in matches], axis=2)[:, :, order].cumsum(axis=2)
            for key in ("true", "false")
        )
        for a in np.flatnonzero(objects):
            reached = true[a] / objects[a]
            # the small number is pycocotools' guard against a division by zero
            curve = true[a] / (true[a] + false[a] + np.spacing(1))
            envelope = np.maximum.accumulate(curve[:, ::-1], axis=1)[:, ::-1]
            padded = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
            for t in range(len(IOU_THRESHOLDS)):
                precision[t, :, a, m] = padded[t, np.searchsorted(reached[t], RECALLS)]
                recall[t, a, m] = reached[t, -1] if len(scores) else 0


def write_results(dataset: CocoDataset, all_boxes: Detections, folder: str | Path) -> Path:
    """Write the detections as COCO's server wants them: a list of image_id, category_id, bbox and score.

    Returns the file. Raises EvaluationError.
    """
    expect_fit(dataset, all_boxes)
    path = Path(folder) / f"detections_{dataset.image_set}_results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "image_id": dataset.image_ids[i],
            "category_id": dataset.category_of_class[k],
            "bbox": [round(value, 2) for value in box],
            "score": score,
        }
        for k in range(1, dataset.num_classes)
        for i, dets in enumerate(all_boxes[k])
        for box, score in zip(with_sizes(np.asarray(dets, np.float64).reshape(-1, 5)).tolist(), dets[:, 4].tolist())
    ]
    path.write_text(json.dumps(rows))
    return path
