"""Average precision as the development kit of PASCAL VOC measures it, and its result files.

Detections are `all_boxes[class][image]`, arrays (n, 5) of x1 y1 x2 y2 score in pixels from 0; class 0 is background.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detection.boxes import bbox_overlaps
from detection.datasets.dataset import Dataset
from detection.errors import EvaluationError

if TYPE_CHECKING:
    from detection.evaluation.bootstrap import Band
    from detection.evaluation.coco import CocoEvaluation

Detections = Sequence[Sequence[np.ndarray]]
"""all_boxes[class][image], (n, 5) each."""


@dataclass(frozen=True)
class ClassResult:
    """One class: `ap` (nan where there is nothing to find), and its detections (n,), best first.

    `recall` and `precision` are those after each detection; `scores` and `images` (their images' numbers) their own; a
    detection is `true`, or `false`, or neither where it does not count. `objects` that count are in the data set,
    `objects_in_images` (N,) in each image; `difficult` do not count. `detections` is n.
    """

    name: str
    ap: float
    recall: np.ndarray
    precision: np.ndarray
    objects: int
    difficult: int
    detections: int
    scores: np.ndarray
    images: np.ndarray
    true: np.ndarray
    false: np.ndarray
    objects_in_images: np.ndarray


@dataclass(frozen=True)
class Evaluation:
    """All classes of a data set, and the rules they were measured by; the band of chance and COCO's own measures where
    they were asked for."""

    dataset: str
    images: int
    classes: tuple[ClassResult, ...]
    use_07_metric: bool
    overlap: float
    count_difficult: bool
    band: Band | None = None
    coco: CocoEvaluation | None = None

    @property
    def mean_ap(self) -> float:
        """Mean AP of the classes that have objects; nan where none has."""
        aps = [result.ap for result in self.classes if result.objects]
        return float(np.mean(aps)) if aps else float("nan")


def evaluate(
    dataset: Dataset,
    all_boxes: Detections,
    folder: str | Path | None,
    overlap: float = 0.5,
    use_07_metric: bool | None = None,
    count_difficult: bool = False,
    competition: str = "comp4",
) -> Evaluation:
    """AP of every class of the data set.

    The detections go through VOC's result files, written to `folder` and read back, as in the original: the rounding of
    scores and corners is part of the result. Without a folder they are evaluated as they are. `use_07_metric`: by
    default what the data set's year calls for. `count_difficult`: difficult objects count like others. Crowds (COCO)
    are treated as difficult objects.
    Raises EvaluationError, DatasetError.
    """
    expect_fit(dataset, all_boxes)
    if not 0 <= overlap < 1:
        raise EvaluationError(f"expected an IoU from 0 to 1, actual {overlap:g}")
    if use_07_metric is None:
        use_07_metric = dataset.year < 2010
    if folder is not None:
        write_results(dataset, all_boxes, folder, competition)
    results = []
    for k, name in enumerate(dataset.classes[1:], 1):
        if folder is None:
            images = np.repeat(np.arange(len(dataset)), [len(dets) for dets in all_boxes[k]])
            dets = np.concatenate([np.asarray(d, np.float64).reshape(-1, 5) for d in all_boxes[k]])
            dets[:, :4] += 1
        else:
            images, dets = read_results(result_path(dataset, name, folder, competition), dataset)
        results.append(_evaluate_class(dataset, k, images, dets, overlap, use_07_metric, count_difficult))
    return Evaluation(dataset.name, len(dataset), tuple(results), use_07_metric, overlap, count_difficult)


def _evaluate_class(
    dataset: Dataset,
    k: int,
    images: np.ndarray,
    dets: np.ndarray,
    overlap: float,
    use_07_metric: bool,
    count_difficult: bool,
) -> ClassResult:
    """Class k from its detections (n, 5: corners from 1, score) on images (n,)."""
    gt_boxes, difficult = [], []
    for entry in dataset.gt_roidb():
        of_class, crowds = entry["gt_classes"] == k, entry["crowd_boxes"][entry["crowd_classes"] == k]
        gt_boxes.append(np.concatenate([entry["boxes"][of_class], crowds]).astype(np.float64) + 1)
        flags = entry["difficult"][of_class] & (not count_difficult)
        difficult.append(np.concatenate([flags, np.ones(len(crowds), bool)]))
    true, false = assign(images, dets, gt_boxes, difficult, overlap)
    true_positives, false_positives = true.cumsum(), false.cumsum()
    ignored = sum(int(d.sum()) for d in difficult)
    counted = np.array([int((~d).sum()) for d in difficult])
    objects = int(counted.sum())
    recall = true_positives / max(objects, 1)
    precision = true_positives / np.maximum(true_positives + false_positives, 1)
    ap = average_precision(recall, precision, use_07_metric) if objects else float("nan")
    order = _best_first(dets)
    return ClassResult(
        dataset.classes[k], ap, recall, precision, objects, ignored, len(dets), dets[order, 4], images[order], true,
        false, counted,
    )  # fmt: skip


def assign(
    images: np.ndarray,
    dets: np.ndarray,
    gt_boxes: Sequence[np.ndarray],
    difficult: Sequence[np.ndarray],
    overlap: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Which detections of a class are true and which false positives, both (n,) bool, best score first.

    `images` (n,) and `dets` (n, 5: corners, score) are the detections, `gt_boxes[i]` (m, 4) and `difficult[i]` (m,) the
    objects of image i. A detection belongs to the object of its image that it overlaps most, the first of equals. It is
    true if the IoU (pixels counted inclusively) is above `overlap` and no better detection took the object; false if
    not; neither if the object is difficult. Equal scores keep the order they came in, as MATLAB's sort does.
    """
    order = _best_first(dets)
    images, boxes = images[order], dets[order, :4]
    first_object = np.cumsum([0, *map(len, gt_boxes)])
    taken = np.full(len(order), -1)  # the number of the object that a detection overlaps enough
    by_image = np.argsort(images, kind="stable")
    starts = np.searchsorted(images[by_image], np.arange(len(gt_boxes) + 1))
    for i, objects in enumerate(gt_boxes):
        here = by_image[starts[i] : starts[i + 1]]
        if len(here) and len(objects):
            overlaps = bbox_overlaps(boxes[here], objects)
            best = overlaps.argmax(axis=1)
            enough = overlaps[np.arange(len(here)), best] > overlap
            taken[here[enough]] = first_object[i] + best[enough]
    ignored = np.zeros(len(order), bool)
    if first_object[-1]:
        ignored = (taken >= 0) & np.concatenate(difficult)[taken]
    true = np.zeros(len(order), bool)
    objects, best_detections = np.unique(taken, return_index=True)
    true[best_detections[objects >= 0]] = True
    true &= ~ignored
    return true, ~true & ~ignored


def _best_first(dets: np.ndarray) -> np.ndarray:
    return np.argsort(-dets[:, 4], kind="stable")


def average_precision(recall: np.ndarray, precision: np.ndarray, use_07_metric: bool) -> float:
    """AP of a precision-recall curve, recall rising.

    The 07 metric is the mean, over recalls 0, 0.1, ..., 1, of the best precision at that recall or a higher one; after
    2009 it is the area under that same envelope, with all points.
    """
    if use_07_metric:
        # as the original computes them: 3 * 0.1 is a little above 0.3, and a recall of just 0.3 does not reach it
        return sum(float(precision[recall >= point].max(initial=0)) for point in np.arange(11) * 0.1) / 11
    recall = np.concatenate([[0.0], recall])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope))


