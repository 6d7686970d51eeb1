"""The six update rules: how a gradient and the history change the weights. Each is one kernel (kernels/update.cu)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.blob import Blob, Strip
from caffelite.errors import SolverError
from caffelite.net_builder import Param

PART = 256  # elements whose squares one thread adds up


def norm(blobs: Sequence[Blob]) -> float:
    """The L2 norm of the blobs' diffs together."""
    totals = [xp.zeros((), np.float64)]
    for blob in blobs:
        sums = xp.empty(-(-blob.count // PART), np.float64)
        kernels("update").squares(sums.size, blob.count, PART, blob.gradient.ravel(), sums)
        totals.append(sums.sum())
    return math.sqrt(float(xp.stack(totals).sum()))


def find_bad(arrays: Sequence, answer) -> None:
    """Make `answer`, an array of one number, NaN where a number of these flat arrays is infinite or NaN."""
    part = 8  # few: a GPU's threads wait for each number of theirs
    for array in arrays:
        kernels("update").find_bad(-(-array.size // part), array.size, part, array, answer)


class Group:
    """Parameters whose multipliers are equal, with their histories: on a GPU one launch updates all of them."""

    def __init__(self, params: Sequence[Param], histories: Sequence[Sequence[Blob]]):
        blobs = [param.blob for param in params]
        self.lr_mult, self.decay_mult = params[0].lr_mult, params[0].decay_mult
        self.gradients = Strip(blobs, "diff_memory")
        self._strips = [Strip(blobs, "data_memory"), self.gradients]
        self._strips += [Strip(history, "data_memory") for history in histories]

    def arrays(self) -> Iterable[tuple]:
        """Flat arrays that go together: weights, gradients and what the rule has of history."""
        return zip(*[strip.arrays() for strip in self._strips])


def grouped(params: Sequence[Param], history: Sequence[Blob]) -> list[Group]:
    """The parameters that learn, in groups; `history` is the rule's, a blob for each parameter once or several times.

    Where lr_mult is 0 a weight cannot change: it is in no group, and its gradient and history are never allocated.
    """
    of: dict[tuple[float, float], list[int]] = {}
    for k, param in enumerate(params):
        if param.lr_mult:
            of.setdefault((param.lr_mult, param.decay_mult), []).append(k)
    histories = [history[first : first + len(params)] for first in range(0, len(history), len(params) or 1)]
    return [Group([params[k] for k in ks], [[each[k] for k in ks] for each in histories]) for ks in of.values()]


class SGD:
    """h = momentum * h + rate * g;  w -= h. The rate is in the history: a drop leaves old momentum."""

    kernel = "sgd"
    histories = 1

    def __init__(self, param, where: str = "solver"):
        self.param = param
        self.where = where
        self.check()

    def check(self) -> None:
        """Raise SolverError for settings that the rule cannot use."""

    def expect(self, condition: bool, message: str) -> None:
        if not condition:
            raise SolverError(f"{self.where}: {type(self).__name__}: {message}")

    def rate(self, rate: float, iteration: int) -> float:
        """The rate that the kernel gets, from the policy's rate times lr_mult."""
        return rate

    def constants(self) -> tuple[float, ...]:
        """The rule's own numbers, in the order of the kernel's last arguments."""
        return (self.param.momentum,)

    def update(
        self, weights, gradient, *history, scale: float, decay: float, l1: bool, rate: float, iteration: int
    ) -> None:
        """Change parameters, flat arrays, from their gradient. g = scale * gradient + decay * (w or sign w)."""
        constants = self.rate(rate, iteration), *self.constants()
        kernel = getattr(kernels("update"), self.kernel)
        kernel(weights.size, weights, gradient, *history, scale, decay, int(l1), *constants)


class Nesterov(SGD):
    """h' = momentum * h + rate * g;  w -= (1 + momentum) * h' - momentum * h."""

    kernel = "nesterov"


class AdaGrad(SGD):
    """h += g^2;  w -= rate * g / (sqrt(h) + delta)."""

    kernel = "adagrad"

    def check(self) -> None:
        self.expect(self.param.momentum == 0, f"momentum must be 0, actual {self.param.momentum:g}")

    def constants(self) -> tuple[float, ...]:
        return (self.param.delta,)


class RMSProp(SGD):
    """h = rms_decay * h + (1 - rms_decay) * g^2;  w -= rate * g / (sqrt(h) + delta)."""

    kernel = "rmsprop"

    def check(self) -> None:
        self.expect(self.param.momentum == 0, f"momentum must be 0, actual {self.param.momentum:g}")
        self.expect(0 <= self.param.rms_decay < 1, f"rms_decay must be in [0, 1), actual {self.param.rms_decay:g}")

    def constants(self) -> tuple[float, ...]:
        return (self.param.rms_decay, self.param.delta)


class AdaDelta(SGD):
    """u = g * sqrt((delta + mean u^2) / (delta + mean g^2));  w -= rate * u. Means decay by momentum."""

    kernel = "adadelta"
    histories = 2

    def constants(self) -> tuple[float, ...]:
        return (self.param.momentum, self.param.delta)


class Adam(SGD):
    """m, v: means of g and g^2;  w -= rate * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + delta)."""

    kernel = "adam"
    histories = 2

    def check(self) -> None:
        for name in ("momentum", "momentum2"):
            value = getattr(self.param, name)
            self.expect(0 <= value < 1, f"{name} must be in [0, 1), actual {value:g}")

    def rate(self, rate: float, iteration: int) -> float:
        t = iteration + 1
        return rate * math.sqrt(1 - self.param.momentum2**t) / (1 - self.param.momentum**t)

    def constants(self) -> tuple[float, ...]:
        return (self.param.momentum, self.param.momentum2, self.param.delta)


RULES = {rule.__name__: rule for rule in (SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam)}
