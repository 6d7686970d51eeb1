"""Accuracy."""

from __future__ import annotations

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.blob import Blob
from caffelite.layer import Layer, register
from caffelite.layers.loss import classes_and_valid


@register("Accuracy")
class Accuracy(Layer):
    """The share of positions whose label is among the top_k scores.

    A tie counts against the label: fewer than top_k others may score as high. Positions labelled `ignore_label` do not
    count; where nothing counts, the accuracy is 0. Bottoms: scores with the classes along `axis`, e.g. (N, C, H, W);
    labels, one per position, e.g. (N, H, W). Tops: the accuracy (); optionally that of every class (C,). Source:
    accuracy_layer.cpp.
    """

    exact_bottoms = 2
    min_tops = 1
    max_tops = 2
    in_place = False

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        param, scores = self.param.accuracy_param, bottom[0]
        axis = self.axis(scores, param.axis)
        self.channels = scores.shape[axis]
        self.inner = scores.count_from(axis + 1)
        positions = scores.count_from(0, axis) * self.inner
        self.expect(
            bottom[1].count == positions,
            f"expected one label per prediction: {positions} for scores {scores.shape} with the classes at axis "
            f"{axis}, actual {bottom[1].count} ({bottom[1].shape})",
        )
        self.expect(
            param.top_k <= self.channels, f"top_k ({param.top_k}) exceeds the number of classes ({self.channels})"
        )
        top[0].reshape()
        if len(top) > 1:
            top[1].reshape(self.channels)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.accuracy_param
        ignore = param.ignore_label if param.HasField("ignore_label") else None
        classes, counted = classes_and_valid(self, bottom[1], self.channels, ignore)
        better = xp.empty(classes.shape, np.int32)
        kernels("softmax").better_classes(
            better.size, bottom[0].array, classes, self.channels, self.inner, better
        )  # fmt: skip
        right = (classes >= 0) & (better < param.top_k)
        top[0].array[...] = right.sum() / max(1, counted)
        if len(top) > 1:
            of_class = self.histogram(classes, classes >= 0)
            top[1].array[...] = self.histogram(classes, right) / xp.maximum(of_class, 1)

    def histogram(self, classes, where):
        """How often every class is found where `where` holds."""
        return xp.bincount(xp.where(where, classes, self.channels), minlength=self.channels + 1)[: self.channels]
