"""Layers that give the same numbers another shape: Reshape, Flatten, Permute."""

from __future__ import annotations

import math

from caffelite.layer import Layer, register


class SharesMemory(Layer):
    """A layer whose top is the bottom's memory, data and diff, under another shape: it computes nothing."""

    exact_bottoms = 1
    exact_tops = 1
    in_place = False

    def share(self, bottom, top, shape: tuple[int, ...]) -> None:
        """Make the top the bottom's memory in a shape."""
        top[0].reshape(*shape)
        top[0].share_data(bottom[0])
        top[0].share_diff(bottom[0])

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        pass


@register("Reshape")
class Reshape(SharesMemory):
    """Replace the bottom's axes from `axis` on, `num_axes` of them (-1: all), by the dimensions of `shape`.

    A dimension 0 is copied from the bottom, one -1 is what makes the counts equal. `axis` may be negative: -1 is behind
    the last one. Bottom and top: any shapes of one count; they share memory. Source: reshape_layer.cpp.
    """

    def setup(self, bottom, top):
        self.dims = list(self.param.reshape_param.shape.dim)
        wrong = [d for d in self.dims if d < -1]
        self.expect(not wrong, f"shape {self.dims}: expected dimensions of at least -1, actual {wrong}")
        self.expect(self.dims.count(-1) <= 1, f"shape {self.dims}: at most one dimension can be -1")

    def reshape(self, bottom, top):
        self.share(bottom, top, self.top_shape(bottom[0].shape))

    def top_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the top for a shape of the bottom. Raises LayerError."""
        param, axes = self.param.reshape_param, len(shape)
        start = param.axis if param.axis >= 0 else axes + param.axis + 1
        self.expect(0 <= start <= axes, f"axis {param.axis} is out of range for the bottom, shape {shape}")
        self.expect(param.num_axes >= -1, f"expected num_axes of at least 0, or -1 for all, actual {param.num_axes}")
        end = axes if param.num_axes == -1 else start + param.num_axes
        self.expect(end <= axes, f"axis {start} + num_axes {param.num_axes} is beyond the last axis of {shape}")
        dims = list(self.dims)
        for i, d in enumerate(dims):
            if d == 0:
                self.expect(start + i < axes, f"shape {self.dims}: a 0 has no axis to copy in the bottom, {shape}")
                dims[i] = shape[start + i]
        top = [*shape[:start], *dims, *shape[end:]]
        count = math.prod(shape)
        if -1 in dims:
            known = -math.prod(top)
            self.expect(
                known > 0 and count % known == 0,
                f"the bottom's {count} elements, {shape}, cannot be divided by the {known} of {top} to find the -1",
            )
            top[start + dims.index(-1)] = count // known
        self.expect(
            math.prod(top) == count, f"expected as many elements as in the bottom, {shape}: {count}, actual {top}"
        )
        return tuple(top)


@register("Flatten")
class Flatten(SharesMemory):
    """One axis in place of the axes `axis` to `end_axis` (default 1 to the last).

    Bottom: e.g. (N, C, H, W). Top: (N, C * H * W), sharing its memory. Source: flatten_layer.cpp.
    """

    def reshape(self, bottom, top):
        shape, param = bottom[0].shape, self.param.flatten_param
        start, end = self.axis(bottom[0], param.axis), self.axis(bottom[0], param.end_axis) + 1
        self.expect(start <= end, f"axis {param.axis} is behind end_axis {param.end_axis} in {shape}")
        self.share(bottom, top, (*shape[:start], math.prod(shape[start:end]), *shape[end:]))


@register("Permute")
class Permute(Layer):
    """Axis i of the top is axis order[i] of the bottom; axes not named follow in their order.

    Bottom and top: any shape, as many axes. Source: permute_layer.cpp of the SSD fork.
    """

    exact_bottoms = 1
    exact_tops = 1

    def reshape(self, bottom, top):
        shape, order = bottom[0].shape, list(self.param.permute_param.order)
        self.expect(
            len(set(order)) == len(order) and all(axis < len(shape) for axis in order),
            f"expected an order of different axes of the bottom, shape {shape}, actual {order}",
        )
        self.order = order + [axis for axis in range(len(shape)) if axis not in order]
        self.expect(
            bottom[0] is not top[0] or self.identity, "Permute does not run in place: give its top another name"
        )
        top[0].reshape(*(shape[axis] for axis in self.order))
        if self.identity:
            top[0].share_data(bottom[0])
            top[0].share_diff(bottom[0])

    @property
    def identity(self) -> bool:
        """True where nothing changes place."""
        return self.order == sorted(self.order)

    def forward(self, bottom, top):
        if not self.identity:
            top[0].array[...] = bottom[0].array.transpose(self.order)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0] and not self.identity:
            inverse = [self.order.index(axis) for axis in range(len(self.order))]
            bottom[0].gradient[...] = top[0].gradient.transpose(inverse)
