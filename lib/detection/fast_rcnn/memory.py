"""How much memory a training will need, told before it begins, and how much it took."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caffelite import backend
from caffelite.layers.convolution import BaseConvolution
from detection.config import cfg
from detection.roi_data.blob import image_scale

MIB, GIB = 2**20, 2**30
logger = logging.getLogger("detection")


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
    `blobs` and `gradients of blobs`, and on a GPU the `scratch memory` of convolutions; not what other layers keep."""
    net = solver.net
    learning = [p.blob for p in net.learnable_params if p.lr_mult]
    data = {id(blob.data_memory): blob.data_memory.size for blobs in net.top_blobs for blob in blobs}
    diffs, scratch = {}, [0]
    for need, layer, bottoms, tops in zip(net.layer_need_backward, net.layers, net.bottom_blobs, net.top_blobs):
        if need:
            diffs |= {id(blob.diff_memory): blob.diff_memory.size for blob in tops}
        if isinstance(layer, BaseConvolution):
            scratch += [layer.workspace(bottom, top, need) for bottom, top in zip(bottoms, tops)]
    plan = {
        "weights": 4 * sum(p.blob.count for p in net.learnable_params),
        "gradients and history": 4 * (1 + solver.rule.histories) * sum(blob.count for blob in learning),
        "blobs": 4 * sum(data.values()),
        "gradients of blobs": 4 * sum(diffs.values()),
    }
    return plan | ({"scratch memory": max(scratch)} if max(scratch) else {})


def peak_mib() -> float:
    """The most main memory that this process has had, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)


def facts() -> dict[str, float]:
    """What a training's log says of memory, MiB: the peak of main memory, and on a GPU what of its memory is taken."""
    taken = backend.memory_taken()
    gpu = {} if taken is None else {"gpu_mib": round(taken / MIB, 1)}
    return {"peak_mib": round(peak_mib(), 1), **gpu}


def tell(plan: Mapping[str, int]) -> None:
    """Log the plan in a line, with what the GPU has, and a warning where that is less."""
    parts = ", ".join(f"{name} {_size(size)}" for name, size in plan.items())
    need, room = sum(plan.values()), backend.device_memory()
    gpu = f"; the GPU has {_size(room[0])} of {_size(room[1])} free" if room else ""
    logger.info("memory for the largest minibatch: %s (%s), and what single layers keep%s", _size(need), parts, gpu)
    if room and need > room[0]:
        logger.warning(
            "%s are needed and the GPU has %s: expect it to run out of memory. Lower TRAIN.SCALES and TRAIN.MAX_SIZE, "
            "TRAIN.IMS_PER_BATCH (with iter_size: 2 in the solver for the same effective batch) or TRAIN.BATCH_SIZE",
            _size(need), _size(room[0]),
        )  # fmt: skip


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
