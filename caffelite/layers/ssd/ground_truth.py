"""The ground truth of a batch, as the annotated data layer of the SSD fork lays it out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

COLUMNS = 8  # item id, label, instance id, xmin, ymin, xmax, ymax, difficult


@dataclass
class GroundTruth:
    """Objects of a batch in the order of the blob: image index, class, box [K, 4], and whether it is difficult."""

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray

    def __getitem__(self, rows) -> GroundTruth:
        return GroundTruth(self.images[rows], self.labels[rows], self.boxes[rows], self.difficult[rows])

    def __len__(self) -> int:
        return len(self.images)


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the shape is 1 x 1 x objects x 8."""
    if len(shape) != 4 or shape[:2] != (1, 1) or shape[3] != COLUMNS:
        raise ValueError(f"expected ground truth of shape 1 x 1 x objects x {COLUMNS}, actual {shape}")


def read(data: np.ndarray, background: int, classes: int | None) -> GroundTruth:
    """The objects of a blob [1, 1, N, 8] without the rows of item id -1 that fill it up.

    Raises ValueError for the background as a label, labels outside of 0..classes-1 (None: any class will do), and
    numbers that are not finite.
    """
    rows = data.reshape(-1, COLUMNS)
    rows = rows[rows[:, 0] != -1]
    if not np.isfinite(rows).all():
        at = int(np.flatnonzero(~np.isfinite(rows).all(1))[0])
        raise ValueError(f"expected finite ground truth, actual object {at}: {rows[at].tolist()}")
    images, labels = rows[:, 0].astype(int), rows[:, 1].astype(int)
    if (labels == background).any():
        raise ValueError(f"found the background label {background} in the ground truth")
    wrong = labels[labels < 0] if classes is None else labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(f"expected ground truth labels from 0 to below num_classes, actual {wrong[0]}")
    return GroundTruth(images, labels, rows[:, 3:7], rows[:, 7] != 0)
