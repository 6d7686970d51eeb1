"""Saved detections: the npz files that a test writes and tools/reval.py reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caffelite.errors import FileFormatError
from detection.arrays import read_arrays
from detection.datasets.dataset import Dataset
from detection.errors import EvaluationError

MOST_CELLS = 10**8  # classes times images


def save_detections(path: str | Path, detections: Sequence[Sequence[np.ndarray]], images: Sequence[str]) -> None:
    """Write detections [class][image] -> (n, 5) to an npz file: `detections` (N, 5) with `class_index` and
    `image_index` (N,) of each, and the names `images`."""
    rows = [(c, i, dets) for c, of_class in enumerate(detections) for i, dets in enumerate(of_class)]
    counts = [len(dets) for _, _, dets in rows]
    np.savez_compressed(
        path,
        detections=np.concatenate([dets for _, _, dets in rows]),
        class_index=np.repeat([c for c, _, _ in rows], counts),
        image_index=np.repeat([i for _, i, _ in rows], counts),
        num_classes=len(detections),
        images=np.array(images),
    )


def load_detections(path: str | Path, dataset: Dataset) -> list[list[np.ndarray]]:
    """Detections [class][image] -> (n, 5) from a file of `save_detections`, in the order of the data set's images.

    Raises EvaluationError where its classes are not as many as the data set's, or its images not the same.
    """
    detections, images = _load(path)
    if len(detections) != dataset.num_classes:
        raise EvaluationError(
            f"{path}: expected detections of {dataset.num_classes} classes with the background, as {dataset.name} has, "
            f"found {len(detections)}"
        )
    place = {name: i for i, name in enumerate(images)}
    missing = [name for name in dataset.image_index if name not in place]
    if missing or len(images) != len(dataset):
        what = f"lack the image {missing[0]}" if missing else f"are of {len(images)} images, not {len(dataset)}"
        raise EvaluationError(f"{path}: these detections {what}: they are not of {dataset.name}")
    return [[of_class[place[name]] for name in dataset.image_index] for of_class in detections]


def _load(path: str | Path) -> tuple[list[list[np.ndarray]], list[str]]:
    keys = ("detections", "class_index", "image_index", "num_classes", "images")
    try:
        arrays = read_arrays(path, keys)
    except FileNotFoundError:
        raise EvaluationError(f"{path}: there is no such file; tools/test_net.py writes it") from None
    except FileFormatError as e:
        raise EvaluationError(f"{e}; expected detections that a test has saved") from None
    dets, classes, images, num_classes, names = (arrays[key] for key in keys)
    whole = all(array.dtype.kind == "i" for array in (classes, images, num_classes)) and num_classes.shape == ()
    if dets.ndim != 2 or dets.shape[1] != 5 or not classes.shape == images.shape == dets.shape[:1] or not whole:
        raise EvaluationError(
            f"{path}: expected detections (n, 5) with whole numbers of class and image for each, found "
            f"{dets.shape}, {classes.dtype} {classes.shape} and {images.dtype} {images.shape}"
        )
    cells, key = int(num_classes) * len(names), classes * len(names) + images
    outside = len(key) and not (0 <= classes.min() <= classes.max() < num_classes and key[0] >= 0 and key[-1] < cells)
    if not 0 < cells <= MOST_CELLS or outside or (np.diff(key) < 0).any():
        raise EvaluationError(f"{path}: expected detections sorted by class and image, of its own classes and images")
    split = np.split(dets, np.searchsorted(key, np.arange(1, cells)))
    rows = [split[c * len(names) : (c + 1) * len(names)] for c in range(int(num_classes))]
    return rows, [str(name) for name in names]
