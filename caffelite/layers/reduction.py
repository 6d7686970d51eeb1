"""Reduction."""

from __future__ import annotations

from caffelite.backend import xp
from caffelite.layer import Layer, register


@register("Reduction")
class Reduction(Layer):
    """coeff times the SUM, ASUM (of |x|), SUMSQ (of x^2) or MEAN over `axis` and all axes behind it.

    Bottom: any shape. Top: the axes before `axis` (default 0, may be negative). Source: reduction_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1
    in_place = False

    def reshape(self, bottom, top):
        param = self.param.reduction_param
        start = self.axis(bottom[0], param.axis)
        self.rows = (bottom[0].count_from(0, start), bottom[0].count_from(start))
        self.coeff = param.coeff
        if param.operation == param.MEAN:
            self.expect(self.rows[1] > 0, f"no elements to take the mean of: the bottom has shape {bottom[0].shape}")
            self.coeff /= self.rows[1]
        top[0].reshape(*bottom[0].shape[:start])

    def forward(self, bottom, top):
        param, x, y = self.param.reduction_param, bottom[0].array.reshape(self.rows), top[0].array
        terms = {param.ASUM: xp.abs, param.SUMSQ: xp.square}.get(param.operation)
        y[...] = self.coeff * (terms(x) if terms else x).sum(axis=1).reshape(y.shape)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            param, x = self.param.reduction_param, bottom[0].array.reshape(self.rows)
            dx, dy = bottom[0].gradient.reshape(self.rows), self.coeff * top[0].gradient.reshape(-1, 1)
            slope = {param.ASUM: xp.sign, param.SUMSQ: lambda x: 2 * x}.get(param.operation)
            dx[...] = slope(x) * dy if slope else dy
