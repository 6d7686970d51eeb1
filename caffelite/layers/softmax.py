"""Softmax."""

from __future__ import annotations

from caffelite.backend.kernels import kernels
from caffelite.blob import Blob
from caffelite.layer import Layer, register


@register("Softmax")
class Softmax(Layer):
    """y = exp(x - max x) / sum exp(x - max x) along `axis`.

    Bottom and top: any shape. Source: softmax_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        axis = self.axis(bottom[0], self.param.softmax_param.axis)
        self.channels = bottom[0].shape[axis]
        self.positions = bottom[0].count_from(0, axis), bottom[0].count_from(axis + 1)
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        outer, inner = self.positions
        kernels("softmax").softmax_forward(outer * inner, bottom[0].array, self.channels, inner, top[0].array)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            (outer, inner), dx = self.positions, bottom[0].gradient
            y, dy = top[0].array, top[0].gradient
            kernels("softmax").softmax_backward(outer * inner, y, dy, self.channels, inner, dx)
