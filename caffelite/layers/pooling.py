"""Pooling and SPP."""

from __future__ import annotations

import math

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.blob import Blob
from caffelite.layer import TRAIN, Layer, register
from caffelite.layers.windows import check_reach
from caffelite.proto import message

PoolingParameter = message("PoolingParameter")
MAX_LEVELS = 15  # of a pyramid: one more has over 2^31 bins


def fitting(array, shape: tuple[int, ...], dtype):
    """`array` if it is one of this shape on the current backend, else new memory."""
    return array if isinstance(array, xp.ndarray) and array.shape == tuple(shape) else xp.empty(shape, dtype)


@register("Pooling")
class Pooling(Layer):
    """The maximum, the mean or a random cell of every window of a plane.

    H' = ceil((H + 2 pad - kernel) / stride) + 1 (floor with round_mode FLOOR), less a last window that would start in
    the padding. AVE divides by the cells of the window inside the padded image. MAX: the first maximum wins. STOCHASTIC
    trains on a cell drawn with probability proportional to its value, and tests on the mean weighted so. Bottom: (N, C,
    H, W). Tops: (N, C, H', W'); optionally, with MAX, the index h * W + w of each winner, as floats. Source:
    pooling_layer.cpp, pooling_layer.cu.
    """

    exact_bottoms = 1
    min_tops = 1
    in_place = False

    @property
    def max_tops(self) -> int:
        """MAX may have a second top, the mask."""
        return 2 if self.param.pooling_param.pool == PoolingParameter.MAX else 1

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.pooling_param
        self.method = param.pool
        self.mask = None  # the winners; kept from the first backward pass on, as a frozen layer never needs them
        if param.global_pooling:
            given = [name for name in ("kernel_size", "kernel_h", "kernel_w") if param.HasField(name)]
            self.expect(not given, f"global_pooling takes the whole map: {', '.join(given)} may not be given")
        else:
            given = any(param.HasField(name) for name in ("kernel_size", "kernel_h", "kernel_w"))
            self.expect(given, "expected kernel_size, or kernel_h and kernel_w, or global_pooling")
            self.kernel = self.per_side("kernel_size", "kernel_h", "kernel_w")
            self.expect(min(self.kernel) > 0, f"the kernel must be positive, actual {self.kernel}")
        self.stride = self.per_side("stride", "stride_h", "stride_w")
        self.pad = self.per_side("pad", "pad_h", "pad_w")
        self.expect(min(self.stride) > 0, f"the stride must be positive, actual {self.stride}")
        if param.global_pooling:
            self.expect(
                self.stride == (1, 1) and self.pad == (0, 0),
                f"global_pooling works with stride 1 and pad 0 only, actual {self.stride} and {self.pad}",
            )
        elif any(self.pad):
            self.expect(self.method != PoolingParameter.STOCHASTIC, "padding is for MAX and AVE pooling only")
            self.expect(
                self.pad[0] < self.kernel[0] and self.pad[1] < self.kernel[1],
                f"the pad {self.pad} must be less than the kernel {self.kernel}",
            )

    def per_side(self, both: str, height: str, width: str) -> tuple[int, int]:
        """(vertical, horizontal) of an option that is given once or per side."""
        param = self.param.pooling_param
        sides = param.HasField(height), param.HasField(width)
        if not any(sides):
            return (getattr(param, both),) * 2
        self.expect(all(sides) and not param.HasField(both), f"expected {both}, or {height} and {width}, not both")
        return getattr(param, height), getattr(param, width)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.expect(len(shape) == 4, f"expected a bottom (N, C, H, W), actual {shape}")
        if self.param.pooling_param.global_pooling:
            self.kernel = shape[2:]
        self.output = tuple(map(self.output_size, shape[2:], self.kernel, self.stride, self.pad))
        self.expect(
            min(self.output) > 0, f"a kernel {self.kernel} with pad {self.pad} does not fit a map of {shape[2:]}"
        )
        check_reach(self, shape[2:], self.kernel, self.stride, self.pad, (1, 1))
        for blob in top:
            blob.reshape(*shape[:2], *self.output)
        self.planes = shape[0] * shape[1]
        self.windows = (*shape[2:], *self.output, *self.kernel, *self.stride)

    def output_size(self, size: int, kernel: int, stride: int, pad: int) -> int:
        """Length of one axis of the output."""
        room = size + 2 * pad - kernel
        floor = self.param.pooling_param.round_mode == PoolingParameter.FLOOR
        windows = (room // stride if floor else -(-room // stride)) + 1
        if any(self.pad) and (windows - 1) * stride >= size + pad:
            windows -= 1
        return windows

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, y = bottom[0].array, top[0].array
        if self.method == PoolingParameter.AVE:
            kernels("pooling").mean_pool_forward(y.size, self.planes, x, *self.windows, *self.pad, y)
        elif self.method == PoolingParameter.STOCHASTIC and self.phase != TRAIN:
            kernels("pooling").stochastic_pool_test(y.size, self.planes, x, *self.windows, y)
        else:
            if self.mask is not None or len(top) > 1:
                self.mask = fitting(self.mask, y.shape, np.int32)
            self.choose(x, y, self.mask)
            if len(top) > 1:
                top[1].array[...] = self.mask

    def choose(self, x, y, mask) -> None:
        """Let one cell of every window win; `mask` may be None."""
        if self.method == PoolingParameter.MAX:
            kernels("pooling").max_pool_forward(y.size, self.planes, x, *self.windows, *self.pad, y, mask)
            return
        chance = xp.asarray(self.random().random(y.shape, np.float32))
        self.mask = fitting(mask, y.shape, np.int32)
        kernels("pooling").stochastic_pool_train(y.size, self.planes, x, chance, *self.windows, y, self.mask)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy, dx = top[0].gradient, bottom[0].gradient
        if self.method == PoolingParameter.AVE:
            kernels("pooling").mean_pool_backward(dx.size, self.planes, dy, *self.windows, *self.pad, dx)
            return
        if self.mask is None:
            self.expect(self.method == PoolingParameter.MAX, "STOCHASTIC pooling has no backward pass in phase TEST")
            self.mask = xp.empty(dy.shape, np.int32)
            self.choose(bottom[0].array, xp.empty_like(dy), self.mask)
        kernels("pooling").max_pool_backward(dx.size, self.planes, dy, self.mask, *self.windows, *self.pad, dx)


@register("SPP")
class SPP(Layer):
    """Spatial pyramid pooling: level i pools the map to 2^i x 2^i bins, and all levels stand behind one another.

    Bottom: (N, C, H, W). Top: (N, C (1 + 4 + 16 + ...)), or (N, C, 1, 1) with a pyramid of height 1. Source:
    spp_layer.cpp; He et al., "Spatial pyramid pooling in deep convolutional networks".
    """

    exact_bottoms = 1
    exact_tops = 1
    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.height = self.param.spp_param.pyramid_height
        self.expect(
            0 < self.height <= MAX_LEVELS,
            f"expected spp_param {{ pyramid_height }} from 1 to {MAX_LEVELS}, actual {self.height}",
        )
        self.map = None

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.expect(len(shape) == 4 and min(shape[2:]) > 0, f"expected a bottom (N, C, H, W), actual {shape}")
        if self.map != shape[2:]:
            self.map = shape[2:]
            self.levels = [self.level(2**i, bottom[0]) for i in range(self.height)]
            self.pooled = [Blob() for _ in self.levels]
        for level, blob in zip(self.levels, self.pooled):
            level.reshape(bottom, [blob])
        self.features = sum(blob.count_from(1) for blob in self.pooled)
        top[0].reshape(shape[0], self.features, *(() if self.height > 1 else (1, 1)))

    def level(self, bins: int, bottom: Blob) -> Pooling:
        """A pooling layer that gives bins x bins outputs."""
        param = type(self.param)(name=self.name, type="Pooling", bottom=self.param.bottom, top=self.param.top)
        pooling = param.pooling_param
        pooling.pool = self.param.spp_param.pool
        pooling.kernel_h, pooling.kernel_w = (math.ceil(size / bins) for size in self.map)
        pooling.stride_h, pooling.stride_w = pooling.kernel_h, pooling.kernel_w
        pooling.pad_h = (pooling.kernel_h * bins - self.map[0] + 1) // 2
        pooling.pad_w = (pooling.kernel_w * bins - self.map[1] + 1) // 2
        layer = Pooling(param, self.phase, self.pass_state, self.where)
        layer.setup([bottom], [Blob()])
        return layer

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        y, start = top[0].array.reshape(bottom[0].shape[0], self.features), 0
        for level, blob in zip(self.levels, self.pooled):
            level.forward(bottom, [blob])
            end = start + blob.count_from(1)
            y[:, start:end] = blob.array.reshape(len(y), end - start)
            start = end

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy, dx, start = top[0].gradient.reshape(bottom[0].shape[0], self.features), bottom[0].gradient, 0
        part = Blob(*bottom[0].shape)
        part.share_data(bottom[0])
        dx[...] = 0
        for level, blob in zip(self.levels, self.pooled):
            end = start + blob.count_from(1)
            blob.gradient.reshape(len(dy), end - start)[...] = dy[:, start:end]
            level.backward([blob], [True], [part])
            dx += part.gradient
            start = end