def result_path(dataset: Dataset, class_name: str, folder: str | Path, competition: str = "comp4") -> Path:
    """The result file of a class; what no file name may hold is written as %2F and the like."""
    plain = re.sub(r"[/\\%\x00-\x1f]", lambda found: f"%{ord(found[0]):02X}", class_name)
    return Path(folder) / f"{competition}_det_{dataset.image_set}_{plain}.txt"


def write_results(
    dataset: Dataset, all_boxes: Detections, folder: str | Path, competition: str = "comp4"
) -> list[Path]:
    """Write a result file per class, a line per detection: image, score (3 decimals), corners from 1 (1 decimal).

    Returns the paths. Raises EvaluationError.
    """
    expect_fit(dataset, all_boxes)
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for k, name in enumerate(dataset.classes[1:], 1):
        paths.append(result_path(dataset, name, folder, competition))
        with open(paths[-1], "w") as file:
            for image, dets in zip(dataset.image_index, all_boxes[k]):
                for x1, y1, x2, y2, score in np.asarray(dets, np.float64).reshape(-1, 5):
                    file.write(f"{image} {score:.3f} {x1 + 1:.1f} {y1 + 1:.1f} {x2 + 1:.1f} {y2 + 1:.1f}\n")
    return paths


def read_results(path: str | Path, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Detections of a result file: the numbers of their images (n,), and (n, 5) corners from 1 and score.

    Raises EvaluationError for a line that is none, or an image that the data set does not have.
    """
    number = {image: i for i, image in enumerate(dataset.image_index)}
    images, rows = [], []
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as e:
        raise EvaluationError(f"{path}: cannot be read: {e.strerror}") from None
    for n, line in enumerate(lines, 1):
        try:
            image, *words = line.rsplit(maxsplit=5)
            score, x1, y1, x2, y2 = map(float, words)
        except ValueError:
            raise EvaluationError(f"{path}:{n}: expected image, score and four corners, found {line!r}") from None
        if image not in number:
            raise EvaluationError(f"{path}:{n}: image {image!r} is not in {dataset.name}")
        images.append(number[image])
        rows.append((x1, y1, x2, y2, score))
    return np.array(images, int), np.array(rows).reshape(-1, 5)


def expect_fit(dataset: Dataset, all_boxes: Detections) -> None:
    """Raise EvaluationError unless there are finite detections for every class and image of the data set."""
    if len(all_boxes) != len(dataset.classes):
        raise EvaluationError(
            f"{dataset.name}: expected detections of {len(dataset.classes)} classes, background included, "
            f"found {len(all_boxes)}"
        )
    for name, of_class in zip(dataset.classes[1:], all_boxes[1:]):
        if len(of_class) != len(dataset):
            raise EvaluationError(
                f"{dataset.name}: expected detections of {len(dataset)} images for class {name}, found {len(of_class)}"
            )
        for image, dets in zip(dataset.image_index, of_class):
            if not np.isfinite(dets).all():
                raise EvaluationError(
                    f"{dataset.name}, image {image}: detections of class {name} are not finite numbers"
                )
