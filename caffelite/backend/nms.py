"""Greedy non-maximum suppression of many groups of boxes at once."""

from __future__ import annotations

import functools

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
    pairs = (counts * (counts - 1) // 2).sum()
    if backend.on_gpu() and pairs >= WORTH_PAIRS and n * _words(starts) <= MOST_WORDS:
        return _on_gpu(starts, boxes, threshold)
    flags = np.zeros(n, np.uint8)
    if n:
        kernels("nms").nms(len(counts), n, starts, boxes, threshold, flags)
    return flags


def suppressed_of_ssd(starts: np.ndarray, boxes, threshold: float, eta: float):
    """The same by the rule of the SSD fork, for boxes (n, 4) as fractions of the image on the current backend: one is
    suppressed if its IoU with a better one that is kept is over the threshold, which each box kept multiplies by eta
    while it is above 0.5. Returns (n,) uint8, on the current backend. Source: bbox_util.cpp."""
    n, groups, words = len(boxes), len(starts) - 1, _words(starts)
    flags = xp.empty(n, np.uint8)
    if not backend.on_gpu() or eta < 1 or n * words > MOST_WORDS:
        kernels("detection").detection_nms(groups, xp.asarray(starts), boxes, threshold, eta, flags)
        return flags
    starts, group_of = map(xp.asarray, (starts, _group_of(starts)))
    overlaps = xp.empty(n * words, np.uint32)
    kernels("detection").detection_overlaps(
        overlaps.size, words, starts, group_of, boxes, threshold, overlaps
    )  # fmt: skip
    _sweep(starts, overlaps, groups, words, flags)
    return flags


def _on_gpu(starts: np.ndarray, boxes: np.ndarray, threshold: float) -> np.ndarray:
    n, groups, words = boxes.shape[1], len(starts) - 1, _words(starts)
    with _stream(xp.cuda.runtime.getDevice()):  # so that it need not wait for a net that is computing
        starts, group_of, boxes = map(xp.asarray, (starts, _group_of(starts), boxes))
        overlaps, flags = xp.empty(n * words, np.uint32), xp.empty(n, np.uint8)
        kernels("nms").nms_overlaps(n * words, n, words, starts, group_of, boxes, threshold, overlaps)
        _sweep(starts, overlaps, groups, words, flags)
        return flags.get()


@functools.cache
def _stream(device: int):
    """The stream for suppression on a device, which is current."""
    return xp.cuda.Stream(non_blocking=True)


def _sweep(starts, overlaps, groups: int, words: int, flags) -> None:
    """The flags that follow from all overlaps."""
    gone = xp.empty(groups * words, np.uint32)
    kernels("nms").nms_sweep(warps(groups), groups, words, starts, overlaps, gone, flags)


def _words(starts: np.ndarray) -> int:
    """Words of 32 bits, one for each box of the largest group."""
    return -(-int(np.diff(starts).max(initial=0)) // WARP)


def _group_of(starts: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(starts) - 1, dtype=np.int32), np.diff(starts))
