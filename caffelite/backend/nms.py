"""Greedy non-maximum suppression of many groups of boxes at once."""

from __future__ import annotations

import numpy as np

from caffelite import backend
from caffelite.backend import xp
from caffelite.backend.kernels import WARP, kernels, warps

WORTH_PAIRS = 2**18  # with fewer, the way to a GPU and back takes longer than the CPU
MOST_WORDS = 2**28  # of 32 overlaps each, on a GPU


def suppressed(starts: np.ndarray, boxes: np.ndarray, threshold: float) -> np.ndarray:
    """Which boxes a better one of their group, itself not suppressed, overlaps by an IoU of at least the threshold.

    boxes: (4, n) float32, x1, y1, x2, y2 in pixels, both corners inside; groups lie one behind another, their best box
    first, group g at starts[g] .. starts[g + 1] - 1 (int32). Returns (n,) uint8. A GPU gives the CPU's answers.
    Source: utils/cython_nms.pyx of Fast R-CNN.
    """
    n, counts = boxes.shape[1], np.diff(starts).astype(np.int64)
    words = -(-int(counts.max(initial=0)) // WARP)
    if backend.on_gpu() and (counts * (counts - 1) // 2).sum() >= WORTH_PAIRS and n * words <= MOST_WORDS:
        return _on_gpu(starts, boxes, threshold, words)
    flags = np.zeros(n, np.uint8)
    if n:
        kernels("nms").nms(len(counts), n, starts, boxes, threshold, flags)
    return flags


def _on_gpu(starts: np.ndarray, boxes: np.ndarray, threshold: float, words: int) -> np.ndarray:
    n, groups = boxes.shape[1], len(starts) - 1
    group_of = np.repeat(np.arange(groups, dtype=np.int32), np.diff(starts))
    starts, group_of, boxes = map(xp.asarray, (starts, group_of, boxes))
    overlaps, gone = xp.empty(n * words, np.uint32), xp.empty(groups * words, np.uint32)
    flags = xp.empty(n, np.uint8)
    kernels("nms").nms_overlaps(n * words, n, words, starts, group_of, boxes, threshold, overlaps)
    kernels("nms").nms_sweep(warps(groups), groups, words, starts, overlaps, gone, flags)
    return flags.get()
