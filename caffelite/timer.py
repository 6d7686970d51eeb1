"""pycaffe's Timer: wall time between start and stop, with all launched GPU work done at both ends."""

from __future__ import annotations

import time

from caffelite import backend


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
