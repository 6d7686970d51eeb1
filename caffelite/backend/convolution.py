"""Convolution over one, two or three axes: compiled implicit matrix products on a CPU, im2col and matmul elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from caffelite import backend
from caffelite.backend import xp
from caffelite.backend.gemm import gemm
from caffelite.backend.kernels import kernels, warps

AXES = 3
# with less than this, bringing kernels and tiles to their points costs more than the products that it saves
WORTH_CHANNELS = 16
WORTH_PIXELS = 200
PART = 512  # elements of a plane that a warp finishes


class Convolution:
    """Convolution with one pad, stride and dilation (pixels) per spatial axis, and groups.

    x: (N, C, *spatial), w: (O, C / groups, *kernel), y: (N, O, *output_shape), bias: (O,); all C-contiguous float32 of
    one machine. On the CPU the bits do not depend on the number of threads.
    """

    def __init__(self, pad: Sequence[int], stride: Sequence[int], dilation: Sequence[int], groups: int = 1):
        if not len(pad) == len(stride) == len(dilation) <= AXES:
            raise ValueError(
                f"convolution: expected pad, stride and dilation for each of up to {AXES} axes, "
                f"actual {tuple(pad)}, {tuple(stride)}, {tuple(dilation)}"
            )
        if min(pad) < 0 or min(stride) < 1 or min(dilation) < 1 or groups < 1:
            raise ValueError(
                f"convolution: expected pad >= 0, stride, dilation and groups >= 1, "
                f"actual {tuple(pad)}, {tuple(stride)}, {tuple(dilation)}, {groups}"
            )
        self.pad, self.stride, self.dilation = tuple(pad), tuple(stride), tuple(dilation)
        self.groups = groups

    def output_shape(self, x_shape: Sequence[int], w_shape: Sequence[int]) -> tuple[int, ...]:
        """(N, O, *spatial) of the convolution's output. Raises ValueError where x and w do not fit each other."""
        x_shape, w_shape = tuple(x_shape), tuple(w_shape)
        if len(x_shape) != len(self.pad) + 2 or len(w_shape) != len(x_shape):
            raise ValueError(f"convolution over {len(self.pad)} axes: actual x {x_shape}, w {w_shape}")
        if x_shape[1] != w_shape[1] * self.groups or w_shape[0] % self.groups:
            raise ValueError(
                f"convolution in {self.groups} groups: expected w (O, {x_shape[1]} / {self.groups}, ...) with O a "
                f"multiple of {self.groups}, actual x {x_shape}, w {w_shape}"
            )
        spatial = tuple(
            (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, pad, stride, dilation in zip(
                x_shape[2:], w_shape[2:], self.pad, self.stride, self.dilation
            )
        )
        if min(spatial) < 1:
            raise ValueError(
                f"convolution: a kernel {w_shape[2:]} with dilation {self.dilation} does not fit into an image "
                f"{x_shape[2:]} padded by {self.pad}"
            )
        return (x_shape[0], w_shape[0], *spatial)

    def forward(self, x, w, bias, y, slope: float | None = None) -> None:
        """y = x * w + bias, then the ReLU of that negative slope; `bias` and `slope` may be None."""
        self._check(x, w, y)
        if isinstance(x, np.ndarray):
            implementation(self, x, w).forward(self, x, w, bias, y)
            finish(y, None, slope)
        else:
            implementation(self, x, w).forward(self, x, w, bias, y, slope)

    def backward_data(self, dy, w, dx) -> None:
        """dx = the gradient to x of sum(dy * y); the forward pass of a deconvolution."""
        self._check(dx, w, dy)
        implementation(self, dx, w).backward_data(self, dy, w, dx)

    def backward_weight(self, x, dy, dw) -> None:
        """dw += the gradient to w of sum(dy * y)."""
        self._check(x, dw, dy)
        if dy.size:
            implementation(self, x, dw).backward_weight(self, x, dy, dw)

    def backward_bias(self, dy, db) -> None:
        """db += the gradient to the bias: dy summed over images and pixels."""
        if isinstance(dy, np.ndarray):
            kernels("convolution").convolution_backward_bias(dy.shape[0], dy.shape[1], math.prod(dy.shape[2:]), dy, db)
        else:
            gpu_implementation().backward_bias(dy, db)

    def workspace(self, x_shape: Sequence[int], w_shape: Sequence[int], backward: bool) -> int:
        """Bytes of scratch memory that a GPU takes for a forward pass, or both passes; 0 on a CPU: it is little."""
        if not backend.on_gpu():
            return 0
        x_shape, w_shape = tuple(x_shape), tuple(w_shape)
        return _on_gpu(self, x_shape, w_shape).workspace(self, x_shape, w_shape, backward)

    def _check(self, x, w, y) -> None:
        expected = self.output_shape(x.shape, w.shape)
        if y.shape != expected:
            raise ValueError(f"convolution: expected an output {expected}, actual {y.shape}")


def implementation(convolution: Convolution, x, w):
    """The way to convolve such arrays: where a backend for a machine is chosen."""
    if not isinstance(x, np.ndarray):
        return _on_gpu(convolution, x.shape, w.shape)
    if x.ndim > 4:
        return Im2col
    if w.shape[1] == 1 and convolution.groups == x.shape[1] > 1:
        return Depthwise
    if set(convolution.stride) == set(convolution.dilation) == {1} and w.shape[2:] in ((3, 3), (5, 5)):
        images, outputs, *spatial = convolution.output_shape(x.shape, w.shape)
        channels = min(outputs // convolution.groups, w.shape[1])
        if channels >= WORTH_CHANNELS and images * math.prod(spatial) >= WORTH_PIXELS:
            return Winograd
    return ImplicitGemm


def _on_gpu(convolution: Convolution, x_shape, w_shape):
    from caffelite.backend import gpu_winograd

    fast = gpu_winograd.worth(convolution, x_shape, w_shape)
    return gpu_winograd.GpuWinograd if fast else gpu_implementation()


def gpu_implementation():
    """The way to convolve on a GPU that does it all: cuDNN where it is installed."""
    from caffelite.backend import cudnn, cudnn_convolution

    return cudnn_convolution.Cudnn if cudnn.library() else Im2col


class ImplicitGemm:
    """The compiled convolution of kernels/convolution.cc: one or two axes on the CPU."""

    @staticmethod
    def forward(convolution: Convolution, x, w, bias, y) -> None:
        kernels("convolution").convolution_forward(_geometry(convolution, x, w, y), x, w, bias, y)

    @staticmethod
    def backward_data(convolution: Convolution, dy, w, dx) -> None:
        kernels("convolution").convolution_backward_data(_geometry(convolution, dx, w, dy), dy, w, dx)

    @staticmethod
    def backward_weight(convolution: Convolution, x, dy, dw) -> None:
        kernels("convolution").convolution_backward_weight(_geometry(convolution, x, dw, dy), x, dy, dw)


class Winograd(ImplicitGemm):
    """The minimal filtering of kernels/winograd.cc: kernels of 3 x 3 or 5 x 5 with stride 1."""

    @staticmethod
    def forward(convolution: Convolution, x, w, bias, y) -> None:
        kernels("winograd").winograd_forward(_geometry(convolution, x, w, y), x, w, bias, y)

    @staticmethod
    def backward_data(convolution: Convolution, dy, w, dx) -> None:
        kernels("winograd").winograd_backward_data(_geometry(convolution, dx, w, dy), dy, w, dx)

    @staticmethod
    def backward_weight(convolution: Convolution, x, dy, dw) -> None:
        kernels("winograd").winograd_backward_weight(_geometry(convolution, x, dw, dy), x, dy, dw)


class Depthwise:
    """The plane-by-plane convolution of kernels/depthwise.cc: as many groups as channels."""

    @staticmethod
    def forward(convolution: Convolution, x, w, bias, y) -> None:
        kernels("depthwise").depthwise_forward(_geometry(convolution, x, w, y), x, w, bias, y)

    @staticmethod
    def backward_data(convolution: Convolution, dy, w, dx) -> None:
        kernels("depthwise").depthwise_backward_data(_geometry(convolution, dx, w, dy), dy, w, dx)

    @staticmethod
    def backward_weight(convolution: Convolution, x, dy, dw) -> None:
        kernels("depthwise").depthwise_backward_weight(_geometry(convolution, x, dw, dy), x, dy, dw)


class Im2col:
    """Columns written out, image by image, and a matrix product for each group: any machine, up to three axes."""

    @staticmethod
    def forward(convolution: Convolution, x, w, bias, y, slope: float | None = None) -> None:
        columns, arguments = _columns(convolution, x, w, y)
        kernel, groups = w.reshape(convolution.groups, -1, columns.shape[1]), range(convolution.groups)
        for image, out in zip(x, y.reshape(len(y), *kernel.shape[:2], columns.shape[2])):
            kernels("im2col").im2col(columns.size, image, columns, *arguments)
            for group in groups:
                gemm(kernel[group], columns[group], out[group])
        finish(y, bias, slope)

    @staticmethod
    def backward_data(convolution: Convolution, dy, w, dx) -> None:
        columns, arguments = _columns(convolution, dx, w, dy)
        kernel, groups = w.reshape(convolution.groups, -1, columns.shape[1]), range(convolution.groups)
        for image, out in zip(dx, dy.reshape(len(dy), *kernel.shape[:2], columns.shape[2])):
            for group in groups:
                gemm(kernel[group], out[group], columns[group], transpose_a=True)
            kernels("im2col").col2im(image.size, columns, image, *arguments)

    @staticmethod
    def backward_weight(convolution: Convolution, x, dy, dw) -> None:
        columns, arguments = _columns(convolution, x, dw, dy)
        kernel, groups = dw.reshape(convolution.groups, -1, columns.shape[1]), range(convolution.groups)
        for image, out in zip(x, dy.reshape(len(dy), *kernel.shape[:2], columns.shape[2])):
            kernels("im2col").im2col(columns.size, image, columns, *arguments)
            for group in groups:
                gemm(out[group], columns[group], kernel[group], transpose_b=True, accumulate=True)

    @staticmethod
    def backward_bias(dy, db) -> None:
        db += dy.sum(axis=(0, *range(2, dy.ndim)))

    @staticmethod
    def workspace(convolution: Convolution, x_shape, w_shape, backward: bool) -> int:
        pixels = math.prod(convolution.output_shape(x_shape, w_shape)[2:])
        return 4 * convolution.groups * math.prod(w_shape[1:]) * pixels


def finish(y, bias, slope: float | None) -> None:
    """y += bias, then the ReLU of that negative slope, in one pass over y (N, O, *spatial); both may be None."""
    (rows, channels), size = y.shape[:2], math.prod(y.shape[2:])
    if bias is None:
        if slope is not None:
            kernels("activation").relu_forward(-(-y.size // 4), y.size, y, slope, y)
    elif size == 1:
        kernels("inner_product").bias_rows(y.size, rows, channels, bias, *rectified(slope), y)
    else:
        planes, threads = rows * channels, warps(rows * channels * -(-size // PART))
        kernels("activation").finish(threads, planes, channels, size, PART, bias, *rectified(slope), y)


def rectified(slope: float | None) -> tuple[int, float]:
    """Whether a ReLU follows, and its negative slope, as kernels take it."""
    return int(slope is not None), slope or 0.0


def _geometry(convolution: Convolution, x, w, y) -> np.ndarray:
    """The struct Geometry of kernels/convolution.cc; one axis is two, the first of which has one row."""
    c = convolution
    head = [*x.shape[:2], *lift(x.shape[2:], 2), y.shape[1], c.groups]
    return np.array([*head, *_sizes(c, w, 2), *lift(y.shape[2:], 2)], np.int32)


def _columns(convolution: Convolution, x, w, y):
    """Room for one image's columns (groups, taps, pixels), and the sizes that the im2col kernels want."""
    columns = xp.empty((convolution.groups, math.prod(w.shape[1:]), math.prod(y.shape[2:])), np.float32)
    return columns, (*lift(x.shape[2:], AXES), *_sizes(convolution, w, AXES), *lift(y.shape[2:], AXES))


def _sizes(convolution: Convolution, w, axes: int) -> tuple[int, ...]:
    """Kernel, stride, pad and dilation for so many axes."""
    c = convolution
    return (
        *lift(w.shape[2:], axes), *lift(c.stride, axes), *lift(c.pad, axes, 0), *lift(c.dilation, axes)
    )  # fmt: skip


def lift(values: Sequence[int], axes: int, fill: int = 1) -> tuple[int, ...]:
    """The values behind as many `fill` as make one for each of `axes`."""
    return (fill,) * (axes - len(values)) + tuple(values)
