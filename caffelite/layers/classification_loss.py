"""Losses of scores or probabilities against class labels: SoftmaxWithLoss, Infogain, MultinomialLogistic, Hinge."""

from __future__ import annotations

import numpy as np

from caffelite import proto
from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.blob import Blob
from caffelite.layer import register
from caffelite.layers.loss import Loss, LossParameter, classes_and_valid, labels_as_classes, normalizer, put_mean

LEAST_PROBABILITY = 1e-20  # kLOG_THRESHOLD
HingeLossParameter = proto.message("HingeLossParameter")


class ScoreLoss(Loss):
    """What losses with a softmax inside share: one label per position, `ignore_label`, the normalisation.

    Bottoms: scores with the classes along an axis, e.g. (N, C, H, W); labels, one per position, e.g. (N, H, W).
    Tops: the loss, and optionally the probabilities. Probabilities are not kept: backward computes them again.
    """

    exact_tops = None
    min_tops = 1
    max_tops = 2

    def class_axis(self) -> int:
        """The axis of the classes, as the prototxt gives it."""
        raise NotImplementedError

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        scores = bottom[0]
        axis = self.axis(scores, self.class_axis())
        self.channels = scores.shape[axis]
        self.outer, self.inner = scores.count_from(0, axis), scores.count_from(axis + 1)
        self.positions = self.outer * self.inner
        self.expect(
            bottom[1].count == self.positions,
            f"expected one label per prediction: {self.positions} for scores {scores.shape} with the classes at axis "
            f"{axis}, actual {bottom[1].count} ({bottom[1].shape})",
        )
        if len(top) > 1:
            top[1].reshape(*scores.shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.loss_param
        ignore = param.ignore_label if param.HasField("ignore_label") else None
        self.classes, valid = classes_and_valid(self, bottom[1], self.channels, ignore)
        self.divisor = normalizer(self.normalization(LossParameter.VALID), self.outer, self.inner, valid)
        losses = xp.empty(self.positions, np.float64)
        self.losses(bottom, losses)
        put_mean(losses, self.divisor, top[0])
        if len(top) > 1:
            x, y = bottom[0].array, top[1].array
            kernels("softmax").softmax_forward(self.positions, x, self.channels, self.inner, y)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.no_label_gradient(propagate_down)
        if propagate_down[0]:
            self.score_gradient(bottom, float(top[0].read_diff()) / self.divisor)


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(ScoreLoss):
    """loss = -sum log p[label] / normalizer, where p is the softmax of the scores along softmax_param's axis.

    p is taken as at least FLT_MIN in the logarithm, not in the gradient. The original declares the probabilities as a
    second top, but its set-up refuses every prototxt that names one: so does this. Bottoms: scores, e.g. (N, C, H, W);
    labels, one per position, e.g. (N, H, W). Top: the loss (). Source: softmax_loss_layer.cpp.
    """

    exact_tops = 1

    def class_axis(self) -> int:
        return self.param.softmax_param.axis

    def losses(self, bottom: list[Blob], losses) -> None:
        kernels("softmax").softmax_loss_forward(
            self.positions, bottom[0].array, self.classes, self.channels, self.inner, losses
        )  # fmt: skip

    def score_gradient(self, bottom: list[Blob], factor: float) -> None:
        kernels("softmax").softmax_loss_backward(
            self.positions, bottom[0].array, self.classes, self.channels, self.inner, factor, bottom[0].gradient
        )  # fmt: skip


@register("InfogainLoss")
class InfogainLoss(ScoreLoss):
    """loss = -sum_l H[label, l] log p[l] / normalizer, where p is the softmax of the scores along `axis`.

    p is taken as at least 1e-20 in the logarithm, not in the gradient. Bottoms: scores, e.g. (N, C, H, W); labels, one
    per position, e.g. (N, H, W); the matrix H of gains (C, C), unless it is a BlobProto in the file `source`. Tops: the
    loss (); optionally the probabilities, as the scores. Source: infogain_loss_layer.cpp (since 2016; before, the first
    bottom held probabilities).
    """

    exact_bottoms = None
    min_bottoms = 2
    max_bottoms = 3

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.expect(
            not self.param.loss_param.HasField("normalize"), 'loss_param: use "normalization" in place of "normalize"'
        )
        self.stored = None
        if len(bottom) < 3:
            source = self.param.infogain_loss_param.source
            self.expect(bool(source), "expected the matrix of gains as third bottom, or infogain_loss_param { source }")
            self.stored = np.array(proto.read_binary(source, "BlobProto").data, np.float32)

    def class_axis(self) -> int:
        return self.param.infogain_loss_param.axis

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        size = self.stored.size if len(bottom) < 3 else bottom[2].count
        self.expect(
            size == self.channels**2, f"expected {self.channels} x {self.channels} gains, actual {size} numbers"
        )

    def gains(self, bottom: list[Blob]):
        gains = bottom[2].array if len(bottom) > 2 else xp.asarray(self.stored)
        return gains.reshape(self.channels, self.channels)

    def losses(self, bottom: list[Blob], losses) -> None:
        kernels("softmax").infogain_loss_forward(
            self.positions, bottom[0].array, self.classes, self.gains(bottom), self.channels, self.inner,
            LEAST_PROBABILITY, losses,
        )  # fmt: skip

    def score_gradient(self, bottom: list[Blob], factor: float) -> None:
        gains = self.gains(bottom)
        kernels("softmax").infogain_loss_backward(
            self.positions, bottom[0].array, self.classes, gains, gains.sum(axis=1), self.channels, self.inner, factor,
            bottom[0].gradient,
        )  # fmt: skip

    def allow_force_backward(self, bottom_index: int) -> bool:
        return bottom_index == 0


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """loss = -sum log p[label] / N, where the bottom holds the probabilities, taken as at least 1e-20.

    Bottoms: probabilities (N, C, ...) with C... flattened; labels (N,). Top: the loss (). Source:
    multinomial_logistic_loss_layer.cpp.
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        num = bottom[0].shape[0]
        self.expect(bottom[1].count == num, f"expected one label per row, actual {bottom[1].shape} for {num} rows")

    def chosen(self, bottom: list[Blob]):
        """Row and column of the right classes, and their probabilities."""
        probabilities = bottom[0].array.reshape(bottom[0].shape[0], bottom[0].count_from(1))
        classes = xp.asarray(labels_as_classes(self, bottom[1], probabilities.shape[1]))
        at = xp.arange(len(classes)), classes
        return at, xp.maximum(probabilities[at], np.float32(LEAST_PROBABILITY))

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        _, probabilities = self.chosen(bottom)
        top[0].array[...] = -xp.log(probabilities).sum(dtype=np.float64) / self.rows

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.no_label_gradient(propagate_down)
        if propagate_down[0]:
            at, probabilities = self.chosen(bottom)
            dx = bottom[0].gradient.reshape(bottom[0].shape[0], bottom[0].count_from(1))
            dx[...] = 0
            dx[at] = np.float32(-float(top[0].read_diff()) / self.rows) / probabilities


@register("HingeLoss")
class HingeLoss(Loss):
    """loss = sum over rows and classes of max(0, 1 - t x)^p / N, with t = 1 for the label and -1 else; p is 1 or 2.

    Bottoms: scores (N, C, ...) with C... flattened; labels (N,). Top: the loss (). Source: hinge_loss_layer.cpp.
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        super().reshape(bottom, top)
        num = bottom[0].shape[0]
        self.expect(bottom[1].count == num, f"expected one label per row, actual {bottom[1].shape} for {num} rows")

    def margins(self, bottom: list[Blob]):
        """max(0, 1 - t x), and the places of the labels."""
        margins = bottom[0].array.reshape(bottom[0].shape[0], bottom[0].count_from(1)).copy()
        at = xp.arange(len(margins)), xp.asarray(labels_as_classes(self, bottom[1], margins.shape[1]))
        margins[at] *= -1
        margins += 1
        return xp.maximum(margins, 0, out=margins), at

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        margins, _ = self.margins(bottom)
        if self.param.hinge_loss_param.norm == HingeLossParameter.L2:
            margins *= margins
        top[0].array[...] = margins.sum(dtype=np.float64) / self.rows

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.no_label_gradient(propagate_down)
        if not propagate_down[0]:
            return
        margins, at = self.margins(bottom)
        factor = float(top[0].read_diff()) / self.rows
        slope = 2 * margins if self.param.hinge_loss_param.norm == HingeLossParameter.L2 else xp.sign(margins)
        slope[at] *= -1
        bottom[0].gradient.reshape(margins.shape)[...] = slope * np.float32(factor)
