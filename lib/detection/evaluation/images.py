"""Images by how well their objects were found: pictures of the worst and the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection import visualize
from detection.datasets.dataset import Dataset
from detection.datasets.image import read_image
from detection.evaluation.voc import Detections, Evaluation

THRESHOLD = 0.5
"""Least score of the detections that are counted and drawn."""


@dataclass(frozen=True)
class ImageScore:
    """How many detections of image `index` are true and false, how many objects were missed, and their F1."""

    index: int
    true: int
    false: int
    missed: int

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.true / (2 * self.true + self.false + self.missed)


def ranking(evaluation: Evaluation, threshold: float = THRESHOLD) -> list[ImageScore]:
    """The images by F1, worst first, from detections with a score of at least `threshold`, all classes together.

    Of equals, those with more mistakes are worse, and those with more found better. Images with neither objects nor
    detections are left out.
    """
    true, false, objects = np.zeros((3, evaluation.images), int)
    for result in evaluation.classes:
        shown = result.scores >= threshold
        np.add.at(true, result.images[shown & result.true], 1)
        np.add.at(false, result.images[shown & result.false], 1)
        objects += result.objects_in_images
    scores = [
        ImageScore(i, int(true[i]), int(false[i]), int(objects[i] - true[i])) for i in np.flatnonzero(objects + false)
    ]
    return sorted(scores, key=lambda s: (s.f1, -s.false - s.missed, s.true))


def picture(
    dataset: Dataset,
    detections: Detections,
    scores: Sequence[ImageScore],
    threshold: float = THRESHOLD,
) -> np.ndarray:
    """A montage (height, width, 3) BGR of images with their detections [class][image]; objects are thin boxes below."""
    truth = dataset.gt_roidb()
    drawn = []
    for score in scores:
        i = score.index
        image, zoom = visualize.fit_cell(read_image(dataset.image_path(i)))
        boxes, classes = truth[i]["boxes"], truth[i]["gt_classes"]
        image = visualize.draw_boxes(image, boxes, classes, [""] * len(boxes), zoom, thin=True)
        of_image = [of_class[i] for of_class in detections]
        drawn.append(visualize.draw_detections(image, of_image, dataset.classes, threshold, zoom))
    return visualize.montage(drawn)
