"""Dropout."""

from __future__ import annotations

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.backend.random import stream_key
from caffelite.layer import TRAIN, register
from caffelite.layers.activation import Activation


@register("Dropout")
class Dropout(Activation):
    """TRAIN: y = x / (1 - ratio) or, with probability dropout_ratio (default 0.5), 0. TEST: y = x.

    With scale_train false (the Faster R-CNN fork): TRAIN: y = x or 0. TEST: y = (1 - ratio) x. The mask is a function
    of the seed, the layer's name, the pass and the element's index, on every device the same. Assign an array of 0 and
    1 to `mask` to use it instead. Bottom and top: any shape; in place if wanted. Source: dropout_layer.cpp.
    """

    mask = None

    def setup(self, bottom, top):
        param = self.param.dropout_param
        self.ratio = param.dropout_ratio
        self.expect(0 <= self.ratio <= 1, f"expected a dropout_ratio between 0 and 1, actual {self.ratio}")
        keep = 1 - self.ratio
        train_scale = 1.0 if not param.scale_train else 1 / keep if keep else 0.0
        test_scale = 1.0 if param.scale_train else keep
        self.scale = train_scale if self.phase == TRAIN else test_scale

    def forward(self, bottom, top):
        if self.phase == TRAIN:
            count = bottom[0].count
            self.kept = self._draw(count) if self.mask is None else xp.asarray(self.mask, np.uint8).ravel()
            self.expect(self.kept.size == count, f"expected a mask of {count} elements, actual {self.kept.size}")
        if self.phase == TRAIN or self.scale != 1 or bottom[0] is not top[0]:
            self._apply(bottom[0].array, top[0].array)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0] and (self.phase == TRAIN or self.scale != 1 or bottom[0] is not top[0]):
            self._apply(top[0].gradient, bottom[0].gradient)

    def _apply(self, source, target) -> None:
        if self.phase == TRAIN:
            kernels("activation").dropout(source.size, source, self.kept, self.scale, target)
        else:
            kernels("elementwise").scaled(source.size, self.scale, source, target)

    def _draw(self, count: int):
        blocks = -(-count // 4)
        key = stream_key(self.pass_state.seed, self.name, "dropout")
        number = self.pass_state.number
        mask = xp.empty(4 * blocks, np.uint8)
        kernels("activation").dropout_mask(blocks, *_words(key), *_words(number), round(self.ratio * 2**24), mask)
        return mask[:count]


def _words(number: int) -> tuple[int, int]:
    """A 64-bit number as its low and high 32 bits."""
    return number & 0xFFFFFFFF, number >> 32
