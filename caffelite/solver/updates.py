"""The six update rules: how a gradient and the history change the weights. Each is one kernel (kernels/update.cu)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import address, blocks, kernels
from caffelite.blob import Blob
from caffelite.errors import SolverError
from caffelite.net_builder import Param

PART = 256  # elements whose squares one thread adds up
CHUNK, ROW = 1024, 5  # in kernels/update.cu


def norm(blobs: Sequence[Blob]) -> float:
    """The L2 norm of the blobs' diffs together."""
    totals = [xp.zeros((), np.float64)]
    for blob in blobs:
        sums = xp.empty(-(-blob.count // PART), np.float64)
        kernels("update").squares(sums.size, blob.count, PART, blob.gradient.ravel(), sums)
        totals.append(sums.sum())
    return math.sqrt(float(xp.stack(totals).sum()))


class Group:
    """Parameters of equal multipliers, with what a rule keeps of each: one launch of a kernel goes through all of them.

    `histories`: for each parameter the rule's blobs; `where`: the solver's file, for errors.
    """

    def __init__(
        self,
        lr_mult: float,
        decay_mult: float,
        blobs: Sequence[Blob],
        histories: Sequence[Sequence[Blob]],
        where: str = "solver",
    ):
        self.lr_mult, self.decay_mult, self.where = lr_mult, decay_mult, where
        self.blobs, self.histories = blobs, histories
        self._arrays: list = []  # kept, so that nothing else can come to lie where the tables say
        self._counts: list[int] = []
        self._tables: list[tuple] = []

    def run(self, kernel: str, *arguments) -> None:
        """Launch a kernel of kernels/update.cu on all these numbers, which become the newest on the current backend.

        Raises MemoryError, and SolverError where a parameter has more or fewer elements than its history.
        """
        blobs = [[blob, *history] for blob, history in zip(self.blobs, self.histories)]
        arrays = [
            [blob.data_memory.array(), blob.diff_memory.array(), *(each.data_memory.array() for each in history)]
            for blob, *history in blobs
        ]
        counts = [each.count for each in itertools.chain(*blobs)]
        flat = list(itertools.chain(*arrays))
        if counts != self._counts or any(a is not b for a, b in zip(flat, self._arrays)):
            self._tables = self._new_tables(arrays)
            self._arrays, self._counts = flat, counts
        for table in self._tables:
            getattr(kernels("update"), kernel)(*table, *arguments)

    def _new_tables(self, arrays: list[list]) -> list[tuple]:
        """A table for each launch: one, and others for memory that is in the group more than once."""
        tables: list[list[list[int]]] = [[]]
        taken: set[int] = set()
        for blob, history, of_blob in zip(self.blobs, self.histories, arrays):
            if any(each.count != blob.count for each in history):
                shapes = [each.shape for each in history]
                raise SolverError(f"{self.where}: a parameter of shape {blob.shape} has a history of {shapes}")
            if not blob.count:
                continue
            places = list(map(address, of_blob))
            if not taken.isdisjoint(places):
                tables.append([])
                taken.clear()
            taken.update(places)
            tables[-1].append([blob.count, *places, *[0] * (ROW - 1 - len(places))])
        return [self._table(rows) for rows in tables if rows]

    @staticmethod
    def _table(rows: list[list[int]]) -> tuple:
        """The first arguments of a kernel: threads, chunks, where each begins, and the rows."""
        counts = np.array([-(-size // CHUNK) for size, *_ in rows])
        row = np.repeat(np.arange(len(rows)), counts)
        first = (np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)) * CHUNK
        chunks = np.stack([row, first], axis=1).astype(np.int32)
        return blocks(len(row)), len(row), xp.asarray(chunks), xp.asarray(np.array(rows, np.int64))


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

    def groups(self, params: Sequence[Param], history: Sequence[Blob]) -> list[Group]:
        """The parameters that learn, in groups; `history`: a blob for each parameter, once or for each of `histories`.

        Where lr_mult is 0 a weight cannot change: it is in no group, and its gradient and history are never allocated.
        """
        self.expect(
            len(history) == self.histories * len(params),
            f"expected {self.histories} history blobs for each of {len(params)} parameters, actual {len(history)}",
        )
        found: dict[tuple[float, float], list[int]] = {}
        for k, param in enumerate(params):
            if param.lr_mult:
                found.setdefault((param.lr_mult, param.decay_mult), []).append(k)
        return [
            Group(*both, [params[k].blob for k in members], [history[k :: len(params)] for k in members], self.where)
            for both, members in found.items()
        ]

    def update(self, group: Group, scale: float, decay: float, l1: bool, rate: float, iteration: int) -> None:
        """Change the parameters of a group from their diffs. g = scale * diff + decay * (w or sign w)."""
        group.run(self.kernel, scale, decay, int(l1), self.rate(rate, iteration), *self.constants())


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
