"""What losses share: how a sum is normalised, and how labels are read."""

from __future__ import annotations

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.blob import Blob
from caffelite.layer import Layer
from caffelite.proto import message

LossParameter = message("LossParameter")
PART = 256  # elements that one thread adds up


class Loss(Layer):
    """A layer whose first top is one number, with loss weight 1 unless the prototxt says otherwise.

    Source: loss_layer.cpp.
    """

    is_loss = True
    in_place = False
    exact_bottoms = 2
    exact_tops = 1

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        first, second = bottom[0].shape, bottom[1].shape
        self.expect(
            first[:1] == second[:1] and len(first) > 0,
            f"data and labels must have the same first dimension, actual shapes {first} and {second}",
        )
        self.rows = max(1, first[0])  # the loss of an empty batch is 0, not 0 / 0
        top[0].reshape()

    def normalization(self, default: int) -> int:
        """The mode that loss_param asks for: `normalization`, or the older `normalize`, or `default`."""
        param = self.param.loss_param
        if not param.HasField("normalization") and param.HasField("normalize"):
            return LossParameter.VALID if param.normalize else LossParameter.BATCH_SIZE
        return param.normalization if param.HasField("normalization") else default

    def no_label_gradient(self, propagate_down: list[bool]) -> None:
        """Raise where the gradient of anything but the first bottom is asked for."""
        self.expect(
            not any(propagate_down[1:]),
            "labels get no gradient: give propagate_down: true for the first bottom and false for the others",
        )


def normalizer(mode: int, outer: int, inner: int, valid: int = 0) -> float:
    """What a sum over `outer` images of `inner` positions, `valid` of them not ignored, is divided by; at least 1."""
    counts = {
        LossParameter.FULL: outer * inner,
        LossParameter.VALID: valid,
        LossParameter.BATCH_SIZE: outer,
        LossParameter.NONE: 1,
    }
    # all labels may be ignored, to turn a loss off for a batch: no division by zero then
    return float(max(1, counts[mode]))


def labels_as_classes(layer: Layer, blob: Blob, classes: int, ignore: int | None = None) -> np.ndarray:
    """The class of every position, int32 (blob.count,): labels cut to integers as in C, -1 for the label `ignore`.

    On the host, where labels come from. Raises LayerError for a label that is no class.
    """
    labels = np.trunc(blob.read().reshape(-1))
    good = (labels >= 0) & (labels < classes)
    if ignore is not None:
        ignored = labels == ignore
        good |= ignored
    if not good.all():
        at = int((~good).argmax())
        place = tuple(int(i) for i in np.unravel_index(at, blob.shape))
        also = "" if ignore is None else f" or the ignored {ignore}"
        raise layer.error(
            f"label {float(blob.read().reshape(-1)[at])} at position {place} of labels {blob.shape}: expected a class "
            f"from 0 to {classes - 1}{also}"
        )
    if ignore is not None:
        labels[ignored] = -1
    return labels.astype(np.int32)


def classes_and_valid(layer: Layer, blob: Blob, classes: int, ignore: int | None = None) -> tuple:
    """`labels_as_classes` on the current backend, and how many labels are not ignored. Raises LayerError."""
    valid = int((labels_as_classes(layer, blob, classes, ignore) >= 0).sum())
    found = xp.empty(blob.count, np.int32)
    kernels("loss").classes_of_labels(blob.count, blob.read_array(), ignore is not None, ignore or 0, found)
    return found, valid


def part_sums(count: int, dtype=np.float64):
    """Room for the sums of the kernels of loss.cu over `count` elements."""
    return xp.empty(-(-count // PART), dtype)


def put_mean(sums, divisor: float, top: Blob) -> None:
    """Give a loss the sum of numbers (n,) float64, divided."""
    while sums.size > PART:
        parts = part_sums(sums.size)
        kernels("loss").sums_of_parts(parts.size, sums.size, PART, sums, parts)
        sums = parts
    kernels("loss").mean_loss(1, sums.size, sums, divisor, top.array)
