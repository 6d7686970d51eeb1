"""Dense boxes: a grid over scale, aspect ratio and place, in the way that EdgeBoxes slides its windows.

One parameter says how dense: neighbours in any one direction have this IoU (Zitnick and Dollár, ECCV 2014, section 3.4;
0.65 there). With the defaults a photograph of PASCAL VOC gets 43,000 to 49,000 boxes, as many as the dense ones of the
Fast R-CNN paper (section 5.5), which does not say how it made them. Nothing is known of the image but its size.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import product

import numpy as np


@dataclass(frozen=True)
class GridOptions:
    """`overlap`: IoU of neighbours, which differ in place, scale or aspect ratio by one step. `min_area`: pixels of the
    smallest box. `max_ratio`: of the longer to the shorter side."""

    overlap: float = 0.65
    min_area: int = 1000
    max_ratio: float = 3.0


@dataclass(frozen=True)
class Window:
    """All boxes of one size: `width`, `height`, and the left and upper edges `xs`, `ys` whose product they are."""

    width: int
    height: int
    xs: np.ndarray
    ys: np.ndarray

    def boxes(self) -> np.ndarray:
        """(len(xs) * len(ys), 4) int32."""
        x, y = (edges.ravel() for edges in np.meshgrid(self.xs, self.ys))
        return np.stack((x, y, x + self.width - 1, y + self.height - 1), axis=1).astype(np.int32)


def windows(width: int, height: int, options: GridOptions = GridOptions()) -> list[Window]:
    """The windows of an image's grid, the smallest first; the last one is the whole image, and only that one where the
    image is smaller than the smallest box."""
    a = options.overlap
    scale_step, ratio_step, part = np.sqrt(1 / a), (1 + a) / (2 * a), (1 - a) / (1 + a)
    smallest = np.sqrt(options.min_area)
    scales = int(np.ceil(np.log(max(width, height) / smallest) / np.log(scale_step)))
    # a ratio of sides is the square of what one side is stretched by
    stretches = int(np.log(options.max_ratio) / np.log(ratio_step**2))
    found = {}
    for s, r in product(range(max(scales, 0) + 1), range(-stretches, stretches + 1)):
        side, stretch = smallest * scale_step**s, ratio_step**r
        w, h = round(side * stretch), round(side / stretch)
        if w <= width and h <= height:
            found[w, h] = Window(w, h, _edges(width - w, w * part), _edges(height - h, h * part))
    found.pop((width, height), None)
    return [*found.values(), Window(width, height, np.zeros(1, int), np.zeros(1, int))]


def _edges(room: int, step: float) -> np.ndarray:
    """Places from 0 to `room` inclusive, evenly spread and at most `step` apart, but at least 2 pixels."""
    count = int(np.ceil(room / max(step, 2))) + 1
    return np.unique(np.rint(np.linspace(0, room, count)).astype(int))


def grid(width: int, height: int, options: GridOptions = GridOptions()) -> np.ndarray:
    """All boxes of an image's grid, (n, 4) int32, x1 y1 x2 y2 from 0; no two are alike."""
    return np.concatenate([window.boxes() for window in windows(width, height, options)])


def shuffled_grid(
    width: int, height: int, name: str, options: GridOptions = GridOptions(), seed: int = 3
) -> np.ndarray:
    """The grid's boxes in a random order, which depends on the image's name: the first n are a random sample of n."""
    return generator(name, seed).permutation(grid(width, height, options))


def closest(boxes: np.ndarray, width: int, height: int, options: GridOptions = GridOptions()) -> np.ndarray:
    """For each of boxes (n, 4) that lie in the image the grid's box of the largest IoU, (n, 4) int32.

    Of one window the best place is found along x and along y alone, so that no box of the grid need be made.
    """
    x1, y1, x2, y2 = np.asarray(boxes).reshape(-1, 4).T.astype(np.int64)
    areas = (x2 - x1 + 1) * (y2 - y1 + 1)
    best, found = np.zeros(len(areas)), np.zeros((len(areas), 4), np.int32)
    for window in windows(width, height, options):
        x, shared_x = _best_place(x1, x2, window.xs, window.width)
        y, shared_y = _best_place(y1, y2, window.ys, window.height)
        shared = shared_x * shared_y
        overlaps = shared / (areas + window.width * window.height - shared)
        better = overlaps > best
        best[better] = overlaps[better]
        found[better] = np.stack((x, y, x + window.width - 1, y + window.height - 1), axis=1)[better]
    return found


def _best_place(low: np.ndarray, high: np.ndarray, places: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Along one axis: of each interval low..high the place that shares most with it, and how many pixels it shares."""
    shared = np.minimum(high[:, None], places + side - 1) - np.maximum(low[:, None], places) + 1
    best = shared.argmax(axis=1)
    return places[best], np.maximum(shared[np.arange(len(low)), best], 0)


def generator(name: str, seed: int) -> np.random.Generator:
    """Random numbers of an image that depend on its name and the seed alone, not on the images before it."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
