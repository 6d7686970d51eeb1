"""Run one layer without a net, and compare its gradients with central differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffelite import proto
from caffelite.blob import Blob
from caffelite.layer import Layer, PassState, layer_class

TRAIN, TEST = 0, 1


class LayerRun:
    """One layer with its blobs, set up as a net would do it.

    `text` is what stands between the braces of `layer { }` in a prototxt, without bottoms and tops. `inputs` are the
    bottoms' values; the first `in_place` tops are the bottoms themselves. `params` are values for the parameter
    blobs (None leaves what the filler makes). `tops` is the number of tops.
    """

    def __init__(
        self,
        text: str,
        inputs: Sequence[np.ndarray],
        params: Sequence[np.ndarray] | None = None,
        phase: int = TRAIN,
        tops: int = 1,
        in_place: int = 0,
        seed: int = 1,
    ):
        param = proto.parse_text(f"layer {{ {text} }}", "NetParameter", "test").layer[0]
        param.name = param.name or "layer"
        param.phase = phase
        names = [f"bottom{i}" for i in range(len(inputs))]
        param.bottom.extend(names)
        param.top.extend([*names[:in_place], *(f"top{i}" for i in range(in_place, tops))])
        self.inputs = [np.array(values, np.float32) for values in inputs]
        self.bottom = []
        for values in self.inputs:
            blob = Blob()
            blob.reshape(*values.shape)
            self.bottom.append(blob)
        self.top = [self.bottom[i] if i < in_place else Blob() for i in range(tops)]
        kind = layer_class(param.type)
        make = getattr(kind, "create", kind)
        self.layer: Layer = make(param, phase, PassState(seed), "test:1")
        self.feed()
        self.layer.check_counts(self.bottom, self.top)
        self.layer.setup(self.bottom, self.top)
        self.layer.param_propagate_down = [True] * len(self.layer.blobs)
        self.layer.reshape(self.bottom, self.top)
        weights = list(param.loss_weight) or [1.0 if self.layer.is_loss and i == 0 else 0.0 for i in range(tops)]
        self.layer.loss_weights = weights
        for blob, values in zip(self.layer.blobs, params or []):
            blob.assign(values)

    def feed(self) -> None:
        """Put the inputs into the bottoms (again, after an in-place pass)."""
        for blob, values in zip(self.bottom, self.inputs):
            blob.data[...] = values

    def forward(self) -> list[np.ndarray]:
        """The tops, computed from the inputs."""
        self.feed()
        self.layer.reshape(self.bottom, self.top)
        self.layer.forward(self.bottom, self.top)
        return [top.data.copy() for top in self.top]

    def backward(
        self, top_diffs: Sequence[np.ndarray], propagate_down: Sequence[bool] | None = None
    ) -> tuple[list[np.ndarray | None], list[np.ndarray]]:
        """The gradients of the bottoms (None where not asked for) and of the parameters (which start from zero)."""
        propagate_down = list(propagate_down or [True] * len(self.bottom))
        for blob, down in zip(self.bottom, propagate_down):
            if down:
                blob.diff[...] = np.nan  # backward overwrites
        for blob, values in zip(self.top, top_diffs):
            blob.diff[...] = values
        for blob in self.layer.blobs:
            blob.diff[...] = 0
        self.layer.backward(self.top, propagate_down, self.bottom)
        bottoms = [blob.diff.copy() if down else None for blob, down in zip(self.bottom, propagate_down)]
        return bottoms, [blob.diff.copy() for blob in self.layer.blobs]


def check_gradient(
    text: str,
    inputs: Sequence[np.ndarray],
    params: Sequence[np.ndarray] | None = None,
    phase: int = TRAIN,
    tops: int = 1,
    in_place: int = 0,
    propagate_down: Sequence[bool] | None = None,
    step: float = 1e-2,
    tolerance: float = 1e-3,
    most: int = 60,
) -> LayerRun:
    """Compare backward with central differences of forward, for every bottom with propagate_down and every parameter.

    The objective is a fixed random weighting of all tops (for a loss: the loss), summed in float64. At most `most`
    elements of each blob are moved, by `step`; keep inputs that far away from kinks. An error may be `tolerance`
    times the larger of 1 and the largest gradient of the blob. Returns the run, for further checks.
    """
    run = LayerRun(text, inputs, params, phase, tops, in_place)
    generator = np.random.default_rng(7)
    shapes = [top.shape for top in run.forward()]
    weights = [generator.uniform(0.5, 1.5, shape) * generator.choice([-1, 1], shape) for shape in shapes]
    if any(run.layer.loss_weights):
        weights = [np.full(shape, weight) for shape, weight in zip(shapes, run.layer.loss_weights)]
    bottom_diffs, param_diffs = run.backward(weights, propagate_down)

    def objective() -> float:
        return sum(float((np.float64(top) * weight).sum()) for top, weight in zip(run.forward(), weights))

    moved = [(f"bottom {i}", run.inputs[i], diff) for i, diff in enumerate(bottom_diffs) if diff is not None]
    moved += [(f"param {i}", blob.data, diff) for i, (blob, diff) in enumerate(zip(run.layer.blobs, param_diffs))]
    for what, values, diff in moved:
        flat, gradient = values.reshape(-1), diff.reshape(-1)
        bound = tolerance * max(1.0, float(np.abs(gradient).max(initial=0)))
        for k in generator.permutation(flat.size)[:most]:
            old = flat[k]
            flat[k] = old + np.float32(step)
            above, up = objective(), flat[k]
            flat[k] = old - np.float32(step)
            below, down = objective(), flat[k]
            flat[k] = old
            expected = (above - below) / (float(up) - float(down))
            error = abs(float(gradient[k]) - expected)
            assert error <= bound, f"{what}, element {k}: backward {gradient[k]}, differences {expected}"
    return run
