"""Layers with one number per channel: Scale, Bias, PReLU."""

from __future__ import annotations

import numpy as np

from caffelite import proto
from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.blob import Blob
from caffelite.layer import Layer, register
from caffelite.layers.activation import Activation, KeepsInput


def channel_sums(kernel: str, dy, x, planes: int, channels: int, size: int):
    """Sums for each channel, float64 (channels): of dy x (scale_sums), dy (bias_sums) or dy min(x, 0) (slope_sums).

    The same bits on any device and number of threads.
    """
    lanes = min(size, max(32, 2**16 // max(planes, 1)))  # enough threads for a GPU where the planes are few
    sums = xp.empty((planes // max(channels, 1), channels, lanes), np.float32)
    getattr(kernels("channelwise"), kernel)(sums.size, dy, x, planes, size, lanes, sums)
    return sums.sum(axis=(0, 2), dtype=np.float64)


class Channelwise(Layer):
    """What Scale and Bias share: a factor or summand that covers some axes of the first bottom, the same over the rest.

    It is the second bottom, or else parameter 0 with the shape of `num_axes` axes of the first bottom from `axis`
    (default 1, may be negative) on; num_axes -1 means all to the end, 0 a scalar.
    """

    min_bottoms = 1
    max_bottoms = 2
    exact_tops = 1

    def param_shape(self, bottom: list[Blob], axis: int, num_axes: int) -> tuple[int, ...]:
        """The shape of parameter 0; raises LayerError where the axes are not there."""
        shape = bottom[0].shape
        start = self.axis(bottom[0], axis)
        self.expect(num_axes >= -1, f"expected num_axes of at least 0, or -1 for all, actual {num_axes}")
        self.expect(
            start + num_axes <= len(shape),
            f"axis {start} + num_axes {num_axes} is beyond the last axis of the bottom, shape {shape}",
        )
        return shape[start:] if num_axes == -1 else shape[start : start + num_axes]

    def cover(self, bottom: list[Blob], factor: Blob, axis: int) -> None:
        """Find the planes that each element of the factor covers."""
        shape = bottom[0].shape
        start = self.axis(bottom[0], axis) if factor.ndim else 0
        end = start + factor.ndim
        self.expect(
            shape[start:end] == factor.shape,
            f"shape {factor.shape} does not fit the axes from {start} on of the bottom, shape {shape}",
        )
        self.planes = bottom[0].count_from(0, end)
        self.channels = factor.count
        self.size = bottom[0].count_from(end)

    def sums(self, kernel: str, dy, x, shape: tuple[int, ...]):
        """`channel_sums` in a shape."""
        return channel_sums(kernel, dy, x, self.planes, self.channels, self.size).reshape(shape)


@register("Scale")
class Scale(KeepsInput, Channelwise):
    """y = s x, or s x + b with bias_term, where s and b are repeated along the axes that they lack.

    Bottoms: x, any shape; s, with the axes of x from `axis` on, as many as it has, unless it is learned. Top: as x; in
    place if wanted. Parameters: s (unless a bottom; 1 where no filler is given) with `num_axes` axes of x from `axis`
    on; b of the same shape if bias_term. Source: scale_layer.cpp.
    """

    def setup(self, bottom, top):
        param = self.param.scale_param
        one = proto.message("FillerParameter")(type="constant", value=1)
        shape = bottom[-1].shape
        if len(bottom) == 1:
            shape = self.param_shape(bottom, param.axis, param.num_axes)
            self.add_param(shape, param.filler if param.HasField("filler") else one)
        if param.bias_term:
            self.add_param(shape, param.bias_filler)
        self.bias = self.blobs[-1] if param.bias_term else None

    def _factor(self, bottom: list[Blob]) -> Blob:
        return bottom[1] if len(bottom) == 2 else self.blobs[0]

    def reshape(self, bottom, top):
        self.cover(bottom, self._factor(bottom), self.param.scale_param.axis)
        self.expect(
            self.bias is None or self.bias.count == self.channels,
            f"the bias has shape {self.bias and self.bias.shape}, the scale {self._factor(bottom).shape}",
        )
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        if len(bottom) == 2 or self.param_propagate_down[0]:
            self.keep_input(bottom, top)
        x, scale = bottom[0].array, self._factor(bottom).array
        bias = None if self.bias is None else self.bias.array
        kernels("channelwise").scale_forward(
            x.size, x, scale, bias, self.planes, self.channels, self.size, top[0].array
        )

    def backward(self, top, propagate_down, bottom):
        dy, scale = top[0].gradient, self._factor(bottom)
        if self.bias is not None and self.param_propagate_down[-1]:
            self.bias.gradient[...] += self.sums("bias_sums", dy, dy, self.bias.shape)
        if len(bottom) == 2 and propagate_down[1]:
            bottom[1].gradient[...] = self.sums("scale_sums", dy, self.kept_input(bottom), scale.shape)
        elif len(bottom) == 1 and self.param_propagate_down[0]:
            scale.gradient[...] += self.sums("scale_sums", dy, self.kept_input(bottom), scale.shape)
        if propagate_down[0]:
            kernels("channelwise").scale_forward(
                dy.size, dy, scale.array, None, self.planes, self.channels, self.size, bottom[0].gradient
            )


@register("Bias")
class Bias(Channelwise):
    """y = x + b, where b is repeated along the axes that it lacks.

    Bottoms: x, any shape; b, with the axes of x from `axis` on, as many as it has, unless it is learned. Top: as x; in
    place if wanted. Parameters: b (unless a bottom) with `num_axes` axes of x from `axis` on. Source: bias_layer.cpp.
    """

    def setup(self, bottom, top):
        param = self.param.bias_param
        if len(bottom) == 1:
            self.add_param(self.param_shape(bottom, param.axis, param.num_axes), param.filler)

    def _summand(self, bottom: list[Blob]) -> Blob:
        return bottom[1] if len(bottom) == 2 else self.blobs[0]

    def reshape(self, bottom, top):
        self.cover(bottom, self._summand(bottom), self.param.bias_param.axis)
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        x, bias = bottom[0].array, self._summand(bottom).array
        kernels("channelwise").bias_forward(x.size, x, bias, self.planes, self.channels, self.size, top[0].array)

    def backward(self, top, propagate_down, bottom):
        dy, bias = top[0].gradient, self._summand(bottom)
        if len(bottom) == 2 and propagate_down[1]:
            bias.gradient[...] = self.sums("bias_sums", dy, dy, bias.shape)
        elif len(bottom) == 1 and self.param_propagate_down[0]:
            bias.gradient[...] += self.sums("bias_sums", dy, dy, bias.shape)
        if propagate_down[0] and bottom[0] is not top[0]:
            bottom[0].gradient[...] = dy


@register("PReLU")
class PReLU(KeepsInput, Activation):
    """y = x for x > 0, else a x, with a learned for each channel or, with channel_shared, for all.

    Bottom and top: (N, C, ...); in place if wanted. Parameter: a, (C,) or (); 0.25 where no filler is given. Source:
    prelu_layer.cpp; He et al., "Delving deep into rectifiers".
    """

    def setup(self, bottom, top):
        param, shape = self.param.prelu_param, bottom[0].shape
        self.expect(len(shape) >= 2, f"expected a bottom of at least 2 axes, actual shape {shape}")
        self.shared = param.channel_shared
        default = proto.message("FillerParameter")(type="constant", value=0.25)
        self.add_param(() if self.shared else shape[1:2], param.filler if param.HasField("filler") else default)

    def reshape(self, bottom, top):
        super().reshape(bottom, top)
        shape, (slope,) = bottom[0].shape, self.blobs
        self.expect(
            self.shared or shape[1] == slope.count,
            f"expected {slope.count} channels (the slopes there are), actual bottom shape {shape}",
        )
        self.size = bottom[0].count_from(2)
        self.planes = bottom[0].count_from(0, 2)

    def forward(self, bottom, top):
        self.keep_input(bottom, top)
        x, slope = bottom[0].array, self.blobs[0].array
        kernels("channelwise").prelu_forward(x.size, x, slope, self.planes, slope.size, self.size, top[0].array)

    def backward(self, top, propagate_down, bottom):
        x, dy, slope = self.kept_input(bottom), top[0].gradient, self.blobs[0].array
        if self.param_propagate_down[0]:
            sums = channel_sums("slope_sums", dy, x, self.planes, slope.size, self.size)
            self.blobs[0].gradient[...] += sums.reshape(self.blobs[0].shape)
        if propagate_down[0]:
            kernels("channelwise").prelu_backward(
                x.size, x, dy, slope, self.planes, slope.size, self.size, bottom[0].gradient
            )
