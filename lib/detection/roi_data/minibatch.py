"""Minibatches: which images and RoIs, in the original's order of random draws, and the blobs made of them.

Drawing (`MinibatchSampler`) is cheap and strictly sequential; making the blobs (`minibatch_blobs`) is neither, and
nothing in it is random. Source: minibatch.py and layer.py of Fast R-CNN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from detection.config import cfg
from detection.datasets.image import read_image
from detection.errors import ConfigError, DatasetError
from detection.roi_data.blob import image_scale, images_to_blob, resize, subtract_means

Roidb = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ImageDraw:
    """One image of a minibatch: its index in the roidb, the scale and the RoIs that were drawn."""

    index: int
    target_size: int
    foreground: np.ndarray
    background: np.ndarray


@dataclass(frozen=True)
class DrawnImage:
    """All that becomes one image of a minibatch: the file, and of the RoIs that were drawn, of which the first
    `foreground` are foreground, boxes (R, 4), classes (R,) and with TRAIN.BBOX_REG targets (R, 5)."""

    image: str
    width: int
    height: int
    flipped: bool
    target_size: int
    foreground: int
    boxes: np.ndarray
    classes: np.ndarray
    targets: np.ndarray | None


class MinibatchSampler:
    """Draws minibatches from a roidb with numpy's legacy RandomState: an epoch's order first, then per minibatch a
    scale for each image, and image by image its foreground and its background RoIs.

    The stream is that of `np.random.seed(seed)`, but the global generator is left alone.
    """

    def __init__(self, roidb: Roidb, seed: int):
        t = cfg.TRAIN
        if len(roidb) < t.IMS_PER_BATCH:
            raise ConfigError(
                f"TRAIN.IMS_PER_BATCH is {t.IMS_PER_BATCH}, but there are only {len(roidb)} training images "
                "(mirror images included): lower it, or add images"
            )
        if t.BATCH_SIZE % t.IMS_PER_BATCH:
            raise ConfigError(
                f"TRAIN.BATCH_SIZE {t.BATCH_SIZE} is not a multiple of TRAIN.IMS_PER_BATCH {t.IMS_PER_BATCH}"
            )
        self.roidb = roidb
        self.random = np.random.RandomState(seed)
        self._shuffle()

    def _shuffle(self) -> None:
        if cfg.TRAIN.ASPECT_GROUPING:
            self.permutation = self._grouped()
        else:
            self.permutation = self.random.permutation(np.arange(len(self.roidb)))
        self.cursor = 0

    def _grouped(self) -> np.ndarray:
        """A random order, pair by pair, in which pairs are of one orientation, but for one of both where counts are
        odd. Source: roi_data_layer/layer.py of py-faster-rcnn."""
        wide = np.array([entry["width"] >= entry["height"] for entry in self.roidb])
        order = np.hstack([self.random.permutation(np.flatnonzero(group)) for group in (wide, ~wide)])
        pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
        pairs = pairs[self.random.permutation(np.arange(len(pairs)))]
        return np.hstack((pairs.ravel(), order[pairs.size :]))

    def draw(self) -> list[ImageDraw]:
        """The next minibatch."""
        t = cfg.TRAIN
        if self.cursor + t.IMS_PER_BATCH >= len(self.roidb):
            self._shuffle()
        indices = self.permutation[self.cursor : self.cursor + t.IMS_PER_BATCH]
        self.cursor += t.IMS_PER_BATCH
        scales = self.random.randint(0, high=len(t.SCALES), size=len(indices))
        return [ImageDraw(int(i), t.SCALES[s], *self._draw_rois(self.roidb[i])) for i, s in zip(indices, scales)]

    def _draw_rois(self, entry: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        t = cfg.TRAIN
        per_image = t.BATCH_SIZE // t.IMS_PER_BATCH
        overlaps = entry["max_overlaps"]
        foreground = np.flatnonzero(overlaps >= t.FG_THRESH)
        wanted = min(int(np.round(t.FG_FRACTION * per_image)), len(foreground))
        if len(foreground):
            foreground = self.random.choice(foreground, size=wanted, replace=False)
        background = np.flatnonzero((overlaps < t.BG_THRESH_HI) & (overlaps >= t.BG_THRESH_LO))
        wanted = min(per_image - wanted, len(background))
        if len(background):
            background = self.random.choice(background, size=wanted, replace=False)
        return foreground, background

    def get_state(self) -> dict[str, np.ndarray]:
        """Everything that decides the coming minibatches, as arrays."""
        _, keys, position, _, _ = self.random.get_state()
        return {
            "random_keys": keys.copy(),
            "random_position": np.int64(position),
            "permutation": self.permutation.copy(),
            "cursor": np.int64(self.cursor),
        }

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a state of `get_state`.

        Raises ConfigError if it is of a roidb of another length, KeyError or ValueError if it is none.
        """
        keys, position, permutation, cursor = (np.asarray(state[name]) for name in self.get_state())
        for name, values, shape, most in (
            ("random_keys", keys, (624,), 2**32 - 1),
            ("random_position", position, (), 624),
            ("permutation", permutation, permutation.shape[:1], len(permutation.ravel()) - 1),
            ("cursor", cursor, (), 2**31 - 1),
        ):
            if values.shape != shape or values.dtype.kind not in "iu" or not ((values >= 0) & (values <= most)).all():
                raise ValueError(f"{name} is no state of minibatches: {values.dtype} {values.shape}")
        if len(permutation) != len(self.roidb):
            raise ConfigError(
                f"the saved order of images is of {len(permutation)} images (mirror images included), "
                f"but the training set has {len(self.roidb)}: resume with the same data set and options"
            )
        self.random.set_state(("MT19937", keys.astype(np.uint32), int(position)))
        self.permutation = np.array(permutation)
        self.cursor = int(cursor)


