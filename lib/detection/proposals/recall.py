"""How many objects proposals find: recall, and average recall (Hosang et al., 2015; Figure 3 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection.boxes import bbox_overlaps
from detection.errors import EvaluationError


@dataclass(frozen=True)
class Recall:
    """What the first `count` proposals of every image find; `boxes` is how many those are on average.

    `average` is the average recall over IoU 0.5 to 1, `at_50` and `at_70` the part of the objects with an IoU of at
    least 0.5 and 0.7.
    """

    count: int
    boxes: float
    average: float
    at_50: float
    at_70: float


def average_recall(overlaps: np.ndarray) -> float:
    """Twice the area under recall over IoU from 0.5 to 1, given every object's best IoU (n,): 1 if all are perfect.

    As the authors of the measure do, its integral is taken in closed form: 2 mean(max(IoU - 0.5, 0)).
    """
    return float(2 * np.maximum(np.asarray(overlaps) - 0.5, 0).mean())


def best_overlaps(
    dataset, proposals: Sequence[np.ndarray], counts: Sequence[int], count_difficult: bool = False
) -> np.ndarray:
    """The best IoU of every object (n) with the first count proposals of its image, (len(counts), n).

    Proposals are in their order of importance, (p, 4) for each image. Difficult objects are left out unless
    `count_difficult`. Raises EvaluationError where a data set has no objects.
    """
    found = []
    for gt, boxes in zip(dataset.gt_roidb(), proposals, strict=True):
        objects = gt["boxes"][~gt["difficult"] | count_difficult]
        best = np.zeros((len(boxes) + 1, len(objects)))
        if best.size:
            best[1:] = np.maximum.accumulate(bbox_overlaps(np.asarray(boxes), objects), axis=0)
        found.append(best[np.minimum(counts, len(boxes))])
    overlaps = np.concatenate(found, axis=1)
    if not overlaps.size:
        raise EvaluationError(f"{dataset.name}: has no objects whose recall could be measured")
    return overlaps


def recall_curve(
    dataset, proposals: Sequence[np.ndarray], counts: Sequence[int], count_difficult: bool = False
) -> list[Recall]:
    """Recall and average recall for every number of proposals in `counts`, as in `best_overlaps`."""
    lengths = np.array([len(boxes) for boxes in proposals])
    overlaps = best_overlaps(dataset, proposals, counts, count_difficult)
    return [
        Recall(
            count, float(np.minimum(lengths, count).mean()), average_recall(of_count),
            float((of_count >= 0.5).mean()), float((of_count >= 0.7).mean()),
        )
        for count, of_count in zip(counts, overlaps)
    ]  # fmt: skip
