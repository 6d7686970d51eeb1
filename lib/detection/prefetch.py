"""Minibatches and images made ready ahead of the net."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

from caffelite import backend
from caffelite.backend.kernels import cores
from caffelite.backend.prefetch import Load, Prefetcher
from detection.config import cfg

THREADS_BESIDE_CPU = 2  # where the net computes on the CPU, it needs the cores
THREADS_BESIDE_GPU = 8  # where there can be no processes


def prefetcher(load: Load, items: Iterable[tuple[Any, Any]]) -> Prefetcher:
    """A Prefetcher of items by a function of a module, or a functools.partial of one, that looks at `cfg`: in processes
    at the options as they are now."""
    threads = min(cores(), THREADS_BESIDE_GPU) if backend.on_gpu() else THREADS_BESIDE_CPU
    return Prefetcher(load, items, threads, functools.partial(_with_options, dataclasses.asdict(cfg), load))


def _with_options(options: Mapping[str, Any], load: Load, item: Any):
    cfg.restore(options)
    return load(item)
