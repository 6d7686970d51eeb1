"""Weight fillers, as Caffe's filler.hpp: constant, uniform, gaussian, positive_unitball, xavier, msra, bilinear."""

from __future__ import annotations

import difflib
import math

import numpy as np


class Filler:
    """Fills an array that is not empty from a random generator; `check` raises ValueError for shapes it cannot fill."""

    def __init__(self, param):
        self.param = param

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError where the shape or the settings make no sense."""
        if self.param.sparse != -1 and self.param.type != "gaussian":
            raise ValueError(f"filler {self.param.type!r} knows no `sparse`: only gaussian does")

    def __call__(self, data: np.ndarray, generator: np.random.Generator) -> None:
        raise NotImplementedError

    def fan(self, shape: tuple[int, ...]) -> float:
        """The n of xavier and msra: inputs (count/shape[0]), outputs (count/shape[1]), or their mean."""
        count = math.prod(shape)
        fan_in = count / (shape[0] if shape else 1)
        fan_out = count / (shape[1] if len(shape) > 1 else 1)
        return {0: fan_in, 1: fan_out, 2: (fan_in + fan_out) / 2}[self.param.variance_norm]


class Constant(Filler):
    def __call__(self, data, generator):
        data[...] = self.param.value


class Uniform(Filler):
    def __call__(self, data, generator):
        _uniform(data, generator, self.param.min, self.param.max)


class Gaussian(Filler):
    """N(mean, std); with `sparse` s, each weight is kept with probability s / shape[0]."""

    def check(self, shape):
        if self.param.std < 0:
            raise ValueError(f"gaussian filler: std {self.param.std} is negative")
        if self.param.sparse < -1:
            raise ValueError(f"gaussian filler: sparse {self.param.sparse} must be -1 (off) or the number of non-zeros")
        if self.param.sparse >= 0 and not shape:
            raise ValueError("gaussian filler: sparse needs rows, and a scalar has none")

    def __call__(self, data, generator):
        _normal(data, generator, self.param.mean, self.param.std)
        if self.param.sparse >= 0:
            data *= generator.random(data.shape, np.float32) < self.param.sparse / data.shape[0]


class PositiveUnitball(Filler):
    """U(0, 1), each row (all but the first axis) scaled to the sum 1."""

    def check(self, shape):
        super().check(shape)
        if not shape:
            raise ValueError("positive_unitball filler: needs rows, and a scalar has none")

    def __call__(self, data, generator):
        generator.random(dtype=np.float32, out=data)
        rows = data.reshape(len(data), -1)
        rows /= rows.sum(axis=1, keepdims=True)


class Xavier(Filler):
    """U(-a, a) with a = sqrt(3 / n)."""

    def __call__(self, data, generator):
        bound = math.sqrt(3.0 / self.fan(data.shape))
        _uniform(data, generator, -bound, bound)


class Msra(Filler):
    """N(0, sqrt(2 / n))."""

    def __call__(self, data, generator):
        _normal(data, generator, 0.0, math.sqrt(2.0 / self.fan(data.shape)))


class Bilinear(Filler):
    """The weights of bilinear interpolation, for a Deconvolution that upsamples; a 4-D blob of square filters."""

    def check(self, shape):
        super().check(shape)
        if len(shape) != 4 or shape[2] != shape[3]:
            raise ValueError(f"bilinear filler: expected a 4-D blob of square filters, actual shape {shape}")

    def __call__(self, data, generator):
        width = data.shape[3]
        f = math.ceil(width / 2.0)
        c = (2 * f - 1 - f % 2) / (2.0 * f)
        line = 1 - np.abs(np.arange(width) / f - c)
        data[...] = np.outer(line, line)


_FILLERS = {
    "constant": Constant,
    "uniform": Uniform,
    "gaussian": Gaussian,
    "positive_unitball": PositiveUnitball,
    "xavier": Xavier,
    "msra": Msra,
    "bilinear": Bilinear,
}


def make(param) -> Filler:
    """The filler that a FillerParameter names. Raises ValueError for an unknown type."""
    if param.type not in _FILLERS:
        near = difflib.get_close_matches(param.type, _FILLERS, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown filler {param.type!r}{hint} (known: {', '.join(_FILLERS)})")
    return _FILLERS[param.type](param)


def _uniform(data: np.ndarray, generator: np.random.Generator, low: float, high: float) -> None:
    generator.random(dtype=np.float32, out=data)
    data *= np.float32(high - low)
    data += np.float32(low)


def _normal(data: np.ndarray, generator: np.random.Generator, mean: float, std: float) -> None:
    generator.standard_normal(dtype=np.float32, out=data)
    data *= np.float32(std)
    data += np.float32(mean)
