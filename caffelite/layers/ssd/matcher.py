"""Which priors of a batch are matched to ground truth (FindMatches of bbox_util.cpp)."""

from __future__ import annotations

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels, warps
from caffelite.layers.ssd.ground_truth import GroundTruth

UNMATCHED = -1


class Objects:
    """The ground truth of a batch in groups: an image each, or with `classes` a class of an image.

    `boxes` (R, 4), `labels` (R,) and `group_of` (R,) lie group by group, group g at starts[g] .. starts[g + 1] - 1;
    where there is none at all they have one row that belongs to no group. All are arrays of the current backend.
    """

    def __init__(self, truth: GroundTruth, images: int, classes: int = 1):
        self.by_class, self.groups, self.count = classes > 1, images * classes, len(truth)
        group_of = truth.images * classes + (truth.labels if self.by_class else 0)
        order = np.argsort(group_of, kind="stable")
        self.starts = xp.asarray(np.searchsorted(group_of[order], np.arange(self.groups + 1)).astype(np.int32))
        row = np.zeros(1, int) if not len(truth) else order
        self.labels = xp.asarray(_rows(truth.labels, row, np.int32))
        self.boxes = xp.asarray(_rows(truth.boxes, row, np.float32))
        self.group_of = xp.asarray(_rows(group_of, row, np.int32))


def _rows(values: np.ndarray, rows: np.ndarray, kind) -> np.ndarray:
    """These rows as contiguous numbers of a kind; zeros where there are none to take."""
    return np.ascontiguousarray(values[rows] if len(values) else np.zeros((1, *values.shape[1:])), kind)


def match(param, objects: Objects, candidates, priors: int):
    """The object matched to every group and prior, (groups, priors) int32: a row of the objects, UNMATCHED, or IGNORED
    for boxes across the image's boundary; and the largest overlap of each, float32.

    candidates: (priors, 4), or (groups, priors, 4), what is matched to the objects. First every object takes the free
    candidate that it overlaps most, the largest overlap first; then, with match_type PER_PREDICTION, every candidate
    left takes the object that it overlaps most, if by overlap_threshold. Equal overlaps go to the lowest prior, then
    to the lowest object.
    """
    k, own = kernels("multibox"), int(candidates.ndim == 3)
    overlaps = xp.empty((objects.count, priors), np.float32)
    crossing = int(param.ignore_cross_boundary_bbox)
    k.multibox_overlaps(
        overlaps.size, priors, objects.group_of, objects.boxes, candidates, own, crossing, overlaps
    )  # fmt: skip
    found = xp.empty((objects.groups, priors), np.int32)
    strongest = xp.empty(found.shape, np.float32)
    nearest = xp.empty(objects.count, np.int32)
    k.multibox_bipartite(warps(objects.groups), objects.groups, priors, objects.starts, overlaps, nearest, found)
    k.multibox_per_prediction(
        found.size, priors, objects.starts, overlaps, candidates, own, crossing,
        int(param.match_type == param.PER_PREDICTION), param.overlap_threshold, found, strongest,
    )  # fmt: skip
    return found, strongest
