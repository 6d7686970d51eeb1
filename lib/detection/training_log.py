"""The log of a training: one line of JSON per iteration, written, read back and told."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from caffelite.errors import FileFormatError
from caffelite.proto.files import replacing

logger = logging.getLogger("detection")

FACTS = ("iter", "lr", "seconds", "peak_mib", "gpu_mib")
"""What a line has besides the losses: the iteration from 0, its rate, its duration, the most main memory used so far,
and the memory taken on a GPU."""


LAST = 100
"""Iterations whose mean is a loss at the end of a training."""


class TrainingLog:
    """Writes the log of a training that begins or goes on at an iteration.

    At iteration 0 an older log of the same name is moved aside with a number; later the lines from there on, which are
    about to be written again, are dropped. Lines reach the file once in a second and at `flush`; what cannot be written
    is told, kept, and tried again.
    """

    def __init__(self, path: str | Path, iteration: int):
        self.path = Path(path)
        self._pending, self._written, self._failed = b"", time.monotonic(), False
        if iteration == 0:
            set_aside(self.path)
        kept = _whole_lines(self.path)[0] if self.path.exists() else []
        with replacing(self.path) as temporary:
            temporary.write_text("".join(f"{json.dumps(line)}\n" for line in kept if line["iter"] < iteration))
        self._file = self._open()

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def add(self, **values: float) -> None:
        """Write one line; a number that is not finite becomes null."""
        line = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._pending += f"{json.dumps(line)}\n".encode()
        if time.monotonic() - self._written > 1:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, into a new file where the old one was deleted."""
        self._written = time.monotonic()
        try:
            if not self.path.exists():
                self._file, gone = self._open(), self._file
                os.close(gone)
            while self._pending:
                self._pending = self._pending[os.write(self._file, self._pending) :]
            self._failed = False
        except OSError as e:
            if not self._failed:
                logger.error("%s: cannot be written (%s); its lines are kept until it can be", self.path, e.strerror)
            self._failed = True

    def close(self) -> None:
        """Write what is pending and close the file."""
        self.flush()
        os.close(self._file)


def set_aside(path: Path) -> None:
    """Rename a log that has lines to the next free <name>.<n>.jsonl."""
    if path.exists() and path.stat().st_size:
        n = next(n for n in range(1, 10**9) if not path.with_suffix(f".{n}{path.suffix}").exists())
        path.rename(path.with_suffix(f".{n}{path.suffix}"))
        logger.info("the log of an earlier training is now %s", path.with_suffix(f".{n}{path.suffix}"))


def read_log(path: str | Path) -> dict[str, np.ndarray]:
    """The columns of a log, float64, NaN where a line has no such number.

    Lines that are damaged, as a crash leaves them, are left out, and it is said how many. Raises FileFormatError.
    """
    try:
        lines, damaged = _whole_lines(Path(path))
    except OSError as e:
        raise FileFormatError(f"{path}: cannot be read: {e.strerror}") from None
    if damaged:
        logger.warning("%s: %d damaged line(s) are left out", path, damaged)
    if not lines:
        raise FileFormatError(f"{path}: holds no line of a training's log, as {{'iter': 0, 'lr': 0.001, 'loss': 2.5}}")
    names = list(dict.fromkeys(name for line in lines for name in line))
    return {name: np.array([_number(line.get(name)) for line in lines]) for name in names}


def loss_names(columns: Mapping[str, np.ndarray]) -> list[str]:
    """The names of the losses in a log, the objective first."""
    return [name for name in columns if name not in FACTS]


def at_the_end(values: np.ndarray) -> str:
    """A loss at the end of a training: the mean of the LAST iterations' finite values."""
    last = values[-LAST:][np.isfinite(values[-LAST:])]
    return f"{last.mean():.4f}" if len(last) else "not finite"


def summary(name: str, columns: Mapping[str, np.ndarray]) -> str:
    """A log in a line: iterations, each loss at the end, time and memory."""
    parts = [f"{loss} {at_the_end(columns[loss])}" for loss in loss_names(columns)]
    if parts:
        parts[-1] += f" (means of the last {min(LAST, len(columns['iter']))})"
    if "seconds" in columns:
        parts.append(f"{np.nanmedian(columns['seconds']):.3f} s each")
    if "peak_mib" in columns:
        parts.append(f"at most {np.nanmax(columns['peak_mib']):.0f} MiB")
    if "gpu_mib" in columns:
        parts.append(f"{np.nanmax(columns['gpu_mib']):.0f} MiB of the GPU")
    return ", ".join([f"{name}: {int(columns['iter'][-1]) + 1} iterations", *parts])


def _number(value) -> float:
    try:
        return float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:  # an integer of hundreds of digits
        return math.nan


def _whole_lines(path: Path) -> tuple[Sequence[dict], int]:
    """The lines that are objects with an iteration `iter`, and how many others there are."""
    lines, damaged = [], 0
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and isinstance(line.get("iter"), int) and 0 <= line["iter"] < 2**31:
            lines.append(line)
        elif text.strip():
            damaged += 1
    return lines, damaged
