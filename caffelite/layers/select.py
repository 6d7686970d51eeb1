"""Layers that select by value or index: ArgMax, BatchReindex, Filter, Embed."""

from __future__ import annotations

import numpy as np

from caffelite.backend import xp
from caffelite.backend.convolution import finish
from caffelite.backend.kernels import kernels
from caffelite.layer import Layer, register


@register("ArgMax")
class ArgMax(Layer):
    """Indices of the top_k (default 1) largest elements; with out_max_val their values. No backward pass.

    On a tie the larger index comes first. Bottom: any shape (N, ...). Top: without `axis`, over all but the first axis,
    (N, 1, top_k), or (N, 2, top_k) of indices and values (with four or more axes in the bottom, 1s follow); with
    `axis`, along it, the bottom's shape with top_k there: indices, or with out_max_val values. Source:
    argmax_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1
    in_place = False

    def setup(self, bottom, top):
        self.expect(self.param.argmax_param.top_k >= 1, "expected a top_k of at least 1, actual 0")

    def reshape(self, bottom, top):
        param, shape, k = self.param.argmax_param, bottom[0].shape, self.param.argmax_param.top_k
        self.expect(len(shape) > 0, "expected a bottom with axes, actual a scalar")
        axis = self.axis(bottom[0], param.axis) if param.HasField("axis") else None
        if axis is None:
            self.dim, self.inner = bottom[0].count_from(1), 1
            top_shape = [shape[0], 2 if param.out_max_val else 1, k] + [1] * (len(shape) - 3)
        else:
            self.dim, self.inner = shape[axis], bottom[0].count_from(axis + 1)
            top_shape = [*shape[:axis], k, *shape[axis + 1 :]]
        self.expect(k <= self.dim, f"expected a top_k of at most {self.dim}, actual {k} (bottom: {shape})")
        top[0].reshape(*top_shape)

    def forward(self, bottom, top):
        param, x, y = self.param.argmax_param, bottom[0].array, top[0].array
        columns = x.size // self.dim
        shape = (columns // self.inner, param.top_k, self.inner) if self.inner else (0, param.top_k, 0)
        indices, values = xp.empty(shape, np.float32), xp.empty(shape, np.float32)
        kernels("select").largest(columns, x, self.dim, self.inner, param.top_k, indices, values)
        if not param.out_max_val:
            y[...] = indices.reshape(y.shape)
        elif param.HasField("axis"):
            y[...] = values.reshape(y.shape)
        else:
            y[...] = xp.stack([indices, values], axis=1).reshape(y.shape)


@register("BatchReindex")
class BatchReindex(Layer):
    """top[i] = bottom 0[index i of bottom 1].

    Bottoms: items (N, ...); indices (M,), which get no gradient. Top: (M, ...). Source: batch_reindex_layer.cpp.
    """

    exact_bottoms = 2
    exact_tops = 1
    in_place = False

    def reshape(self, bottom, top):
        self.expect(bottom[1].ndim == 1, f"expected a bottom 1 of one axis, actual shape {bottom[1].shape}")
        self.expect(bottom[0].ndim > 0, "expected a bottom 0 with axes, actual a scalar")
        top[0].reshape(*bottom[1].shape, *bottom[0].shape[1:])

    def forward(self, bottom, top):
        self.rows = whole_indices(self, bottom[1].read(), bottom[0].shape[0], "bottom 1")
        top[0].array[...] = bottom[0].array[xp.asarray(self.rows)]

    def backward(self, top, propagate_down, bottom):
        self.expect(not propagate_down[1], "no gradient exists for the indices (bottom 1)")
        if propagate_down[0]:
            dx, dy = bottom[0].gradient, top[0].gradient
            dx[...] = 0
            kernels("select").add_rows(bottom[0].count_from(1), dy, xp.asarray(self.rows), len(self.rows), dx)


@register("Filter")
class Filter(Layer):
    """Top i holds the items of bottom i whose entry in the last bottom, the selector, is not 0.

    When the net is built, before there is data, the tops have all N items. Bottoms: blobs (N, ...); the selector (N, 1,
    ...), which gets no gradient. Tops: (selected, ...), one per bottom but the selector. Source: filter_layer.cpp.
    """

    min_bottoms = 2
    min_tops = 1
    in_place = False
    selected = None

    def setup(self, bottom, top):
        self.expect(
            len(top) == len(bottom) - 1,
            f"expected one top for each bottom but the selector: {len(bottom) - 1}, actual {len(top)}",
        )

    def reshape(self, bottom, top):
        *blobs, selector = bottom
        self.expect(
            selector.ndim > 0 and selector.count == selector.shape[0],
            f"expected a selector (the last bottom) of one number for each item, actual shape {selector.shape}",
        )
        for i, blob in enumerate(blobs):
            self.expect(
                blob.shape[:1] == selector.shape[:1],
                f"bottom {i} has shape {blob.shape}, the selector {selector.shape}: expected the same first axis",
            )
        if self.selected is None:
            self.selected = range(selector.count)
        else:
            self.selected = np.flatnonzero(selector.read())
        for blob, out in zip(blobs, top):
            out.reshape(len(self.selected), *blob.shape[1:])

    def forward(self, bottom, top):
        rows = xp.asarray(self.selected)
        for blob, out in zip(bottom, top):
            out.array[...] = blob.array[rows]

    def backward(self, top, propagate_down, bottom):
        self.expect(not propagate_down[-1], "no gradient exists for the selector (the last bottom)")
        rows = xp.asarray(self.selected)
        for blob, out, down in zip(bottom, top, propagate_down):
            if down:
                blob.gradient[...] = 0
                blob.gradient[rows] = out.gradient


@register("Embed")
class Embed(Layer):
    """top[..., :] = row bottom[...] of a table, plus a bias.

    Bottom: indices of any shape, which get no gradient. Top: one more axis, of num_output. Parameters: table
    (input_dim, num_output); bias (num_output,) unless bias_term is false. Source: embed_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1
    in_place = False

    def setup(self, bottom, top):
        param = self.param.embed_param
        self.expect(param.num_output > 0, "expected a num_output above 0, actual 0 or none")
        self.expect(param.input_dim > 0, "expected an input_dim above 0, actual 0 or none")
        self.add_param((param.input_dim, param.num_output), param.weight_filler)
        if param.bias_term:
            self.add_param((param.num_output,), param.bias_filler)

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape, self.param.embed_param.num_output)

    def forward(self, bottom, top):
        y, table = top[0].array, self.blobs[0].array
        self.rows = whole_indices(self, bottom[0].read().ravel(), len(table), "bottom 0")
        y[...] = table[xp.asarray(self.rows)].reshape(y.shape)
        if len(self.blobs) == 2:
            finish(y.reshape(len(self.rows), y.shape[-1]), self.blobs[1].array, None)

    def backward(self, top, propagate_down, bottom):
        self.expect(not propagate_down[0], "no gradient exists for the indices (bottom 0)")
        dy = top[0].gradient
        if self.param_propagate_down[0]:
            table = self.blobs[0].gradient
            kernels("select").add_rows(table.shape[1], dy, xp.asarray(self.rows), len(self.rows), table)
        if len(self.blobs) == 2 and self.param_propagate_down[1]:
            outputs, db = dy.shape[-1], self.blobs[1].gradient
            kernels("inner_product").bias_gradient(outputs, len(self.rows), outputs, dy, db)


def whole_indices(layer: Layer, values: np.ndarray, count: int, what: str) -> np.ndarray:
    """The values, whole numbers of 0..count-1, as int32. Raises LayerError naming the first that is none."""
    wrong = np.flatnonzero(~((values >= 0) & (values < count) & (values == np.floor(values))))
    if wrong.size:
        i = wrong[0]
        raise layer.error(f"{what}, element {i}: expected an index from 0 to {count - 1}, actual {values[i]}")
    return values.astype(np.int32)
