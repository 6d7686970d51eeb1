"""Boxes of the SSD fork: overlap, encoding against priors, matching, non-maximum suppression (bbox_util.cpp).

A box is a row (xmin, ymin, xmax, ymax), normalised to the image. All arithmetic is float32 in the order of the
original, so that matches, kept boxes and their order are the same.
"""

from __future__ import annotations

import numpy as np

CORNER, CENTER_SIZE, CORNER_SIZE = 1, 2, 3  # PriorBoxParameter.CodeType
UNMATCHED, IGNORED = -1, -2
FLT_MIN = np.finfo(np.float32).tiny
MIN_OVERLAP = np.float32(1e-6)  # what overlaps less does not touch
NMS_BLOCK = 256  # boxes whose overlaps with each other are computed at once


def exp(x: np.ndarray) -> np.ndarray:
    """exp of float32 numbers, rounded like C's expf: numpy's own float32 exp may be off by some units."""
    return np.exp(x, dtype=np.float64).astype(np.float32)


def log(x: np.ndarray) -> np.ndarray:
    """log of float32 numbers, rounded like C's logf."""
    return np.log(x, dtype=np.float64).astype(np.float32)


def read_priors(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and variances, [P, 4] each, of a prior blob [any, 2, 4 P], whose first item holds for every image.

    Raises ValueError where the shape is another or a number is not finite.
    """
    if data.ndim < 3 or data.shape[0] < 1 or data.shape[1] != 2 or data[0, 0].size % 4:
        raise ValueError(f"expected priors of shape 1 x 2 x (4 * number of priors), actual {data.shape}")
    priors, variances = data[0].reshape(2, -1, 4)
    if not np.isfinite(data[0]).all():
        raise ValueError("expected finite priors and variances, actual NaN or infinity among them")
    return priors, variances


def check_sizes(priors: np.ndarray, code_type: int) -> None:
    """Raise ValueError where codes are in units of the priors' sizes and these are not positive."""
    if code_type == CORNER or (priors[:, 2:] > priors[:, :2]).all():
        return
    at = int(np.flatnonzero(~(priors[:, 2:] > priors[:, :2]).all(1))[0])
    raise ValueError(f"expected priors of positive width and height, actual {priors[at].tolist()}")


@np.errstate(invalid="ignore", over="ignore")  # predicted boxes may be infinite
def areas(boxes: np.ndarray, plus_one: bool = False) -> np.ndarray:
    """Areas [N] of boxes [N, 4]; 0 where a box is inside out. `plus_one` counts pixels inclusively."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area = (width + 1) * (height + 1) if plus_one else width * height
    area[(width < 0) | (height < 0)] = 0
    return area


@np.errstate(invalid="ignore", over="ignore")
def overlaps(
    a: np.ndarray, b: np.ndarray, area_a: np.ndarray | None = None, area_b: np.ndarray | None = None, extra: int = 0
) -> np.ndarray:
    """Intersection over union [N, M] of boxes a [N, 4] and b [M, 4].

    Areas may be given where they are not width times height; `extra` (0 or 1) is added to the sides of intersections.
    """
    area_a = areas(a) if area_a is None else area_a
    area_b = areas(b) if area_b is None else area_b
    a0, a1, a2, a3 = a.T[:, :, None]
    b0, b1, b2, b3 = np.ascontiguousarray(b.T)
    width, height = np.minimum(a2, b2), np.minimum(a3, b3)
    width -= np.maximum(a0, b0)
    height -= np.maximum(a1, b1)
    if extra:  # boxes apart meet in the empty box (0, 0, 0, 0), which then counts as one pixel, as in the original
        apart = (b0 > a2) | (b2 < a0) | (b1 > a3) | (b3 < a1)
        width[apart] = height[apart] = 0
        width += extra
        height += extra
    np.fmax(width, 0, out=width)
    np.fmax(height, 0, out=height)
    width *= height  # now the area of the intersection
    union = np.add(area_a[:, None], area_b, out=height)
    union -= width
    np.maximum(union, FLT_MIN, out=union)
    return np.divide(width, union, out=width)


def crosses_boundary(boxes: np.ndarray) -> np.ndarray:
    """Which coordinates, in the shape of `boxes`, lie outside of the image."""
    return (boxes < 0) | (boxes > 1)


def _scale(priors: np.ndarray, code_type: int) -> np.ndarray:
    """Width, height, width, height of every prior, or ones for CORNER."""
    if code_type == CORNER:
        return np.ones_like(priors)
    return np.tile(priors[:, 2:] - priors[:, :2], 2)


def encode(boxes: np.ndarray, priors: np.ndarray, variances: np.ndarray, code_type: int) -> np.ndarray:
    """What the net should predict for priors [N, 4] that are matched to boxes [N, 4]; pass ones as variances for none.

    CORNER: offsets of the corners; CORNER_SIZE: in units of the prior's size; CENTER_SIZE: offset of the centre in
    units of the prior's size, and logarithms of the ratio of sizes.
    """
    scale = _scale(priors, code_type)
    if code_type != CENTER_SIZE:
        return (boxes - priors) / scale / variances
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2 - (priors[:, :2] + priors[:, 2:]) / 2
    sizes = boxes[:, 2:] - boxes[:, :2]
    return np.concatenate([centers / scale[:, :2], log(sizes / scale[:, :2])], 1) / variances


def decode(codes: np.ndarray, priors: np.ndarray, variances: np.ndarray, code_type: int) -> np.ndarray:
    """Boxes [N, 4] from predictions [N, 4]; the inverse of `encode`."""
    scale = _scale(priors, code_type)
    if code_type != CENTER_SIZE:
        return priors + variances * codes * scale
    codes, scale = variances * codes, scale[:, :2]
    centers = codes[:, :2] * scale + (priors[:, :2] + priors[:, 2:]) / 2
    with np.errstate(over="ignore"):
        half = exp(codes[:, 2:]) * scale / 2
    return np.concatenate([centers - half, centers + half], 1)


def match(overlap: np.ndarray, per_prediction: bool, threshold: float) -> np.ndarray:
    """The ground truth matched to each prior, [P], or UNMATCHED, from overlaps [G, P]; those of 0 do not match.

    First every ground truth takes the free prior that it overlaps most, the largest overlap first (among equal ones
    the lowest prior, then the lowest ground truth); then, `per_prediction`, every prior left takes the ground truth
    that it overlaps most, if by `threshold`.
    """
    matches = np.full(overlap.shape[1], UNMATCHED)
    if not overlap.size:
        return matches
    free = overlap.copy()
    best = free.argmax(1)
    for _ in range(len(overlap)):
        values = free[np.arange(len(free)), best]
        gt = np.lexsort((best, -values))[0]
        if values[gt] <= 0:
            break
        prior = best[gt]
        matches[prior] = gt
        free[:, prior] = 0
        free[gt] = 0
        again = best == prior
        best[again] = free[again].argmax(1)
    if per_prediction:
        strongest = overlap.max(0)
        rest = np.flatnonzero((matches == UNMATCHED) & (strongest >= threshold) & (strongest > 0))
        matches[rest] = overlap[:, rest].argmax(0)
    return matches


def nms(boxes: np.ndarray, threshold: float, eta: float = 1.0) -> np.ndarray:
    """Indices of the boxes [N, 4], given best first, that no kept one before them overlaps by more than `threshold`.

    With eta < 1 every kept box multiplies a threshold above 0.5 by eta.
    """
    threshold, eta = np.float32(threshold), np.float32(eta)
    kept: list[int] = []
    for start in range(0, len(boxes), NMS_BLOCK):
        block = boxes[start : start + NMS_BLOCK]
        within = overlaps(block, block)
        most = overlaps(block, boxes[kept]).max(1, initial=0)  # with any box kept so far
        for i in range(len(block)):
            if most[i] <= threshold:
                kept.append(start + i)
                np.maximum(most, within[i], out=most)
                if eta < 1 and threshold > 0.5:
                    threshold *= eta
    return np.array(kept, np.intp)


def best_first(scores: np.ndarray, count: int | None = None) -> np.ndarray:
    """The order of falling scores, or its first `count` elements; equal ones keep theirs."""
    if count is None or count >= len(scores):
        return np.argsort(-scores, kind="stable")
    if count <= 0:
        return np.empty(0, np.intp)
    candidates = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    return candidates[np.argsort(-scores[candidates], kind="stable")][:count]
