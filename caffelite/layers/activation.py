"""Activations with a kernel of their own: ReLU and ReLU6; and what layers that run in place have in common."""

from __future__ import annotations

from caffelite.backend.kernels import kernels
from caffelite.blob import Blob
from caffelite.layer import Layer, register


class Activation(Layer):
    """y = f(x), element by element: one bottom, one top of its shape, in place if wanted."""

    exact_bottoms = 1
    exact_tops = 1

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)


class KeepsInput(Layer):
    """A layer whose backward pass needs the first bottom as it was before an in-place forward pass overwrote it."""

    _copy: Blob | None = None

    def keep_input(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Copy the first bottom if the first top is about to overwrite it."""
        self._copy = (self._copy or Blob()) if bottom[0] is top[0] else None
        if self._copy is not None:
            self._copy.reshape(*bottom[0].shape)
            self._copy.array[...] = bottom[0].array

    def kept_input(self, bottom: list[Blob]):
        """The first bottom's data before the forward pass, on the current backend."""
        return (self._copy or bottom[0]).array


@register("ReLU")
class ReLU(Activation):
    """y = x for x > 0, else negative_slope x (default 0).

    Bottom and top: any shape; in place if wanted. Source: relu_layer.cpp.
    """

    def setup(self, bottom, top):
        self.negative_slope = self.param.relu_param.negative_slope

    def forward(self, bottom, top):
        x = bottom[0].array
        kernels("activation").relu_forward(-(-x.size // 4), x.size, x, self.negative_slope, top[0].array)

    fused_forward = forward

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            x, dy = bottom[0].array, top[0].gradient
            kernels("activation").relu_backward(x.size, x, dy, self.negative_slope, bottom[0].gradient)


@register("ReLU6")
class ReLU6(Activation):
    """y = min(max(x, 0), 6).

    Bottom and top: any shape; in place if wanted. Source: relu6_layer.cpp of the MobileNet forks.
    """

    def forward(self, bottom, top):
        x = bottom[0].array
        kernels("activation").relu6_forward(x.size, x, top[0].array)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            x = bottom[0].array
            kernels("activation").relu6_backward(x.size, x, top[0].gradient, bottom[0].gradient)
