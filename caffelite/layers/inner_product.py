"""InnerProduct: a fully connected layer."""

from __future__ import annotations

from caffelite.backend.convolution import finish
from caffelite.backend.gemm import gemm
from caffelite.backend.kernels import kernels
from caffelite.blob import Blob
from caffelite.layer import Layer, register


@register("InnerProduct")
class InnerProduct(Layer):
    """y = x w^T + b, where all axes of x from `axis` on make one vector of length K.

    Bottom: (*batch, *vector). Top: (*batch, num_output). Parameters: weights (num_output, K), or (K, num_output) with
    `transpose`; the bias (num_output,) if `bias_term`. Source: inner_product_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1
    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.inner_product_param
        self.num_output, self.transpose = param.num_output, param.transpose
        self.expect(self.num_output > 0, "num_output must be positive: give inner_product_param { num_output: ... }")
        self.length = bottom[0].count_from(self.axis(bottom[0], param.axis))
        shape = (self.length, self.num_output) if self.transpose else (self.num_output, self.length)
        self.add_param(shape, param.weight_filler)
        if param.bias_term:
            self.add_param((self.num_output,), param.bias_filler)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        axis = self.axis(bottom[0], self.param.inner_product_param.axis)
        length = bottom[0].count_from(axis)
        self.expect(
            length == self.length,
            f"the weights are for vectors of {self.length}, actual {length} in a bottom {bottom[0].shape} from axis "
            f"{axis} on: an inner product fixes the size of its input",
        )
        self.rows = bottom[0].count_from(0, axis)
        top[0].reshape(*bottom[0].shape[:axis], self.num_output)

    def forward(self, bottom: list[Blob], top: list[Blob], slope: float | None = None) -> None:
        x, y = bottom[0].array.reshape(self.rows, self.length), top[0].array.reshape(self.rows, self.num_output)
        gemm(x, self.blobs[0].array, y, transpose_b=not self.transpose)
        finish(y, self.blobs[1].array if len(self.blobs) > 1 else None, slope)

    fused_forward = forward

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        dy = top[0].gradient.reshape(self.rows, self.num_output)
        if self.param_propagate_down[0]:
            x, dw = bottom[0].array.reshape(self.rows, self.length), self.blobs[0].gradient
            left, right = (x, dy) if self.transpose else (dy, x)
            gemm(left, right, dw, transpose_a=True, accumulate=True)
        if len(self.blobs) > 1 and self.param_propagate_down[1]:
            kernels("inner_product").bias_gradient(self.num_output, *dy.shape, dy, self.blobs[1].gradient)
        if propagate_down[0]:
            dx = bottom[0].gradient.reshape(self.rows, self.length)
            gemm(dy, self.blobs[0].array, dx, transpose_b=self.transpose)
