"""Values of options: read from a command line, put into the type of their default, held to their limits."""

from __future__ import annotations

import ast
import contextlib

import yaml

from caffelite.paths import leads_outside
from detection import plain_yaml
from detection.errors import ConfigError

_CHOICES = {
    "TRAIN.NONFINITE": ("stop", "skip"),
    "TEST.SELECTION": ("rising", "threshold"),
    "PROPOSALS.METHOD": ("selective_search", "dense"),
    "PROPOSALS.MODE": ("fast", "quality"),
}
_LEAST = {
    "TRAIN.SCALES": 1, "TRAIN.MAX_SIZE": 1, "TRAIN.IMS_PER_BATCH": 1, "TRAIN.BATCH_SIZE": 1, "TRAIN.FG_FRACTION": 0,
    "TRAIN.SNAPSHOT_ITERS": 1, "TRAIN.SNAPSHOT_KEEP": 0, "TEST.SCALES": 1, "TEST.MAX_SIZE": 1, "TEST.MAX_PER_CLASS": 1,
    "TEST.MAX_PER_SET": 1, "TEST.NMS": 0,
    "PROPOSALS.MAX_SIDE": 0, "PROPOSALS.MIN_SIZE": 0, "PROPOSALS.MAX_PROPOSALS": 0, "PROPOSALS.SEED": 0,
    "PROPOSALS.REPLACE_BY_DENSE": 0, "PROPOSALS.ADD_DENSE": 0, "PROPOSALS.DENSE_OVERLAP": 0.1,
    "PROPOSALS.DENSE_MIN_AREA": 1, "PROPOSALS.DENSE_MAX_RATIO": 1, "DEDUP_BOXES": 0, "RNG_SEED": 0,
}  # fmt: skip
_MOST = {
    "TRAIN.FG_FRACTION": 1, "TEST.NMS": 1, "RNG_SEED": 2**32 - 1, "PROPOSALS.SEED": 2**32 - 1,
    "PROPOSALS.REPLACE_BY_DENSE": 1, "PROPOSALS.DENSE_OVERLAP": 0.95,
}  # fmt: skip


def parse(text: str):
    """A value as YAML gives it, or a tuple as the originals take it, which is Python's."""
    if text.strip().startswith("("):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            if isinstance(value := ast.literal_eval(text.strip()), tuple):
                return value
    try:
        return plain_yaml.load(text)
    except yaml.YAMLError:
        return text


def converted(value, default, path: str, source: str):
    """The value of option `path` in the type of its default, where no information is lost.

    Raises ConfigError, which begins with `source`, for another type and for what lies beyond the option's limits.
    """
    value = _in_type(value, default, path, source)
    _check_limits(value, path, source)
    return value


def _in_type(value, default, path: str, source: str):
    if isinstance(default, tuple):
        while isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
            value = value[0]  # the originals' files nest PIXEL_MEANS like an image
        if isinstance(value, str) and "," in value:  # 400,600
            value = [parse(part) for part in value.split(",")]
        members = value if isinstance(value, list | tuple) else [value]
        if not members:
            raise ConfigError(f"{source}: {path}: expected at least one value, actual none")
        return tuple(_in_type(member, default[0], path, source) for member in members)
    if isinstance(default, float):
        # YAML reads 1e-3, which lacks a point, as text
        if isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                pass
        elif isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(default, bool) or not isinstance(value, bool):
        if type(value) is type(default):
            return value
        if isinstance(default, str) and isinstance(value, int | float):
            return str(value)
    raise ConfigError(
        f"{source}: {path}: expected {type(default).__name__} as in its default {default!r}, "
        f"actual {value!r} ({type(value).__name__})"
    )


def _check_limits(value, path: str, source: str) -> None:
    if path == "EXP_DIR" and leads_outside(value):
        raise ConfigError(f"{source}: EXP_DIR: expected the name of a folder in output/, actual {value!r}")
    if path in _CHOICES and value not in _CHOICES[path]:
        raise ConfigError(f"{source}: {path}: expected one of {', '.join(_CHOICES[path])}, actual {value!r}")
    for number in value if isinstance(value, tuple) else (value,):
        if path in _LEAST and not number >= _LEAST[path]:
            raise ConfigError(f"{source}: {path}: expected at least {_LEAST[path]}, actual {number!r}")
        if path in _MOST and not number <= _MOST[path]:
            raise ConfigError(f"{source}: {path}: expected at most {_MOST[path]}, actual {number!r}")
