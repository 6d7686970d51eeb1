"""A layer in Python: Mish."""

from caffelite import Layer, register
from caffelite.backend import xp


@register("Mish")
class Mish(Layer):
    """y = x tanh(log(1 + exp(x))).

    Bottom and top: any shape. Source: Misra, "Mish: a self regularized non-monotonic activation function", 2019.
    """

    exact_bottoms = 1
    exact_tops = 1
    in_place = False  # the backward pass needs x

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        x = bottom[0].array
        top[0].array[...] = x * xp.tanh(xp.logaddexp(x, 0))

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            x = bottom[0].array
            t = xp.tanh(xp.logaddexp(x, 0))
            sigmoid = 0.5 * (1 + xp.tanh(0.5 * x))
            bottom[0].gradient[...] = top[0].gradient * (t + x * (1 - t * t) * sigmoid)
