"""Eltwise, and Split whose backward pass is a sum of the same kind."""

from __future__ import annotations

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.layer import Layer, register


@register("Eltwise")
class Eltwise(Layer):
    """Sum (with `coeff`, one per bottom, default 1), product or maximum of bottoms of one shape.

    MAX: on a tie of the first two bottoms the gradient goes to the second; a later one must be strictly larger. PROD:
    with stable_prod_grad (default) the gradient is the product of the others, else y / x dy. Bottoms: two or more of
    one shape. Top: of that shape. Source: eltwise_layer.cpp.
    """

    min_bottoms = 2
    exact_tops = 1

    def setup(self, bottom, top):
        param = self.param.eltwise_param
        self.operation = {param.SUM: "sum", param.PROD: "product", param.MAX: "maximum"}[param.operation]
        self.expect(
            len(param.coeff) in (0, len(bottom)),
            f"expected a coeff for each of the {len(bottom)} bottoms or none, actual {len(param.coeff)}",
        )
        self.expect(self.operation != "product" or not param.coeff, "coeff is for SUM: PROD takes none")
        self.coeff = list(param.coeff) or [1.0] * len(bottom)
        self.stable = param.stable_prod_grad

    def reshape(self, bottom, top):
        for i, blob in enumerate(bottom):
            self.expect(
                blob.shape == bottom[0].shape,
                f"expected bottoms of one shape, actual {bottom[0].shape} (bottom 0) and {blob.shape} (bottom {i})",
            )
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        getattr(self, f"_{self.operation}")([blob.array for blob in bottom], top[0].array)

    def backward(self, top, propagate_down, bottom):
        gradient = getattr(self, f"_{self.operation}_backward")
        for i in reversed(range(len(bottom))):  # bottom 0 last: in place, it holds the top's gradient
            if propagate_down[i]:
                gradient(i, bottom, top, bottom[i].gradient)

    def _sum(self, xs, y) -> None:
        add = kernels("elementwise").weighted_sum
        add(y.size, self.coeff[0], xs[0], self.coeff[1], xs[1], y)
        for x, coeff in zip(xs[2:], self.coeff[2:]):
            add(y.size, 1.0, y, coeff, x, y)

    def _sum_backward(self, i, bottom, top, dx) -> None:
        kernels("elementwise").scaled(dx.size, self.coeff[i], top[0].gradient, dx)

    def _product(self, xs, y) -> None:
        multiply = kernels("elementwise").product
        multiply(y.size, xs[0], xs[1], y)
        for x in xs[2:]:
            multiply(y.size, y, x, y)

    def _product_backward(self, i, bottom, top, dx) -> None:
        self.expect(bottom[0] is not top[0], "PROD has no backward pass in place: give its top another name")
        if self.stable:
            first, *others = [blob.array for j, blob in enumerate(bottom) if j != i]
            for other in others:
                kernels("elementwise").product(dx.size, first, other, dx)
                first = dx
            kernels("elementwise").product(dx.size, first, top[0].gradient, dx)
        else:
            xp.divide(top[0].array, bottom[i].array, out=dx)
            dx *= top[0].gradient

    def _maximum(self, xs, y) -> None:
        self.winner = xp.empty(y.size, np.int32)
        kernels("elementwise").maximum(y.size, xs[0], xs[1], y, self.winner)
        for i, x in enumerate(xs[2:], 2):
            kernels("elementwise").next_maximum(y.size, x, i, y, self.winner)

    def _maximum_backward(self, i, bottom, top, dx) -> None:
        kernels("elementwise").maximum_backward(dx.size, self.winner, i, top[0].gradient, dx)


@register("Split")
class Split(Layer):
    """Every top is the bottom; the gradients add up. Nets insert it themselves where a blob has several readers.

    Bottom: any shape. Tops: of that shape, sharing its data. Source: split_layer.cpp.
    """

    exact_bottoms = 1
    min_tops = 1
    in_place = False

    def reshape(self, bottom, top):
        for blob in top:
            blob.reshape(*bottom[0].shape)
            blob.share_data(bottom[0])

    def forward(self, bottom, top):
        pass

    def backward(self, top, propagate_down, bottom):
        if not propagate_down[0]:
            return
        dx, add = bottom[0].gradient, kernels("elementwise").weighted_sum
        diffs = [blob.gradient for blob in top if not blob.diff_memory.untouched]  # which is zero
        if len(diffs) < 2:
            dx[...] = diffs[0] if diffs else 0
        else:
            add(dx.size, 1.0, diffs[0], 1.0, diffs[1], dx)
        for diff in diffs[2:]:
            add(dx.size, 1.0, dx, 1.0, diff, dx)
