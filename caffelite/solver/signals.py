"""Signals as wishes to a training: stop after this iteration, or snapshot and go on. Source: signal_handler.cpp."""

from __future__ import annotations

import signal
import threading

from caffelite.backend import kernels


class Stopped(KeyboardInterrupt):
    """A training that a signal ended; `status` is what a shell calls that: 128 and the signal's number."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.status = 128 + number


class Signals:
    """Inside `with`, SIGINT, SIGTERM and SIGHUP have effects: "stop", "snapshot" or "none".

    Calling it gives the effect that is asked for, "stop", "snapshot" or None, as `Solver.set_action` wants it. A second
    SIGINT raises Stopped at once; so does the first signal to stop while kernels are compiled, before which nothing is
    learned. Handlers of others stay, and in another thread than the main one nothing happens.
    """

    def __init__(self, sigint: str = "stop", sighup: str = "snapshot"):
        self.effects = {signal.SIGINT: sigint, signal.SIGTERM: "stop", signal.SIGHUP: sighup}
        self.stopped_by: int | None = None
        self._snapshot = False
        self._before: dict = {}

    def __enter__(self) -> Signals:
        usual = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
        if threading.current_thread() is threading.main_thread():
            for number in self.effects:
                if signal.getsignal(number) in usual:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self) -> str | None:
        if self.stopped_by:
            return "stop"
        asked, self._snapshot = self._snapshot, False
        return "snapshot" if asked else None

    def _note(self, number: int, frame) -> None:
        effect = self.effects[number]
        if effect == "stop":
            if kernels.compiling() or (self.stopped_by and number == signal.SIGINT):
                raise Stopped("stopped", number)
            self.stopped_by = self.stopped_by or number
        elif effect == "snapshot":
            self._snapshot = True
