"""What happens in each iteration of a training: its losses, and the first value that is not finite."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping

import numpy as np

from caffelite.backend import to_host, xp
from caffelite.errors import CaffeliteError
from detection.config import cfg

logger = logging.getLogger("detection")

ADVICE = "Try a lower base_lr, clip_gradients, or other weights to start from"


class TrainingError(CaffeliteError):
    """Training that cannot go on."""


class NotFinite(TrainingError):
    """A loss or a gradient that is not finite; the update is not made, the weights are those before it."""


class Watch:
    """Follows a solver fed by a RoIDataLayer, from iteration to iteration.

    A loss or a gradient that is not finite raises NotFinite before the update, or with TRAIN.NONFINITE `skip` leaves
    the update out, which `skipped` counts. `sampler` is the data layer's state at the start of the iteration;
    `updating` tells whether weights may have changed since.

    The running statistics of BatchNorm, which each forward pass changes, are taken back in such an iteration.
    """

    def __init__(self, solver, data_layer):
        self.solver, self.net, self.data_layer = solver, solver.net, data_layer
        self.skipped, self.updating = 0, False
        running = [layer for layer in self.net.layers if layer.type == "BatchNorm" and not layer.global_stats]
        self._statistics = [blob for layer in running for blob in layer.blobs]
        self._before: list = []
        solver.add_callback(self._start, self._may_update, self._passed)

    def losses(self) -> dict[str, float]:
        """The objective and its terms in the last iteration, means over its iter_size passes."""
        terms = {name: sum(each[name] for each in self._passes) / len(self._passes) for name in self._passes[0]}
        return {"loss": sum(terms.values()), **terms}

    def _start(self) -> None:
        self.sampler, self.updating = self.data_layer.get_state(), False
        self._before = [blob.array.copy() for blob in self._statistics]
        self._passes: list[dict[str, float]] = []
        self._problem: str | None = None

    def take_back_statistics(self) -> None:
        """Give the running statistics the values that they had at the start of the iteration."""
        for blob, values in zip(self._statistics, self._before):
            blob.array[...] = values

    def _passed(self) -> None:
        self.data_layer.read_ahead()  # a GPU has been given all its work, and nobody has waited for it yet
        weights = {name: weight for name, weight in self.net.blob_loss_weights.items() if weight}
        *sums, self._bad_gradient = self._sums(weights)
        terms = {name: weight * value for (name, weight), value in zip(weights.items(), sums)}
        self._passes.append(terms)
        if self._problem is None and not math.isfinite(sum(terms.values())):
            self.take_back_statistics()  # else bad values in a layer would be told as those of its weights
            self._problem = self._text("the loss is not finite", terms, self._first_blob())

    def _may_update(self) -> str | None:
        if self._problem is None and math.isnan(self._bad_gradient):
            culprit = self._first_gradient()
            if culprit:
                self._problem = self._text("a gradient is not finite", self._passes[-1], culprit)
        if self._problem is None:
            self.updating = True
            return None
        self.take_back_statistics()
        if cfg.TRAIN.NONFINITE == "stop" or not self.weights_are_finite():
            raise NotFinite(self._problem)
        self.skipped += 1
        logger.warning("update skipped, %d so far: %s", self.skipped, self._problem)
        return "skip"

    def weights_are_finite(self) -> bool:
        """Whether all weights and histories are."""
        blobs = [p.blob for p in self.net.learnable_params] + self.solver.history
        return all(np.isfinite(blob.read()).all() for blob in blobs if blob.data_memory.allocated)

    def _text(self, what: str, terms: Mapping[str, float], culprit: str) -> str:
        losses = ", ".join(f"{name} {value:g}" for name, value in terms.items())
        images = ", ".join(self.data_layer.last_images)
        return (
            f"iteration {self.solver.iter}: {what} ({losses}). {culprit}. Images of the minibatch: {images}. {ADVICE}"
        )

    def _sums(self, names: Iterable[str]) -> list[float]:
        """The sum of each of these blobs, and NaN if any gradient is not finite, else 0. A GPU is waited for once."""
        blobs = [self.net.blobs[name] for name in names]
        answers = xp.zeros(len(blobs) + 1, np.float32)
        for k, blob in enumerate(blobs):
            answers[k] = blob.array.reshape(()) if blob.count == 1 else blob.array.sum()
        self.solver.find_bad(answers[-1:])
        return to_host(answers).astype(float).tolist()

    def _first_blob(self) -> str:
        """The first blob of the forward pass with such values, and whether its layer's weights had them before."""
        for layer, tops, names in zip(self.net.layers, self.net.top_blobs, self.net.top_names.values()):
            for blob, name in zip(tops, names):
                if bad := _count_bad(blob.read()):
                    weights = any(_count_bad(weights.read()) for weights in layer.blobs)
                    return (
                        f"First blob with such values: {name!r} of layer {layer.name!r} ({bad} of {blob.count}"
                        f"{', as are weights of the layer' if weights else ''})"
                    )
        return "The blobs have no such values, their sum does"

    def _first_gradient(self) -> str | None:
        """The first gradient of the backward pass with such values, None where there is none."""
        layers = list(zip(self.net.layers, self.net.top_blobs, self.net.top_names.values()))
        for layer, tops, names in reversed(layers):
            named = [(blob, f"blob {name!r}, a top") for blob, name in zip(tops, names)]
            named += [(blob, f"weights {k}") for k, blob in enumerate(layer.blobs)]
            for blob, name in named:
                if _has_diff(blob) and (bad := _count_bad(blob.read_diff())):
                    return f"First such gradient: that of {name} of layer {layer.name!r} ({bad} of {blob.count})"
        return None


def _has_diff(blob) -> bool:
    return blob.diff_memory.allocated


def _count_bad(values: np.ndarray) -> int:
    return int((~np.isfinite(values)).sum())
