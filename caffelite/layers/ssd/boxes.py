"""Boxes of the SSD fork on the host: overlap, order of scores; checks of priors (bbox_util.cpp).

A box is a row (xmin, ymin, xmax, ymax), normalised to the image. All arithmetic is float32 in the order of the
original. kernels/ssd_boxes.h has what is for both machines.
"""

from __future__ import annotations

import numpy as np

CORNER, CENTER_SIZE, CORNER_SIZE = 1, 2, 3  # PriorBoxParameter.CodeType
FLT_MIN = np.finfo(np.float32).tiny


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


def best_first(scores: np.ndarray, count: int | None = None) -> np.ndarray:
    """The order of falling scores, or its first `count` elements; equal ones keep theirs."""
    if count is None or count >= len(scores):
        return np.argsort(-scores, kind="stable")
    if count <= 0:
        return np.empty(0, np.intp)
    candidates = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    return candidates[np.argsort(-scores[candidates], kind="stable")][:count]
