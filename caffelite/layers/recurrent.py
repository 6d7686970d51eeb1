"""LSTM, unrolled over the steps of its input."""

from __future__ import annotations

import math

from caffelite.backend import xp
from caffelite.backend.gemm import gemm
from caffelite.blob import Blob
from caffelite.layer import Layer, register


@register("LSTM")
class LSTM(Layer):
    """h_t = o tanh(c_t) and c_t = f c_{t-1} + i g at every step t of a sequence.

    (i, f, o, g) = (sigmoid, sigmoid, sigmoid, tanh) of the quarters of W_x x_t + b + W_s s + W_h h_{t-1}. The last
    step's h and c are those before the first step of the next pass. expose_hidden is not supported. Bottoms: x (T, N,
    ...), T steps of N streams; cont (T, N), 0 where a sequence begins, which forgets h_{t-1} and c_{t-1}, else 1;
    optionally s (N, ...), what all steps get. Top: h (T, N, num_output). Parameters: W_x; b; W_s if there is s; W_h; 4
    num_output rows each. Source: recurrent_layer.cpp, lstm_layer.cpp, lstm_unit_layer.cpp.
    """

    min_bottoms = 2
    max_bottoms = 3
    exact_tops = 1
    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.recurrent_param
        self.expect(param.num_output > 0, "num_output must be positive: give recurrent_param { num_output: ... }")
        self.expect(not param.expose_hidden, "recurrent_param: expose_hidden is not supported; leave it out")
        self._check(bottom)
        rows = 4 * param.num_output
        self.add_param((rows, bottom[0].count_from(2)), param.weight_filler)
        self.add_param((rows,), param.bias_filler)
        if len(bottom) > 2:
            self.add_param((rows, bottom[2].count_from(1)), param.weight_filler)
        self.add_param((rows, param.num_output), param.weight_filler)
        self.last = None  # h and c (N, num_output) of the last step

    def _check(self, bottom: list[Blob]) -> None:
        x, cont, *static = (blob.shape for blob in bottom)
        self.expect(len(x) >= 2 and x[0] > 0, f"expected x (steps, streams, ...), actual {x}")
        self.expect(cont == x[:2], f"expected one indicator per step and stream {x[:2]}, actual {cont}")
        for shape in static:
            self.expect(shape[:1] == x[1:2], f"expected {x[1]} rows in the third bottom, actual {shape}")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self._check(bottom)
        weights = [self.blobs[0], *self.blobs[2:-1]]
        for blob, weight, axis in zip(bottom[::2], weights, (2, 1)):
            self.expect(
                blob.count_from(axis) == weight.shape[1],
                f"the weights are for vectors of {weight.shape[1]}, actual {blob.count_from(axis)} in {blob.shape}",
            )
        top[0].reshape(*bottom[0].shape[:2], self.param.recurrent_param.num_output)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        steps, streams, size = top[0].shape
        h, c = self.last if self.last and len(self.last[0]) == streams else xp.zeros((2, streams, size), xp.float32)
        self.gates = xp.empty((steps, streams, 4 * size), xp.float32)
        self.before = xp.empty((steps, streams, size), xp.float32)  # h_{t-1}, 0 where a sequence begins
        self.cells = xp.empty((steps + 1, streams, size), xp.float32)
        self.cells[0] = c
        gemm(self._rows(bottom[0].array), self.blobs[0].array, self._rows(self.gates), transpose_b=True)
        self.gates += self.blobs[1].array
        if len(bottom) > 2:
            always = xp.empty((streams, 4 * size), xp.float32)
            gemm(
                bottom[2].array.reshape(streams, self.blobs[2].shape[1]), self.blobs[2].array, always, transpose_b=True
            )
            self.gates += always
        cont, y = bottom[1].array, top[0].array
        for t in range(steps):
            xp.multiply(h, cont[t, :, None], out=self.before[t])
            gemm(self.before[t], self.blobs[-1].array, self.gates[t], transpose_b=True, accumulate=True)
            i, f, o, g = xp.split(self.gates[t], 4, axis=1)
            for gate in (i, f, o):
                gate[...] = 0.5 * xp.tanh(0.5 * gate) + 0.5
            f *= cont[t, :, None]
            xp.tanh(g, out=g)
            self.cells[t + 1] = f * self.cells[t] + i * g
            y[t] = o * xp.tanh(self.cells[t + 1])
            h = y[t]
        self.last = h.copy(), self.cells[steps]

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.expect(not propagate_down[1], "sequence indicators get no gradient: set propagate_down false for them")
        steps, streams, size = top[0].shape
        cont, dy, dgates = bottom[1].array, top[0].gradient, xp.empty_like(self.gates)
        dh, dc = xp.zeros((2, streams, size), xp.float32)  # of h_t and c_t, through the steps behind t
        for t in reversed(range(steps)):
            i, f, o, g = xp.split(self.gates[t], 4, axis=1)
            di, df, do, dg = xp.split(dgates[t], 4, axis=1)
            squashed = xp.tanh(self.cells[t + 1])
            dh += dy[t]
            dc += dh * o * (1 - squashed * squashed)
            di[...] = dc * g * i * (1 - i)
            df[...] = dc * self.cells[t] * f * (1 - f)
            do[...] = dh * squashed * o * (1 - o)
            dg[...] = dc * i * (1 - g * g)
            dc *= f
            gemm(dgates[t], self.blobs[-1].array, dh)
            dh *= cont[t, :, None]
        rows, summed = self._rows(dgates), dgates.sum(axis=0)
        inputs = [(self.blobs[0], rows, self._rows(bottom[0].array)), (self.blobs[-1], rows, self._rows(self.before))]
        if len(bottom) > 2:
            inputs.append((self.blobs[2], summed, bottom[2].array.reshape(streams, self.blobs[2].shape[1])))
        for weight, diff, values in inputs:
            if self._learns(weight):
                gemm(diff, values, weight.gradient, transpose_a=True, accumulate=True)
        if self._learns(self.blobs[1]):
            self.blobs[1].gradient[...] += summed.sum(axis=0)
        if propagate_down[0]:
            gemm(rows, self.blobs[0].array, self._rows(bottom[0].gradient))
        if len(bottom) > 2 and propagate_down[2]:
            gemm(summed, self.blobs[2].array, bottom[2].gradient.reshape(streams, self.blobs[2].shape[1]))

    def allow_force_backward(self, bottom_index: int) -> bool:
        return bottom_index != 1

    def _learns(self, blob: Blob) -> bool:
        return any(down and mine is blob for down, mine in zip(self.param_propagate_down, self.blobs))

    @staticmethod
    def _rows(array):
        """An array (T, N, ...) as a matrix of T N rows."""
        return array.reshape(array.shape[0] * array.shape[1], math.prod(array.shape[2:]))
