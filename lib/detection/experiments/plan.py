"""What a study will take, told before it runs: trainings that rows share, memory, and a rough time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

import caffelite
from caffelite import backend, get_solver, proto
from caffelite.backend.gemm import gemm
from caffelite.operations import net_multiply_adds
from detection import datasets, plain_yaml
from detection.config import cfg
from detection.errors import DatasetError
from detection.experiments import nets
from detection.experiments.scale_down import ScaleDown
from detection.experiments.study import Row, Stage, Study
from detection.fast_rcnn import memory
from detection.fast_rcnn.svd import compress_definition
from detection.models import files
from detection.progress import duration

SIZES = ({"height": 375, "width": 500}, {"height": 500, "width": 375})
"""Of the images that estimates are made for, pixels: most of PASCAL VOC's; both may meet in a minibatch."""
ROIS = 2000
"""Proposals of an image at the test."""


@dataclass(frozen=True)
class Cost:
    """Of a stage: bytes of `memory` of its largest minibatch, multiply-adds of an `iteration` and of a `test` image."""

    memory: int
    iteration: int
    test: int


def lines(study: Study, rows: Sequence[Row], scale: ScaleDown | None = None) -> Iterator[str]:
    """The plan of a study's rows, settings applied, line by line. Raises CaffeliteError."""
    yield f"{study.title} ({study.source})"
    yield from (f"  {note}" for note in study.notes)
    rate = multiply_adds_per_second()
    seen: dict[tuple, str] = {}
    total = 0.0
    for row in rows:
        yield f"{row.name}: {row.label}"
        yield f"  train {row.train}, test {row.test}, proposals {row.proposals}; {row.metric}"
        published = row.published["mAP"]
        yield f"  published: {'no mAP' if published is None else f'mAP {100 * published:.1f}'}" + (
            f", {row.published['note']}" if row.published["note"] else ""
        )
        path: tuple = (row.model.folder, row.weights, row.train, row.proposals)
        for stage in row.stages:
            options = row.configured(stage)
            path = (*path, stage.variant.name, stage.iterations, str(stage.solver), str(options.TRAIN),
                    str(options.PROPOSALS), options.RNG_SEED)  # fmt: skip
            text = f"  {stage.variant.name or 'default'}: {stage.iterations} iterations"
            if path in seen:
                yield f"{text}, shared with {seen[path]}"
                continue
            seen[path] = row.name
            cost = estimate(row, stage, scale)
            seconds = stage.iterations * cost.iteration / rate
            total += seconds
            yield f"{text}, {cost.memory / memory.MIB:,.0f} MiB, about {duration(seconds)}"
        extra = [f"SVD {', '.join(f'{k} to rank {v}' for k, v in row.svd.items())}"] * bool(row.svd) + [
            "SVMs"
        ] * row.svm
        text = "".join(f"then {part}; " for part in extra)
        cost = estimate(row, row.stages[-1], scale)
        yield f"  {text}test: about {cost.test / rate:.2f} s per image with {ROIS} proposals"
        yield from (f"  deviation: {text}" for text in row.deviations)
    yield (
        f"all trainings: about {duration(total)} if nets ran at {2 * rate / 1e9:.0f} GFLOP/s, as a matrix product does "
        "here now; small nets take two to five times as long, and selective search comes on top"
    )


def estimate(row: Row, stage: Stage, scale: ScaleDown | None = None) -> Cost:
    """What a stage of a row costs, and a test of what the row tests.

    The global options are those of the stage for the while.
    """
    before = cfg.to_yaml()
    cfg.reset()
    cfg.merge(plain_yaml.load(row.configured(stage).to_yaml()))
    try:
        return _estimate(row, stage, scale)
    finally:
        cfg.reset()
        cfg.merge(plain_yaml.load(before))


def _estimate(row: Row, stage: Stage, scale: ScaleDown | None) -> Cost:
    num_classes = _num_classes(row.train, row.model.num_classes)
    param = files.solver(row.model, row.model.folder, stage.variant)
    param.ClearField("train_net")
    param.net_param.CopyFrom(nets.train_net(row, stage, num_classes, scale))
    solver, plan = get_solver(param), 0
    for sizes in (SIZES, SIZES[:1]):
        shapes = memory.largest_shapes(sizes, num_classes)
        for blob, shape in zip(solver.net.top_blobs[0], shapes):
            blob.reshape(*shape)
        solver.net.reshape()
        plan = plan or sum(memory.memory_plan(solver).values())
    test = compress_definition(nets.test_net(row, num_classes, scale), row.svd, row.model.title)
    proto.upgrade_net(test)
    net = caffelite.Net(test, phase=caffelite.TEST)
    _, channels, height, width = shapes[0]
    net.blobs["data"].reshape(len(cfg.TEST.SCALES), channels, height, width)
    net.blobs["rois"].reshape(ROIS, 5)
    net.reshape()
    passes = stage.solver.get("iter_size", 1)
    return Cost(plan, passes * net_multiply_adds(solver.net, True), net_multiply_adds(net, False))


@cache
def _num_classes(train: str, otherwise: int) -> int:
    """Of the training set, with the background; another number while the set is not there."""
    try:
        return datasets.get(train).num_classes
    except DatasetError:
        return otherwise


@cache
def multiply_adds_per_second(size: int = 768, repeats: int = 3) -> float:
    """Of a matrix product on this machine."""
    a = backend.xp.ones((size, size), np.float32)
    out = backend.xp.empty_like(a)
    best = float("inf")
    for _ in range(repeats + 1):  # the first one may have to compile
        start = time.perf_counter()
        gemm(a, a, out)
        backend.synchronize()
        best = min(best, time.perf_counter() - start)
    return size**3 / best
