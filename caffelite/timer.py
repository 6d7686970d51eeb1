"""Wall time with all launched GPU work done at both ends: pycaffe's Timer, and the times of a net's layers."""

from __future__ import annotations

import statistics
import time

from caffelite import backend
from caffelite.net_builder import named


class Timer:
    """`start()`, `stop()`, then `ms`: the milliseconds between them (while running: since the start; before: 0)."""

    def __init__(self):
        self._start = self._stop = None

    def start(self) -> None:
        """Begin to measure, anew if it was measuring."""
        backend.synchronize()
        self._start, self._stop = time.perf_counter(), None

    def stop(self) -> None:
        """End the measurement; nothing if none is running."""
        backend.synchronize()
        if self._start is not None and self._stop is None:
            self._stop = time.perf_counter()

    @property
    def ms(self) -> float:
        """Milliseconds measured."""
        if self._start is None:
            return 0.0
        return ((self._stop or time.perf_counter()) - self._start) * 1e3


def layer_times(net, passes: int) -> tuple[list[float], list[float]]:
    """Milliseconds of every layer forward and backward: medians of `passes` passes after one to warm up.

    As in Caffe, a layer's backward pass is run even where nothing comes back to it from a loss. Raises LayerError.
    """

    def backward_of(k: int, _) -> None:
        with named(net.layers[k]):
            net.layers[k].backward(net.top_blobs[k], net.bottom_need_backward[k], net.bottom_blobs[k])

    count, timer = len(net.layers), Timer()
    forward, backward = ([[] for _ in range(count)] for _ in range(2))
    for _ in range(passes + 1):
        for times, order, run in (
            (forward, range(count), net._forward),
            (backward, reversed(range(count)), backward_of),
        ):
            for k in order:
                timer.start()
                run(k, k)
                timer.stop()
                times[k].append(timer.ms)
    medians = [[statistics.median(of_layer[1:]) for of_layer in times] for times in (forward, backward)]
    return medians[0], medians[1]
