"""A layer with kernels of its own: Maxout."""

from pathlib import Path

from caffelite import Layer, register
from caffelite.backend import xp
from caffelite.backend.kernels import kernels

MAXOUT = Path(__file__).with_name("maxout.cu")


@register("Maxout")
class Maxout(Layer):
    """Channel c of the top is the greatest of the channels c k to c k + k - 1 of the bottom; param_str is k (2).

    Bottom: (N, C k, ...). Top: (N, C, ...). Source: Goodfellow et al., "Maxout networks", 2013.
    """

    exact_bottoms = 1
    exact_tops = 1

    def setup(self, bottom, top):
        self.pieces = int(self.param_str or 2)

    def reshape(self, bottom, top):
        shape, k = bottom[0].shape, self.pieces
        self.expect(len(shape) > 1 and k > 0 and shape[1] % k == 0, f"expected (N, C {k}, ...), actual {shape}")
        top[0].reshape(shape[0], shape[1] // k, *shape[2:])

    def forward(self, bottom, top):
        y = top[0].array
        self.winner = xp.empty(y.shape, xp.int32)
        self.sizes = y.size, y.shape[0] * y.shape[1], self.pieces, top[0].count_from(2)
        kernels(MAXOUT).maxout_forward(*self.sizes, bottom[0].array, y, self.winner)

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            kernels(MAXOUT).maxout_backward(*self.sizes, top[0].gradient, self.winner, bottom[0].gradient)
