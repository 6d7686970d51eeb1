"""Boxes: overlap, encoding as regression targets and back, clipping, non-maximum suppression.

A box is x1, y1, x2, y2 in pixels from 0, both corners inside it: its area is (x2 - x1 + 1) * (y2 - y1 + 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffelite.backend.nms import suppressed


def bbox_overlaps(boxes: np.ndarray, query_boxes: np.ndarray) -> np.ndarray:
    """IoU of every box (N, 4) with every query box (K, 4), pixels counted inclusively: (N, K) float64.

    Source: utils/bbox.pyx of Fast R-CNN.
    """
    intersection, areas, query_areas = _intersections(boxes, query_boxes)
    return intersection / (areas + query_areas - intersection)


def parts_inside(boxes: np.ndarray, query_boxes: np.ndarray) -> np.ndarray:
    """Which part of every box (N, 4) lies in every query box (K, 4), pixels counted inclusively: (N, K) float64."""
    intersection, areas, _ = _intersections(boxes, query_boxes)
    return intersection / areas


def _intersections(boxes: np.ndarray, query_boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels of the intersections (N, K), of the boxes (N, 1) and of the query boxes (K,)."""
    x1, y1, x2, y2 = (c[:, None] for c in boxes.astype(np.float64).reshape(-1, 4).T)
    u1, v1, u2, v2 = query_boxes.astype(np.float64).reshape(-1, 4).T
    width = np.maximum(np.minimum(x2, u2) - np.maximum(x1, u1) + 1, 0)
    height = np.maximum(np.minimum(y2, v2) - np.maximum(y1, v1) + 1, 0)
    return width * height, (x2 - x1 + 1) * (y2 - y1 + 1), (u2 - u1 + 1) * (v2 - v1 + 1)


def _centres(boxes: np.ndarray, offset: float) -> tuple[np.ndarray, ...]:
    """Widths, heights and centres x, y of boxes (N, 4), each (N,)."""
    widths = boxes[:, 2] - boxes[:, 0] + offset
    heights = boxes[:, 3] - boxes[:, 1] + offset
    return widths, heights, boxes[:, 0] + 0.5 * widths, boxes[:, 1] + 0.5 * heights


def encode_boxes(boxes: np.ndarray, gt_boxes: np.ndarray, offset: float) -> np.ndarray:
    """What moves each box (N, 4) onto its ground truth (N, 4): dx, dy, dw, dh, (N, 4) float64.

    `offset` is added to x2 - x1 and y2 - y1 (cfg.BOX_WIDTH_OFFSET). Source: R-CNN paper, appendix C; roidb.py of
    Fast R-CNN.
    """
    widths, heights, x, y = _centres(boxes.astype(np.float64), offset)
    gt_widths, gt_heights, gt_x, gt_y = _centres(gt_boxes.astype(np.float64), offset)
    return np.stack(
        ((gt_x - x) / widths, (gt_y - y) / heights, np.log(gt_widths / widths), np.log(gt_heights / heights)), axis=1
    )


def decode_boxes(boxes: np.ndarray, deltas: np.ndarray, offset: float) -> np.ndarray:
    """The boxes (N, 4) moved by the deltas (N, 4K) of K classes: (N, 4K) float64.

    `offset` as in `encode_boxes`. Source: test.py of Fast R-CNN.
    """
    widths, heights, x, y = (v[:, None] for v in _centres(boxes.astype(np.float64), offset))
    x = deltas[:, 0::4] * widths + x
    y = deltas[:, 1::4] * heights + y
    with np.errstate(over="ignore"):  # an untrained net may ask for infinite boxes; clipping bounds them
        widths = np.exp(deltas[:, 2::4]) * widths
        heights = np.exp(deltas[:, 3::4]) * heights
    moved = np.empty(deltas.shape)
    moved[:, 0::4] = x - 0.5 * widths
    moved[:, 1::4] = y - 0.5 * heights
    moved[:, 2::4] = x + 0.5 * widths
    moved[:, 3::4] = y + 0.5 * heights
    return moved


def clip_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Clip boxes (N, 4K) in place one-sidedly: x1, y1 to at least 0, x2, y2 to at most the image's last pixel.

    Source: test.py of Fast R-CNN.
    """
    boxes[:, 0::4] = np.maximum(boxes[:, 0::4], 0)
    boxes[:, 1::4] = np.maximum(boxes[:, 1::4], 0)
    boxes[:, 2::4] = np.minimum(boxes[:, 2::4], width - 1)
    boxes[:, 3::4] = np.minimum(boxes[:, 3::4], height - 1)
    return boxes


def clip_boxes_inside(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Clip all coordinates of boxes (N, 4K) in place to 0 .. the image's last pixel. Source: py-faster-rcnn."""
    boxes[:, 0::2] = np.maximum(np.minimum(boxes[:, 0::2], width - 1), 0)
    boxes[:, 1::2] = np.maximum(np.minimum(boxes[:, 1::2], height - 1), 0)
    return boxes


def nms(dets: np.ndarray, threshold: float) -> np.ndarray:
    """Indices, best score first, of the detections (N, 5: box, score) that no better one kept overlaps by at least
    the threshold (IoU)."""
    return nms_groups([dets], threshold)[0]


def nms_groups(groups: Sequence[np.ndarray], threshold: float) -> list[np.ndarray]:
    """`nms` of every group of detections (say, one per class) at once.

    Source: utils/cython_nms.pyx of Fast R-CNN.
    """
    # the original's sort, not a stable one: of duplicates with equal scores it decides which index is kept
    orders = [np.argsort(dets[:, 4])[::-1] for dets in groups]
    starts = np.cumsum([0, *map(len, orders)], dtype=np.int32)
    boxes = np.empty((4, int(starts[-1])), np.float32)
    for dets, order, start in zip(groups, orders, starts):
        boxes[:, start : start + len(order)] = dets[order, :4].T
    left = suppressed(starts, boxes, threshold) == 0
    return [order[left[start : start + len(order)]].astype(np.int32) for order, start in zip(orders, starts)]
