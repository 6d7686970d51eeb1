"""The jobs behind tools/train_net.py and tools/test_net.py: from names of data sets and files to results."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caffelite import proto
from caffelite.errors import CaffeliteError
from detection import datasets
from detection.config import cfg
from detection.datasets import shapes
from detection.fast_rcnn.train import Trainer
from detection.proposals.selective_search import SearchOptions, proposals
from detection.roi_data.roidb import build_roidb

logger = logging.getLogger("detection")

DEFAULT_ITERS = 40000
"""Iterations of the paper's VOC 2007 schedule, for a solver that does not say."""


def configure(file: str | None, beside: str, pairs: Sequence[str]) -> None:
    """Set the options from a YAML file (by default config.yml beside the prototxt, if there), then from pairs."""
    default = Path(beside).with_name("config.yml")
    if file is None and default.is_file():
        file = str(default)
    if file:
        cfg.merge_file(file)
        logger.info("options from %s", file)
    cfg.merge_pairs(pairs)


def get_dataset(name: str):
    """The data set of a name (detection.datasets.get); the generated one is made where it is not there yet."""
    folder = datasets.DATA / "shapes"
    if name.startswith("shapes_") and not folder.exists():
        logger.info("making the data set %s", folder)
        shapes.make(folder)
    return datasets.get(name)


def dataset_proposals(dataset) -> list[np.ndarray]:
    """Every image's proposals by selective search, as cfg.PROPOSALS says."""
    p = cfg.PROPOSALS
    return proposals(dataset, SearchOptions(p.MODE, p.MAX_SIDE, p.MIN_SIZE, p.MAX_PROPOSALS))


def read_solver(path: str, dataset: str, output: str | None = None):
    """The SolverParameter of a file, its snapshot_prefix complete: in the folder `output` if given, else where the
    prefix says, or if that names no folder, in output/<EXP_DIR>/<data set>. Raises PrototxtError, CaffeliteError."""
    if not os.path.isfile(path):
        raise CaffeliteError(f"--solver {path}: there is no such file (run from the folder that it lies in?)")
    param = proto.read_solver(path)
    folder, name = os.path.split(param.snapshot_prefix or Path(path).stem)
    folder = output or folder or os.path.join("output", cfg.EXP_DIR, dataset)
    param.snapshot_prefix = os.path.join(folder, name or Path(path).stem)
    return param


def train(
    solver: str,
    imdb: str,
    iters: int | None = None,
    weights: str | None = None,
    snapshot: str | None = None,
    output: str | None = None,
    strict: bool = False,
    fit_classes: bool = False,
    seed: int | None = None,
) -> Path:
    """Train the net of a solver file on a data set, from weights or from a snapshot's state; returns the model's file.

    `iters`: updates in all, by default the solver's max_iter. `seed`: instead of the solver's and RNG_SEED. Raises
    CaffeliteError.
    """
    if weights and snapshot:
        raise CaffeliteError("give either --weights (to fine-tune) or --snapshot (to continue), not both")
    dataset = get_dataset(imdb)
    param = read_solver(solver, dataset.name, output)
    if seed is not None:
        cfg.RNG_SEED = param.random_seed = seed
    roidb = build_roidb(dataset, dataset_proposals(dataset))
    trainer = Trainer(param, roidb, dataset.classes, fit_classes)
    if weights:
        trainer.load_weights(weights, strict)
    if snapshot:
        trainer.restore(snapshot)
    return trainer.train(iters or param.max_iter or DEFAULT_ITERS)
