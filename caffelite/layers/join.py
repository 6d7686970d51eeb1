"""Layers that join, cut and repeat blobs: Concat, Slice, Crop, Tile; and Silence, which swallows them."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

from caffelite.layer import Layer, register


class AlongAxis(Layer):
    """What Concat and Slice share: an axis in its two spellings, and the range of it that each small blob has."""

    def find_axis(self, bottom, param, legacy: str) -> int:
        """`axis` of the parameters (may be negative), or its old unsigned spelling."""
        self.expect(
            not (param.HasField("axis") and param.HasField(legacy)), f"expected either axis or {legacy}, actual both"
        )
        self.expect(bottom[0].ndim > 0, "expected a bottom with axes, actual a scalar")
        return self.axis(bottom[0], getattr(param, legacy) if param.HasField(legacy) else param.axis)

    def set_ranges(self, axis: int, sizes: list[int]) -> None:
        """Let blob i have `sizes[i]` of the axis; `self.ranges[i]` then selects it."""
        ends = accumulate(sizes, initial=0)
        self.ranges = [(slice(None),) * axis + (slice(start, end),) for start, end in pairwise(ends)]


@register("Concat")
class Concat(AlongAxis):
    """The bottoms one behind the other along `axis` (default 1) or `concat_dim`.

    Bottoms: shapes that differ along the axis only, e.g. (N, C_i, H, W). Top: (N, sum of C_i, H, W). Source:
    concat_layer.cpp.
    """

    min_bottoms = 1
    exact_tops = 1
    in_place = False

    def reshape(self, bottom, top):
        axis = self.find_axis(bottom, self.param.concat_param, "concat_dim")
        shape = bottom[0].shape
        for i, blob in enumerate(bottom):
            self.expect(
                blob.ndim == len(shape) and all(blob.shape[k] == d for k, d in enumerate(shape) if k != axis),
                f"expected shapes that differ along axis {axis} only, actual {shape} (bottom 0) and "
                f"{blob.shape} (bottom {i})",
            )
        sizes = [blob.shape[axis] for blob in bottom]
        self.set_ranges(axis, sizes)
        top[0].reshape(*shape[:axis], sum(sizes), *shape[axis + 1 :])
        if len(bottom) == 1:
            top[0].share_data(bottom[0])
            top[0].share_diff(bottom[0])

    def forward(self, bottom, top):
        if len(bottom) > 1:
            y = top[0].array
            for blob, where in zip(bottom, self.ranges):
                y[where] = blob.array

    def backward(self, top, propagate_down, bottom):
        if len(bottom) > 1:
            dy = top[0].gradient
            for blob, where, down in zip(bottom, self.ranges, propagate_down):
                if down:
                    blob.gradient[...] = dy[where]


@register("Slice")
class Slice(AlongAxis):
    """The bottom cut along `axis` (default 1) or `slice_dim`, at each slice_point or into equal parts.

    Bottom: e.g. (N, C, H, W). Tops: the parts in their order, e.g. (N, C_i, H, W). Source: slice_layer.cpp.
    """

    exact_bottoms = 1
    min_tops = 1
    in_place = False

    def reshape(self, bottom, top):
        param, shape = self.param.slice_param, bottom[0].shape
        axis = self.find_axis(bottom, param, "slice_dim")
        points, size = list(param.slice_point), shape[axis]
        if points:
            self.expect(
                len(points) == len(top) - 1,
                f"expected {len(top) - 1} slice_point(s) for {len(top)} tops, actual {len(points)}",
            )
            cuts = [0, *points, size]
            self.expect(
                all(a < b for a, b in pairwise(cuts)),
                f"expected slice points that rise between 0 and {size} (axis {axis} of {shape}), actual {points}",
            )
            sizes = [b - a for a, b in pairwise(cuts)]
        else:
            self.expect(
                size % len(top) == 0,
                f"expected a bottom that {len(top)} tops cut evenly, actual {size} (axis {axis} of {shape})",
            )
            sizes = [size // len(top)] * len(top)
        self.set_ranges(axis, sizes)
        for blob, part in zip(top, sizes):
            blob.reshape(*shape[:axis], part, *shape[axis + 1 :])
        if len(top) == 1:
            top[0].share_data(bottom[0])
            top[0].share_diff(bottom[0])

    def forward(self, bottom, top):
        if len(top) > 1:
            x = bottom[0].array
            for blob, where in zip(top, self.ranges):
                blob.array[...] = x[where]

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0] and len(top) > 1:
            dx = bottom[0].gradient
            for blob, where in zip(top, self.ranges):
                dx[where] = blob.gradient


@register("Crop")
class Crop(Layer):
    """The part of bottom 0 that has bottom 1's size along `axis` (default 2) and all axes behind it.

    It starts at `offset`: none (0), one for all those axes, or one each. Bottoms: e.g. (N, C, H, W); a blob that gives
    its shape only and gets no gradient, e.g. (M, D, H', W'). Top: (N, C, H', W'). Source: crop_layer.cpp.
    """

    exact_bottoms = 2
    exact_tops = 1
    in_place = False

    def reshape(self, bottom, top):
        param, shape, reference = self.param.crop_param, bottom[0].shape, bottom[1].shape
        start, offsets = self.axis(bottom[0], param.axis), list(param.offset) or [0]
        cropped = len(shape) - start
        if len(offsets) == 1:
            offsets *= cropped
        self.expect(
            len(offsets) == cropped,
            f"expected 1 offset or {cropped}, one for each axis from {start} on of bottom 0, shape {shape}, "
            f"actual {len(offsets)}",
        )
        self.expect(
            len(reference) >= len(shape), f"expected the axes of bottom 0, {shape}, in bottom 1, actual {reference}"
        )
        self.window = (slice(None),) * start
        for axis, offset in enumerate(offsets, start):
            self.expect(
                offset + reference[axis] <= shape[axis],
                f"axis {axis}: offset {offset} and size {reference[axis]} do not fit into bottom 0, shape {shape}",
            )
            self.window += (slice(offset, offset + reference[axis]),)
        top[0].reshape(*shape[:start], *reference[start : len(shape)])

    def forward(self, bottom, top):
        top[0].array[...] = bottom[0].array[self.window]

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            dx = bottom[0].gradient
            dx[...] = 0
            dx[self.window] = top[0].gradient
        if propagate_down[1]:
            bottom[1].gradient[...] = 0


@register("Tile")
class Tile(Layer):
    """The bottom repeated `tiles` times along `axis` (default 1; may be negative).

    Bottom: e.g. (N, C, H, W). Top: (N, C * tiles, H, W). Source: tile_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1
    in_place = False

    def setup(self, bottom, top):
        param = self.param.tile_param
        self.expect(param.tiles > 0, f"expected a number of tiles above 0, actual {param.tiles or 'none'}")

    def reshape(self, bottom, top):
        shape, tiles = bottom[0].shape, self.param.tile_param.tiles
        axis = self.axis(bottom[0], self.param.tile_param.axis)
        self.expect(bottom[0].ndim > 0, "expected a bottom with axes, actual a scalar")
        self.rows = (math.prod(shape[:axis]), 1, math.prod(shape[axis:]))
        self.tiled = (self.rows[0], tiles, self.rows[2])
        top[0].reshape(*shape[:axis], shape[axis] * tiles, *shape[axis + 1 :])

    def forward(self, bottom, top):
        top[0].array.reshape(self.tiled)[...] = bottom[0].array.reshape(self.rows)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            top[0].gradient.reshape(self.tiled).sum(axis=1, keepdims=True, out=bottom[0].gradient.reshape(self.rows))


@register("Silence")
class Silence(Layer):
    """Keeps unused bottoms from being outputs of the net; their gradient is 0.

    Bottoms: any shapes. Source: silence_layer.cpp.
    """

    min_bottoms = 1
    exact_tops = 0

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        for blob, down in zip(bottom, propagate_down):
            if down:
                blob.gradient[...] = 0
