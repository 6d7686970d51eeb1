"""Convolution, Deconvolution and depthwise convolution over up to three axes."""

from __future__ import annotations

import math

from caffelite.backend import convolution
from caffelite.blob import Blob
from caffelite.layer import Layer, register
from caffelite.layers.windows import check_reach


class BaseConvolution(Layer):
    """What convolution and its transpose share: the options, the parameters and the shapes.

    Bottoms and tops: any number of pairs (N, C, *spatial) -> (N, num_output, *output) that share one set of weights;
    all axes before `axis` count as N. Parameters: weights, and the bias (num_output,) if `bias_term`.
    Source: base_conv_layer.cpp.
    """

    min_bottoms = 1
    min_tops = 1
    same_bottoms_and_tops = True

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.convolution_param
        self.channel_axis = self.axis(bottom[0], param.axis)
        self.axes = bottom[0].ndim - self.channel_axis - 1
        self.expect(
            self.axes <= convolution.AXES,
            f"{self.axes} spatial axes behind axis {self.channel_axis} of {bottom[0].shape}; up to {convolution.AXES} "
            "are possible",
        )
        self.kernel = self.per_axis("kernel_size", ("kernel_h", "kernel_w"))
        self.stride = self.per_axis("stride", ("stride_h", "stride_w"), 1)
        self.pad = self.per_axis("pad", ("pad_h", "pad_w"), 0)
        self.dilation = self.per_axis("dilation", (), 1)
        for name in ("kernel", "stride", "dilation"):
            sizes = getattr(self, name)
            self.expect(all(size > 0 for size in sizes), f"{name} sizes must be positive, actual {sizes}")
        self.channels = bottom[0].shape[self.channel_axis]
        self.num_output = param.num_output
        self.groups = self.group_count()
        self.expect(self.num_output > 0, "num_output must be positive: give convolution_param { num_output: ... }")
        self.expect(self.channels > 0, f"expected channels at axis {self.channel_axis}, actual {bottom[0].shape}")
        self.expect(
            self.groups > 0 and self.channels % self.groups == 0 and self.num_output % self.groups == 0,
            f"channels ({self.channels}) and num_output ({self.num_output}) must be multiples of group ({self.groups})",
        )
        self.engine = convolution.Convolution(
            self.pad or (0,), self.stride or (1,), self.dilation or (1,), groups=self.groups
        )
        self.add_param((*self.weight_channels(), *self.kernel), param.weight_filler)
        if param.bias_term:
            self.add_param((self.num_output,), param.bias_filler)
        self.inputs: dict[int, object] = {}  # copies of the bottoms that a forward pass in place overwrites

    def group_count(self) -> int:
        """Number of groups."""
        return self.param.convolution_param.group

    def weight_channels(self) -> tuple[int, int]:
        """The first two axes of the weights."""
        raise NotImplementedError

    def output_size(self, size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
        """Length of one axis of the output."""
        raise NotImplementedError

    def per_axis(self, field: str, sides: tuple[str, ...], default: int | None = None) -> tuple[int, ...]:
        """One number per spatial axis, from a repeated field or, with two axes, from the fields `sides`."""
        param = self.param.convolution_param
        values = list(getattr(param, field))
        if any(param.HasField(side) for side in sides):
            self.expect(self.axes == 2, f"{' and '.join(sides)} are for two spatial axes, actual {self.axes}")
            self.expect(not values, f"expected {field} or {' and '.join(sides)}, not both")
            return tuple(getattr(param, side) for side in sides)
        if not values and default is not None:
            values = [default]
        if len(values) == 1:
            values *= self.axes
        self.expect(
            len(values) == self.axes,
            f"{field} must be given once or once per spatial axis ({self.axes}), actual {len(values)} times",
        )
        return tuple(values)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape, first = bottom[0].shape, self.channel_axis + 1
        for blob in bottom[1:]:
            self.expect(blob.shape == shape, f"expected bottoms of one shape, actual {shape} and {blob.shape}")
        self.expect(
            len(shape) == first + self.axes and shape[self.channel_axis] == self.channels,
            f"expected {self.channels} channels at axis {self.channel_axis} and {self.axes} spatial axes, actual "
            f"shape {shape}: the number of axes and channels may not change",
        )
        output = [
            self.output_size(*sizes) for sizes in zip(shape[first:], self.kernel, self.stride, self.pad, self.dilation)
        ]
        self.expect(
            all(size > 0 for size in (*shape[first:], *output)),
            f"a kernel {self.kernel} with dilation {self.dilation} and pad {self.pad} does not fit {shape[first:]}",
        )
        images = map(max, shape[first:], output)  # the padded side is the bottom, or the top of a deconvolution
        check_reach(self, images, self.kernel, self.stride, self.pad, self.dilation)
        output = (*shape[: self.channel_axis], self.num_output, *output)
        for source, target in zip(bottom, top):
            self.expect(
                source is not target or shape == output,
                f"in place the shape must stay, but {shape} becomes {output}: give the top another name",
            )
            target.reshape(*output)

    def workspace(self, bottom: Blob, top: Blob, backward: bool) -> int:
        """Bytes of scratch memory that a pass over these blobs takes on a GPU, or both passes."""
        return self.engine.workspace(
            self.images_shape(bottom.shape), (*self.blobs[0].shape, *[1] * (not self.axes)), backward
        )

    def images_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(N, channels, *spatial) with at least one spatial axis."""
        at = self.channel_axis
        return (math.prod(shape[:at]), shape[at], *(shape[at + 1 :] or (1,)))

    def images(self, array):
        """A view (N, channels, *spatial) with at least one spatial axis."""
        return array.reshape(self.images_shape(array.shape))

    def weights(self, array):
        """A view of the weights or their gradient with at least one spatial axis."""
        return array if self.axes else array.reshape(*array.shape, 1)

    def forward(self, bottom: list[Blob], top: list[Blob], slope: float | None = None) -> None:
        weights = self.weights(self.blobs[0].array)
        bias = self.blobs[1].array if len(self.blobs) > 1 else None
        for i, (source, target) in enumerate(zip(bottom, top)):
            x = self.images(source.array)
            if source is target:
                x = self.inputs[i] = x.copy()
            self.convolve(x, weights, bias, self.images(target.array), *([] if slope is None else [slope]))

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        weights = self.weights(self.blobs[0].array)
        for i, (source, target) in enumerate(zip(bottom, top)):
            dy = self.images(target.gradient)
            if len(self.blobs) > 1 and self.param_propagate_down[1]:
                self.engine.backward_bias(dy, self.blobs[1].gradient)
            if self.param_propagate_down[0]:
                x = self.inputs[i] if source is target else self.images(source.array)
                self.convolve_weights(x, dy, self.weights(self.blobs[0].gradient))
            if propagate_down[i]:
                if source is target:
                    dy = dy.copy()
                self.convolve_back(dy, weights, self.images(source.gradient))


@register("Convolution")
class Convolution(BaseConvolution):
    """y = w * x + b, a cross-correlation: the sum over a window of every plane of the group.

    An axis of size s becomes one of floor((s + 2 pad - extent) / stride) + 1, where extent = dilation (kernel - 1) + 1.
    Bottoms: (N, C, *spatial) with up to three spatial axes; several share the weights. Tops: (N, num_output, *output),
    one per bottom. Parameters: weights (num_output, C / group, *kernel); the bias (num_output,) if `bias_term`. Source:
    conv_layer.cpp.
    """

    fused_forward = BaseConvolution.forward

    def weight_channels(self) -> tuple[int, int]:
        return self.num_output, self.channels // self.groups

    def output_size(self, size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
        return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1

    def convolve(self, x, weights, bias, y, slope: float | None = None) -> None:
        self.engine.forward(x, weights, bias, y, slope)

    def convolve_back(self, dy, weights, dx) -> None:
        self.engine.backward_data(dy, weights, dx)

    def convolve_weights(self, x, dy, dw) -> None:
        self.engine.backward_weight(x, dy, dw)


@register("DepthwiseConvolution", "ConvolutionDepthwise")
class DepthwiseConvolution(Convolution):
    """Convolution with one group per channel; `group` is left out or the number of channels.

    Bottoms: (N, C, *spatial). Tops: (N, num_output, *output), one per bottom, with num_output a multiple of C.
    Parameters: weights (num_output, 1, *kernel); the bias (num_output,) if `bias_term`. Source:
    depthwise_conv_layer.cpp and conv_dw_layer.cpp of the MobileNet forks.
    """

    fused_forward = BaseConvolution.forward

    def group_count(self) -> int:
        group = self.param.convolution_param.group
        self.expect(
            group in (1, self.channels), f"group must be the number of channels ({self.channels}), actual {group}"
        )
        return self.channels


@register("Deconvolution")
class Deconvolution(BaseConvolution):
    """The transpose of a convolution, plus a bias: what its backward pass does to the gradient.

    An axis of size s becomes one of stride (s - 1) + extent - 2 pad. Bottoms: (N, C, *spatial) with up to three spatial
    axes; several share the weights. Tops: (N, num_output, *output), one per bottom. Parameters: weights (C, num_output
    / group, *kernel); the bias (num_output,) if `bias_term`. Source: deconv_layer.cpp.
    """

    fused_forward = BaseConvolution.forward

    def weight_channels(self) -> tuple[int, int]:
        return self.channels, self.num_output // self.groups

    def output_size(self, size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
        return stride * (size - 1) + dilation * (kernel - 1) + 1 - 2 * pad

    def workspace(self, bottom: Blob, top: Blob, backward: bool) -> int:
        return super().workspace(top, bottom, True)

    def convolve(self, x, weights, bias, y, slope: float | None = None) -> None:
        self.engine.backward_data(x, weights, y)
        convolution.finish(y, bias, slope)

    def convolve_back(self, dy, weights, dx) -> None:
        self.engine.forward(dy, weights, None, dx)

    def convolve_weights(self, x, dy, dw) -> None:
        self.engine.backward_weight(dy, x, dw)
