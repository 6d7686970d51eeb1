"""Im2col."""

from __future__ import annotations

import math

from caffelite.backend.convolution import AXES
from caffelite.backend.kernels import kernels
from caffelite.layer import Layer, register
from caffelite.layers.convolution import BaseConvolution
from caffelite.layers.windows import check_reach


@register("Im2col")
class Im2col(Layer):
    """Each window of a convolution written out as a column of channels.

    Backward adds up what overlaps. All axes before convolution_param's `axis` count as N. Bottom: (N, C, *spatial) with
    up to three spatial axes. Top: (N, C * window size, *output). Source: im2col_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1
    in_place = False

    per_axis = BaseConvolution.per_axis

    def setup(self, bottom, top):
        self.channel_axis = self.axis(bottom[0], self.param.convolution_param.axis)
        self.axes = bottom[0].ndim - self.channel_axis - 1
        self.expect(
            0 < self.axes <= AXES,
            f"expected 1 to {AXES} spatial axes behind axis {self.channel_axis}, actual shape {bottom[0].shape}",
        )
        self.kernel = self.per_axis("kernel_size", ("kernel_h", "kernel_w"))
        self.stride = self.per_axis("stride", ("stride_h", "stride_w"), 1)
        self.pad = self.per_axis("pad", ("pad_h", "pad_w"), 0)
        self.dilation = self.per_axis("dilation", (), 1)
        for name in ("kernel", "stride", "dilation"):
            sizes = getattr(self, name)
            self.expect(all(size > 0 for size in sizes), f"{name} sizes must be positive, actual {sizes}")

    def reshape(self, bottom, top):
        shape, first = bottom[0].shape, self.channel_axis + 1
        self.expect(len(shape) == first + self.axes, f"expected {first + self.axes} axes, actual shape {shape}")
        output = [
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, pad, dilation in zip(
                shape[first:], self.kernel, self.stride, self.pad, self.dilation
            )
        ]
        self.expect(min(output) > 0, f"a window of {self.kernel} does not fit into the bottom, shape {shape}")
        check_reach(self, shape[first:], self.kernel, self.stride, self.pad, self.dilation)
        top[0].reshape(*shape[: first - 1], shape[first - 1] * math.prod(self.kernel), *output)
        sizes = (shape[first:], self.kernel, self.stride, self.pad, self.dilation, output)
        self.sizes = [size for sizes, fill in zip(sizes, (1, 1, 1, 0, 1, 1)) for size in self._three(sizes, fill)]

    def _three(self, sizes, fill: int) -> list[int]:
        """Sizes along three axes, as the kernels take them."""
        return [fill] * (AXES - self.axes) + list(sizes)

    def forward(self, bottom, top):
        columns = top[0].array
        kernels("im2col").im2col(columns.size, bottom[0].array, columns, *self.sizes)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            dx = bottom[0].gradient
            kernels("im2col").col2im(dx.size, top[0].gradient, dx, *self.sizes)
