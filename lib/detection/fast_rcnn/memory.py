"""How much memory a training will need, told before it begins, and how much it took."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caffelite import backend
from detection.config import cfg
from detection.roi_data.blob import image_scale

MIB = 2**20


def largest_shapes(roidb: Sequence[Mapping[str, Any]], num_classes: int) -> list[tuple[int, ...]]:
    """Shapes of the data layer's tops in the largest minibatch of a roidb: images of all shapes may meet in one."""
    t = cfg.TRAIN
    sizes = np.array([(entry["height"], entry["width"]) for entry in roidb])
    scales = [image_scale(*size, max(t.SCALES), t.MAX_SIZE) for size in np.unique(sizes, axis=0)]
    height, width = np.rint(np.unique(sizes, axis=0) * np.array(scales)[:, None]).max(axis=0).astype(int)
    targets = (t.BATCH_SIZE, 4 * num_classes)
    return [(t.IMS_PER_BATCH, 3, height, width), (t.BATCH_SIZE, 5), (t.BATCH_SIZE,), targets, targets, targets]


def memory_plan(solver) -> dict[str, int]:
    """Bytes that one iteration of a solver, shaped as it is, allocates: `weights`, their `gradients and history`,
    `blobs` and `gradients of blobs`; not the work space of single layers."""
    net = solver.net
    learning = [p.blob for p in net.learnable_params if p.lr_mult]
    data = {id(blob.data_memory): blob.data_memory.size for blobs in net.top_blobs for blob in blobs}
    diffs = {}
    for need, tops in zip(net.layer_need_backward, net.top_blobs):
        if need:
            diffs |= {id(blob.diff_memory): blob.diff_memory.size for blob in tops}
    return {
        "weights": 4 * sum(p.blob.count for p in net.learnable_params),
        "gradients and history": 4 * (1 + solver.rule.histories) * sum(blob.count for blob in learning),
        "blobs": 4 * sum(data.values()),
        "gradients of blobs": 4 * sum(diffs.values()),
    }


def peak_mib() -> float:
    """The most main memory that this process has had, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def describe(plan: Mapping[str, int]) -> str:
    """The plan in a line, with what the GPU has."""
    parts = ", ".join(f"{name} {size / MIB:.0f}" for name, size in plan.items())
    room = backend.device_memory()
    gpu = f"; the GPU has {room[0] / MIB:.0f} of {room[1] / MIB:.0f} MiB free" if room else ""
    total = sum(plan.values()) / MIB
    return f"memory for the largest minibatch: {total:.0f} MiB ({parts}), and the layers' work space{gpu}"
