"""Losses of numbers against numbers: Euclidean, SmoothL1, Contrastive, SigmoidCrossEntropy."""

from __future__ import annotations

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.blob import Blob
from caffelite.layer import register
from caffelite.layers.loss import PART, Loss, LossParameter, normalizer, part_sums, put_mean


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """loss = sum (a - b)^2 / (2 N).

    Bottoms: a and b, (N, ...) of equal size; both get a gradient. Top: the loss (). Source: euclidean_loss_layer.cpp.
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        self.expect(
            bottom[0].count_from(1) == bottom[1].count_from(1),
            f"expected inputs of one size, actual shapes {bottom[0].shape} and {bottom[1].shape}",
        )

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        a, b, sums = bottom[0].array, bottom[1].array, part_sums(bottom[0].count)
        kernels("loss").squared_distance(sums.size, a.size, PART, a, b, sums)
        put_mean(sums, 2 * self.rows, top[0])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        factor = np.float32(float(top[0].read_diff()) / self.rows)
        for i in (0, 1):
            if propagate_down[i]:
                gradient = bottom[i].gradient.reshape(-1)
                xp.subtract(bottom[i].array.reshape(-1), bottom[1 - i].array.reshape(-1), out=gradient)
                gradient *= factor

    def allow_force_backward(self, bottom_index: int) -> bool:
        return True


@register("SmoothL1Loss")
class SmoothL1Loss(Loss):
    """loss = sum outside f(inside (a - b)) / N, where f is quadratic near 0 and linear beyond.

    f(d) = (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 0.5 / sigma^2. With three bottoms the gradient is not
    multiplied by the inside weights, as in the Fast R-CNN fork: that is exact where they are 0 or 1. With four it is,
    as in the Faster R-CNN fork.
    Bottoms: a and b, (N, ...) of equal size, which get gradients; then nothing, or inside weights alone, or inside and
    outside weights, which get none. Top: the loss (). Source: smooth_L1_loss_layer.cu of the Fast R-CNN and Faster
    R-CNN forks; Girshick, "Fast R-CNN", equation 3.
    """

    exact_bottoms = None
    min_bottoms = 2
    max_bottoms = 4

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        shape = _without_last_ones(bottom[0])
        for blob in bottom[1:]:
            self.expect(
                _without_last_ones(blob) == shape,
                f"expected bottoms of one shape, actual {' and '.join(str(b.shape) for b in bottom)}",
            )

    def arguments(self, bottom: list[Blob]):
        """a, b, inside and outside weights (or None), sigma^2."""
        weights = [blob.array for blob in bottom[2:]] + [None, None]
        return bottom[0].array, bottom[1].array, *weights[:2], self.param.smooth_l1_loss_param.sigma**2

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        sums = part_sums(bottom[0].count)
        kernels("loss").smooth_l1_forward(sums.size, bottom[0].count, PART, *self.arguments(bottom), sums)
        put_mean(sums, self.rows, top[0])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        a, b, inside, outside, sigma2 = self.arguments(bottom)
        weight = inside if len(bottom) == 4 else None
        factor = float(top[0].read_diff()) / self.rows
        for i, sign in ((0, 1), (1, -1)):
            if propagate_down[i]:
                gradient = bottom[i].gradient
                kernels("loss").smooth_l1_backward(
                    a.size, a, b, inside, weight, outside, sigma2, sign * factor, gradient
                )  # fmt: skip
        for blob, wanted in zip(bottom[2:], propagate_down[2:]):
            if wanted:
                blob.gradient[...] = 0

    def allow_force_backward(self, bottom_index: int) -> bool:
        return bottom_index < 2


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """loss = sum (s d^2 + (1 - s) max(margin - d, 0)^2) / (2 N), d = |a - b|; legacy_version: max(margin - d^2, 0).

    Bottoms: a and b (N, C), which get gradients; s (N,), 1 for similar pairs and 0 else. Top: the loss (). Source:
    contrastive_loss_layer.cpp; Hadsell et al., "Dimensionality reduction by learning an invariant mapping".
    """

    exact_bottoms = 3

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        a, b, similar = (blob.shape for blob in bottom)
        self.expect(
            _without_last_ones(bottom[0]) == _without_last_ones(bottom[1]) and bottom[0].count_from(2) == 1,
            f"expected two blobs (N, C), actual {a} and {b}",
        )
        self.expect(bottom[2].count == a[0], f"expected one flag per pair (N,), actual {similar} for {a[0]} pairs")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.contrastive_loss_param
        squared, similar, gap = self.distances(bottom)
        losses = xp.where(similar, squared, gap if param.legacy_version else gap * gap)
        top[0].array[...] = losses.sum(dtype=np.float64) / (2 * self.rows)

    def distances(self, bottom: list[Blob]):
        """Per pair: the squared distance, whether it is similar, and max(margin - distance, 0), squared in legacy."""
        param = self.param.contrastive_loss_param
        shape = bottom[0].shape[0], bottom[0].count_from(1)
        difference = bottom[0].array.reshape(shape) - bottom[1].array.reshape(shape)
        squared = (difference * difference).sum(axis=1)
        distance = squared if param.legacy_version else xp.sqrt(squared)
        similar = xp.trunc(bottom[2].array.reshape(-1)) != 0
        return squared, similar, xp.maximum(np.float32(param.margin) - distance, 0)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        squared, similar, gap = self.distances(bottom)
        if self.param.contrastive_loss_param.legacy_version:
            apart = (gap > 0).astype(np.float32)
        else:
            apart = gap / (xp.sqrt(squared) + np.float32(1e-4))
        factor = xp.where(similar, 1, -apart).reshape(-1, 1) * np.float32(float(top[0].read_diff()) / self.rows)
        shape = len(squared), bottom[0].count_from(1)
        for i in (0, 1):
            if propagate_down[i]:
                difference = bottom[i].array.reshape(shape) - bottom[1 - i].array.reshape(shape)
                bottom[i].gradient.reshape(shape)[...] = factor * difference
        self.expect(
            not propagate_down[2], "the flags of the pairs get no gradient: give propagate_down: false for them"
        )

    def allow_force_backward(self, bottom_index: int) -> bool:
        return bottom_index < 2


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """loss = -sum (t log p + (1 - t) log(1 - p)) / normalizer, p = sigmoid(x).

    Targets that are `ignore_label` (cut to an integer) count for nothing. The default normalisation is BATCH_SIZE.
    Bottoms: scores x (N, ...); targets t from 0 to 1, as many. Top: the loss (). Source:
    sigmoid_cross_entropy_loss_layer.cpp.
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        self.expect(
            bottom[0].count == bottom[1].count,
            f"expected as many targets as scores, actual shapes {bottom[1].shape} and {bottom[0].shape}",
        )

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.loss_param
        self.ignore = param.HasField("ignore_label"), param.ignore_label
        self.mode = self.normalization(LossParameter.BATCH_SIZE)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, target = bottom[0].array, bottom[1].array
        sums, counts = part_sums(x.size), part_sums(x.size, np.int32)
        kernels("loss").sigmoid_loss_forward(sums.size, x.size, PART, x, target, *self.ignore, sums, counts)
        valid = self.mode == LossParameter.VALID  # then a GPU knows it, and nobody waits for it
        self.divisor = (
            xp.maximum(1, counts.sum()) if valid else normalizer(self.mode, bottom[0].shape[0], bottom[0].count_from(1))
        )
        top[0].array[...] = sums.sum() / self.divisor

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.no_label_gradient(propagate_down)
        if propagate_down[0]:
            x, target, dx = bottom[0].array, bottom[1].array, bottom[0].gradient
            factor = (xp.full(1, float(top[0].read_diff())) / self.divisor).astype(np.float32)
            kernels("loss").sigmoid_loss_backward(x.size, x, target, *self.ignore, factor, dx)


def _without_last_ones(blob: Blob) -> tuple[int, ...]:
    """The shape without trailing axes of length 1: (N, C) and (N, C, 1, 1) are the same to the original."""
    shape = blob.shape
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
