"""Outlines, textures and colours from which the generated data set is made.

The same generator state gives the same pixels on any machine: OpenCV is used for its exact integer operations only, and
real numbers are float64, rounded to 8 bits at the end.
"""

from __future__ import annotations

import cv2
import numpy as np

Random = np.random.Generator

_ROUND = 2 * np.pi * np.arange(72) / 72
_SUBPIXEL_BITS = 4


def outline(kind: str, random: Random) -> list[np.ndarray]:
    """The closed contours (n, 2) of a shape around the origin; the second one, if any, is a hole."""
    return _OUTLINES[kind](random)


def _circle(random: Random) -> list[np.ndarray]:
    return [_polar(_ROUND, 1.0)]


def _ring(random: Random) -> list[np.ndarray]:
    return [_polar(_ROUND, 1.0), _polar(_ROUND, random.uniform(0.5, 0.68))]


def _box(random: Random) -> list[np.ndarray]:
    return [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float)]


def _triangle(random: Random) -> list[np.ndarray]:
    return [np.array([(random.uniform(-0.4, 0.4), -1), (1, 0.8), (-1, 0.8)])]


def _star(random: Random) -> list[np.ndarray]:
    return [_polar(np.pi * np.arange(10) / 5, np.tile([1.0, random.uniform(0.38, 0.5)], 5))]


def _cross(random: Random) -> list[np.ndarray]:
    a = random.uniform(0.26, 0.4)
    quarter = np.array([(a, -1), (a, -a), (1, -a)])
    turned = np.stack([-quarter[:, 1], quarter[:, 0]], axis=1)
    return [np.concatenate([quarter, turned, -quarter, -turned])]


def _blob(random: Random) -> list[np.ndarray]:
    lobes = sum(random.uniform(0.12, 0.3) * np.cos(k * _ROUND + random.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    return [_polar(_ROUND, 1 + lobes)]


def _crescent(random: Random) -> list[np.ndarray]:
    angle = _ROUND[:37] - np.pi / 2
    bulge = random.uniform(0.3, 0.6)
    return [np.concatenate([_polar(angle, 1.0), (_polar(angle, 1.0) * (1, bulge))[::-1]])]


def _bar(random: Random) -> list[np.ndarray]:
    thin = random.uniform(0.03, 0.1)
    return [np.array([(-1, -thin), (1, -thin), (1, thin), (-1, thin)])]


_OUTLINES = {
    "circle": _circle,
    "ring": _ring,
    "box": _box,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "blob": _blob,
    "crescent": _crescent,
    "bar": _bar,
}


def _polar(angle: np.ndarray, radius: np.ndarray | float) -> np.ndarray:
    return np.stack([np.sin(angle) * radius, -np.cos(angle) * radius], axis=1)


def place(contours: list[np.ndarray], centre: np.ndarray, side: float, aspect: float, angle: float) -> list[np.ndarray]:
    """Contours stretched, turned and moved to a centre; the mean of their width and height is `side` pixels."""
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    stretched = [contour * (aspect, 1.0) for contour in contours]
    turned = [c[:, :1] * turn[0] + c[:, 1:] * turn[1] for c in stretched]
    low, high = turned[0].min(axis=0), turned[0].max(axis=0)
    return [(c - (low + high) / 2) * (side / (high - low).mean()) + centre for c in turned]


def mask_of(contours: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """How much of each pixel the contours cover, (height, width) uint8 from 0 to 255."""
    mask = np.zeros((height, width), np.uint8)
    points = [np.rint(c * (1 << _SUBPIXEL_BITS)).astype(np.int32) for c in contours]
    cv2.fillPoly(mask, points, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
    return mask


def texture(kind: str, random: Random, height: int, width: int) -> np.ndarray:
    """A pattern (height, width) float64 from -1 to 1; `kind` is one of SURFACES or BACKGROUNDS."""
    y, x = np.mgrid[:height, :width].astype(float)
    angle = random.uniform(0, np.pi)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    period = random.uniform(6, 22)
    if kind == "gradient":
        return 2 * (u - u.min()) / max(np.ptp(u), 1.0) - 1
    if kind == "stripes":
        return np.where(np.floor(2 * u / period) % 2 == 0, 1.0, -1.0)
    if kind == "waves":
        return np.sin(2 * np.pi * u / period + 1.5 * np.sin(2 * np.pi * v / (3 * period)))
    if kind == "checks":
        return np.where((np.floor(u / period) + np.floor(v / period)) % 2 == 0, 1.0, -1.0)
    if kind == "dots":
        return np.where(
            (u % period - period / 2) ** 2 + (v % period - period / 2) ** 2 < (0.3 * period) ** 2, 1.0, -1.0
        )
    if kind == "noise":
        layers = [(random.uniform(20, 60), 0.6), (random.uniform(5, 12), 0.4)]
        return sum(weight * _value_noise(random, height, width, cell) for cell, weight in layers)
    if kind == "patches":
        seeds = random.uniform(0, 1, (random.integers(6, 16), 2)) * (height, width)
        distance = (y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2
        return random.uniform(-1, 1, len(seeds))[distance.argmin(axis=2)]
    return np.zeros((height, width))


def _value_noise(random: Random, height: int, width: int, cell: float) -> np.ndarray:
    """Random values on a grid of `cell` pixels, interpolated; -1 to 1."""
    grid = random.integers(0, 256, (max(2, round(height / cell)), max(2, round(width / cell)))).astype(np.uint8)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR_EXACT) / 127.5 - 1


def paint(kind: str, random: Random, height: int, width: int, base: np.ndarray, contrast: float) -> np.ndarray:
    """A surface (height, width, 3) float64: the colour `base` varied by a texture by up to `contrast` per channel."""
    direction = random.uniform(-1, 1, 3)
    direction *= contrast / np.abs(direction).max()
    return base + texture(kind, random, height, width)[..., None] * direction
