"""Convolution on a GPU by minimal filtering (kernels/winograd_tiles.cu) around the matrix products of cuBLAS.

In float32 it takes a third of cuDNN's time or less for the 3 x 3 convolutions of VGG16; in TF32 cuDNN is faster. The
gradient to the weights stays with cuDNN, whose own minimal filtering is fast there.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Sequence

import numpy as np

from caffelite import backend
from caffelite.backend import convolution as ways
from caffelite.backend import xp
from caffelite.backend.gemm import gemm_batch
from caffelite.backend.kernels import MOST_ELEMENTS, kernels

PAIRS = 36
TILE = {3: 4, 5: 2}  # {length of the kernel's sides: of a tile of outputs}
WORTH_CHANNELS = 32  # with fewer, or with fewer pixels, bringing numbers to their points costs more than it saves
WORTH_PIXELS = 1000
SHAPES = 2**14  # that are remembered
log = logging.getLogger("caffelite")


def worth(convolution: ways.Convolution, x_shape: Sequence[int], w_shape: Sequence[int]) -> bool:
    """Whether this convolution is faster so than by cuDNN, in both directions."""
    if backend.tf32_allowed():
        return False
    return _worth(convolution, tuple(x_shape), tuple(w_shape), _device())


@functools.lru_cache(SHAPES)
def _worth(convolution: ways.Convolution, x_shape, w_shape, device: int) -> bool:
    side = w_shape[2]
    if side not in TILE or w_shape[2:] != (side, side) or max(convolution.pad) >= side:
        return False
    if set(convolution.stride) != {1} or set(convolution.dilation) != {1}:
        return False
    pixels = x_shape[0] * math.prod(convolution.output_shape(x_shape, w_shape)[2:])
    channels = min(w_shape[0] // convolution.groups, w_shape[1])
    return (
        channels >= WORTH_CHANNELS
        and pixels >= WORTH_PIXELS
        and all(_tiles(convolution, x_shape, w_shape, backward, device).fit for backward in (False, True))
    )


class GpuWinograd:
    """Kernels of 3 x 3 or 5 x 5 with stride 1, in float32."""

    @staticmethod
    def forward(convolution: ways.Convolution, x, w, bias, y, slope: float | None = None) -> None:
        if not _run(_tiles(convolution, x.shape, w.shape, False, _device()), x, w, bias, y, slope):
            ways.gpu_implementation().forward(convolution, x, w, bias, y, slope)

    @staticmethod
    def backward_data(convolution: ways.Convolution, dy, w, dx) -> None:
        if not _run(_tiles(convolution, dx.shape, w.shape, True, _device()), dy, w, None, dx, None):
            ways.gpu_implementation().backward_data(convolution, dy, w, dx)

    @staticmethod
    def backward_weight(convolution: ways.Convolution, x, dy, dw) -> None:
        ways.gpu_implementation().backward_weight(convolution, x, dy, dw)

    @staticmethod
    def workspace(convolution: ways.Convolution, x_shape, w_shape, backward: bool) -> int:
        size = _tiles(convolution, x_shape, w_shape, False, _device()).bytes
        if backward:
            other = ways.gpu_implementation().workspace(convolution, x_shape, w_shape, True)
            size = max(size, other, _tiles(convolution, x_shape, w_shape, True, _device()).bytes)
        return size


class Tiles:
    """How images become tiles of the outputs or, `backward`, of the gradient to x: from as many images at a time as
    there is scratch memory for; `fit` says whether that is at least one."""

    def __init__(self, convolution: ways.Convolution, x_shape, w_shape, backward: bool, room: int):
        y_shape = convolution.output_shape(x_shape, w_shape)
        self.backward, self.side, self.groups = backward, w_shape[2], convolution.groups
        self.pad = tuple(self.side - 1 - pad for pad in convolution.pad) if backward else convolution.pad
        self.source, self.target = (y_shape[1:], x_shape[1:]) if backward else (x_shape[1:], y_shape[1:])
        self.down, self.across = (-(-size // TILE[self.side]) for size in self.target[1:])
        of_weights = 4 * PAIRS * math.prod(w_shape[:2])
        of_an_image = 4 * PAIRS * self.down * self.across * (self.source[0] + self.target[0])
        most = min(room - of_weights, 4 * MOST_ELEMENTS) // of_an_image
        self.fit = most > 0
        self.images = max(1, min(most, x_shape[0]))
        self.bytes = self.images * of_an_image + of_weights


@functools.lru_cache(SHAPES)
def _tiles(convolution: ways.Convolution, x_shape, w_shape, backward: bool, device: int) -> Tiles:
    room = 4 * MOST_ELEMENTS if device is None else backend.scratch_limit()
    return Tiles(convolution, x_shape, w_shape, backward, room)


def _device() -> int | None:
    return xp.cuda.runtime.getDevice() if backend.on_gpu() else None


def _run(tiles: Tiles, x, w, bias, y, slope: float | None) -> bool:
    """y = x * w + bias and the ReLU that follows, or the gradient; False where there is no memory for it."""
    kernel, groups, side = kernels("winograd_tiles"), tiles.groups, tiles.side
    at_points, of_image, to_output = (getattr(kernel, f"{name}_{side}") for name in ("weights", "image", "output"))
    (channels, *source), (outputs, *target) = tiles.source, tiles.target
    try:
        u = xp.empty((PAIRS * groups, outputs // groups, channels // groups), np.float32)
        at_points(w.size // side**2, w, w.shape[1], w.shape[0] // groups, int(tiles.backward), u)
        for first in range(0, len(x), tiles.images):
            some, into = x[first : first + tiles.images], y[first : first + tiles.images]
            count = len(some) * tiles.down * tiles.across
            v = xp.empty((PAIRS * groups, channels // groups, count), np.float32)
            of_image(channels * count, some, channels, *source, *tiles.pad, tiles.down, tiles.across, count, v)
            m = xp.empty((PAIRS * groups, outputs // groups, count), np.float32)
            gemm_batch(u, v, m)
            last = bias, *ways.rectified(slope), outputs, *target, tiles.down, tiles.across, count, into
            to_output(outputs * count, m, *last)
            del v, m  # their memory is for the next images
    except MemoryError:
        log.warning(
            "no room on the GPU for %d MiB of scratch memory: a convolution is left to another way, which may round "
            "otherwise", tiles.bytes >> 20,
        )  # fmt: skip
        return False
    return True
