"""Activations that are a formula: AbsVal, BNLL, Clip, ELU, Exp, Log, Power, Sigmoid, Swish, TanH, Threshold."""

from __future__ import annotations

import math

from caffelite.backend import xp
from caffelite.layer import register
from caffelite.layers.activation import Activation, KeepsInput


class Function(KeepsInput, Activation):
    """y = value(x), with the gradient dx = derivative(x, y) dy.

    Where the derivative needs x, an in-place layer keeps a copy (Caffe takes y for x there, which is wrong).
    """

    derivative_needs_input = True

    def value(self, x):
        """f(x)."""
        raise NotImplementedError

    def derivative(self, x, y):
        """f'(x), where y = f(x)."""
        raise NotImplementedError

    def forward(self, bottom, top):
        if self.derivative_needs_input:
            self.keep_input(bottom, top)
        top[0].array[...] = self.value(bottom[0].array)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            slope = self.derivative(self.kept_input(bottom), top[0].array)
            xp.multiply(top[0].gradient, slope, out=bottom[0].gradient)


@register("AbsVal")
class AbsVal(Function):
    """y = |x|; the gradient at 0 is 0.

    Bottom and top: any shape; not in place. Source: absval_layer.cpp.
    """

    in_place = False

    def value(self, x):
        return xp.abs(x)

    def derivative(self, x, y):
        return xp.sign(x)


@register("BNLL")
class BNLL(Function):
    """y = log(1 + exp(x)).

    Bottom and top: any shape; in place if wanted. Source: bnll_layer.cpp.
    """

    def value(self, x):
        return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))

    def derivative(self, x, y):
        e = xp.exp(xp.minimum(x, 50))
        return e / (1 + e)


@register("Clip")
class Clip(Function):
    """y = x held between clip_param's min and max; the gradient passes from min to max.

    Bottom and top: any shape; in place if wanted. Source: clip_layer.cpp.
    """

    def setup(self, bottom, top):
        self.expect(self.param.HasField("clip_param"), "expected clip_param { min: ... max: ... }, actual none")
        self.low, self.high = self.param.clip_param.min, self.param.clip_param.max

    def value(self, x):
        return xp.minimum(xp.maximum(x, self.low), self.high)

    def derivative(self, x, y):
        return (x >= self.low) & (x <= self.high)


@register("ELU")
class ELU(Function):
    """y = x for x > 0, else alpha (exp(x) - 1).

    Bottom and top: any shape; in place if wanted. Source: elu_layer.cpp; Clevert et al., "Fast and accurate deep
    network learning by exponential linear units".
    """

    def setup(self, bottom, top):
        self.alpha = self.param.elu_param.alpha

    def value(self, x):
        return xp.maximum(x, 0) + self.alpha * xp.expm1(xp.minimum(x, 0))

    def derivative(self, x, y):
        return (x > 0) + (x <= 0) * (y + self.alpha)


@register("Exp")
class Exp(Function):
    """y = base^(shift + scale x); base -1, the default, stands for e.

    Bottom and top: any shape; in place if wanted. Source: exp_layer.cpp.
    """

    derivative_needs_input = False

    def setup(self, bottom, top):
        param = self.param.exp_param
        self.log_base, self.scale, self.shift = _log_base(self, param.base), param.scale, param.shift

    def value(self, x):
        return xp.exp((self.log_base * self.scale) * x + self.log_base * self.shift)

    def derivative(self, x, y):
        return (self.log_base * self.scale) * y


@register("Log")
class Log(Function):
    """y = log_base(shift + scale x); base -1, the default, stands for e.

    Bottom and top: any shape; in place if wanted. Source: log_layer.cpp.
    """

    def setup(self, bottom, top):
        param = self.param.log_param
        self.log_base, self.scale, self.shift = _log_base(self, param.base), param.scale, param.shift
        self.expect(self.log_base != 0, "base 1 has no logarithm: 1 / log(base) is infinite")

    def value(self, x):
        return xp.log(self.scale * x + self.shift) / self.log_base

    def derivative(self, x, y):
        return (self.scale / self.log_base) / (self.scale * x + self.shift)


def _log_base(layer: Function, base: float) -> float:
    if base == -1:
        return 1.0
    layer.expect(base > 0, f"expected a base above 0 (or -1 for e), actual {base}")
    layer.expect(math.isfinite(base), f"expected a finite base, actual {base}")
    return math.log(base)


@register("Power")
class Power(Function):
    """y = (shift + scale x)^power.

    Bottom and top: any shape; in place if wanted. Source: power_layer.cpp.
    """

    def setup(self, bottom, top):
        param = self.param.power_param
        self.power, self.scale, self.shift = param.power, param.scale, param.shift
        self.constant_derivative = self.power == 1 or self.power * self.scale == 0
        self.derivative_needs_input = not self.constant_derivative

    def value(self, x):
        y = self.scale * x + self.shift
        return y if self.power == 1 else y**self.power

    def derivative(self, x, y):
        factor = self.power * self.scale
        return factor if self.constant_derivative else factor * (self.scale * x + self.shift) ** (self.power - 1)


@register("Sigmoid")
class Sigmoid(Function):
    """y = 1 / (1 + exp(-x)).

    Bottom and top: any shape; in place if wanted. Source: sigmoid_layer.cpp.
    """

    derivative_needs_input = False

    def value(self, x):
        return sigmoid(x)

    def derivative(self, x, y):
        return y * (1 - y)


@register("Swish")
class Swish(Function):
    """y = x sigmoid(beta x).

    Bottom and top: any shape; in place if wanted. Source: swish_layer.cpp.
    """

    def setup(self, bottom, top):
        self.beta = self.param.swish_param.beta

    def value(self, x):
        return x * sigmoid(self.beta * x)

    def derivative(self, x, y):
        return self.beta * y + sigmoid(self.beta * x) * (1 - self.beta * y)


def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow."""
    return 0.5 * xp.tanh(0.5 * x) + 0.5


@register("TanH")
class TanH(Function):
    """y = tanh(x).

    Bottom and top: any shape; in place if wanted. Source: tanh_layer.cpp.
    """

    derivative_needs_input = False

    def value(self, x):
        return xp.tanh(x)

    def derivative(self, x, y):
        return 1 - y * y


@register("Threshold")
class Threshold(Activation):
    """y = 1 where x > threshold (default 0), else 0. No backward pass.

    Bottom and top: any shape; in place if wanted. Source: threshold_layer.cpp.
    """

    def forward(self, bottom, top):
        top[0].array[...] = bottom[0].array > self.param.threshold_param.threshold
