"""Images as net inputs: mean-subtracted, scaled and padded to one blob (utils/blob.py of Fast R-CNN)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np


def image_scale(height: int, width: int, target_size: int, max_size: int) -> float:
    """The factor that makes the shorter side target_size pixels, or the longer one max_size where it would be more."""
    scale = float(target_size) / min(height, width)
    if np.round(scale * max(height, width)) > max_size:
        scale = float(max_size) / max(height, width)
    return scale


def subtract_means(image: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) as float32 less the pixel means (1, 1, 3)."""
    if image.dtype == np.uint8:  # the same numbers, looked up: a third of the time
        return cv2.LUT(image, _table(tuple(means.ravel().tolist())))
    return _less(image, means)


@functools.cache
def _table(means: tuple[float, ...]) -> np.ndarray:
    """What becomes of each of 256 values, (256, 1, 3)."""
    return _less(np.arange(256, dtype=np.uint8).reshape(-1, 1, 1).repeat(3, axis=2), np.array(means))


def _less(image: np.ndarray, means: np.ndarray) -> np.ndarray:
    image = image.astype(np.float32)
    image -= means  # in float64, if the means are, and rounded then
    return image


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """The image (H, W, 3) float32 scaled by a factor, bilinear."""
    return cv2.resize(image, None, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)


def images_to_blob(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images (h, w, 3) as one blob (N, 3, H, W) float32, padded with zeros at the bottom and the right."""
    height, width = np.max([image.shape[:2] for image in images], axis=0)
    blob = np.zeros((len(images), 3, height, width), np.float32)
    for plane, image in zip(blob, images):
        plane[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
    return blob