def drawn_images(roidb: Roidb, draws: Sequence[ImageDraw]) -> list[DrawnImage]:
    """What was drawn of a roidb."""
    drawn = []
    for draw in draws:
        entry = roidb[draw.index]
        keep = np.concatenate((draw.foreground, draw.background))
        drawn.append(
            DrawnImage(
                *(entry[name] for name in ("image", "width", "height", "flipped")),
                draw.target_size,
                len(draw.foreground),
                entry["boxes"][keep],
                entry["max_classes"][keep],
                entry["bbox_targets"][keep] if cfg.TRAIN.BBOX_REG else None,
            )
        )
    return drawn


def minibatch_blobs(drawn: Sequence[DrawnImage], num_classes: int) -> dict[str, np.ndarray]:
    """The blobs of a minibatch: data (N, 3, H, W), rois (R, 5), labels (R,), bbox_targets and bbox_loss_weights
    (R, 4 * num_classes; not where TRAIN.BBOX_REG is off). Raises DatasetError."""
    images, rois, labels = [], [], []
    for i, one in enumerate(drawn):
        image, scale = _scaled_image(one)
        images.append(image)
        labels.append(np.where(np.arange(len(one.classes)) < one.foreground, one.classes, 0))
        boxes = one.boxes.astype(np.float64) * scale
        rois.append(np.hstack((np.full((len(boxes), 1), i), boxes)).astype(np.float32))
    blobs = {
        "data": images_to_blob(images),
        "rois": np.vstack(rois),
        "labels": np.concatenate(labels).astype(np.float32),
    }
    if cfg.TRAIN.BBOX_REG:
        targets = np.vstack([one.targets for one in drawn])
        blobs["bbox_targets"], blobs["bbox_loss_weights"] = expand_targets(targets, num_classes)
    return blobs


def expand_targets(targets: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Targets (R, 5: class, dx, dy, dw, dh) in their class's columns of (R, 4 * num_classes); weights, 1 there."""
    expanded = np.zeros((len(targets), num_classes, 4), np.float32)
    weights = np.zeros_like(expanded)
    matched = np.flatnonzero(targets[:, 0] > 0)
    classes = targets[matched, 0].astype(int)
    expanded[matched, classes] = targets[matched, 1:]
    weights[matched, classes] = 1
    return expanded.reshape(len(targets), -1), weights.reshape(len(targets), -1)


def _scaled_image(drawn: DrawnImage) -> tuple[np.ndarray, float]:
    image = read_image(drawn.image)
    height, width = image.shape[:2]
    if (width, height) != (drawn.width, drawn.height):
        raise DatasetError(
            f"{drawn.image}: expected {drawn.width} x {drawn.height} pixels as annotated, actual {width} x {height}"
        )
    if drawn.flipped:
        image = cv2.flip(image, 1)
    scale = image_scale(height, width, drawn.target_size, cfg.TRAIN.MAX_SIZE)
    return resize(subtract_means(image, cfg.pixel_means()), scale), scale
