"""Which proposals an experiment uses: selective search, a published file or dense boxes, and mixtures (section 5.5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detection.config import cfg
from detection.errors import ProposalError
from detection.proposals import dense, published, selective_search
from detection.proposals.dense import GridOptions
from detection.proposals.selective_search import SearchOptions

logger = logging.getLogger("detection")


def search_options() -> SearchOptions:
    """cfg.PROPOSALS for selective search."""
    p = cfg.PROPOSALS
    return SearchOptions(p.MODE, p.MAX_SIDE, p.MIN_SIZE, p.MAX_PROPOSALS, p.SEED)


def grid_options() -> GridOptions:
    """cfg.PROPOSALS for dense boxes."""
    p = cfg.PROPOSALS
    return GridOptions(p.DENSE_OVERLAP, p.DENSE_MIN_AREA, p.DENSE_MAX_RATIO)


def dataset_proposals(dataset, file: str | None = None) -> list[np.ndarray]:
    """Every image's proposals (n, 4) int32 as cfg.PROPOSALS says.

    With `file` they come from a published .mat file in the place of METHOD (for a union one per part, with commas
    between them). Raises ProposalError, DatasetError.
    """
    files = file.split(",") if file else [None] * len(dataset.parts)
    if len(files) != len(dataset.parts):
        raise ProposalError(f"{file}: expected {len(dataset.parts)} file(s), one for each part of {dataset.name}")
    boxes = [found for part, of_part in zip(dataset.parts, files) for found in _part_proposals(part, of_part)]
    _report(dataset.name, boxes)
    if not (cfg.PROPOSALS.ADD_DENSE or cfg.PROPOSALS.REPLACE_BY_DENSE):
        return boxes
    names, sizes = dataset.image_index, (dataset.image_size(i) for i in range(len(dataset)))
    return [mixed(found, size, name) for found, size, name in zip(boxes, sizes, names, strict=True)]


def image_proposals(image: np.ndarray, name: str = "") -> np.ndarray:
    """The proposals (n, 4) int32 of one BGR image (height, width, 3) uint8 as cfg.PROPOSALS says; the image's name
    makes dense boxes another sample. Raises ProposalError."""
    height, width = image.shape[:2]
    if cfg.PROPOSALS.METHOD == "dense":
        boxes = _dense(width, height, name)
    else:
        boxes = selective_search.search(image, search_options())
    return mixed(boxes, (width, height), name)


def mixed(boxes: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Proposals (n, 4) of an image of `size` (width, height), of which REPLACE_BY_DENSE are replaced by the closest
    dense boxes, with ADD_DENSE random dense boxes behind them."""
    p = cfg.PROPOSALS
    if p.REPLACE_BY_DENSE:
        count = round(p.REPLACE_BY_DENSE * len(boxes))
        chosen = dense.generator(name, p.SEED).choice(len(boxes), count, replace=False)
        boxes = boxes.copy()
        boxes[chosen] = dense.closest(boxes[chosen], *size, grid_options())
    if p.ADD_DENSE:
        more = dense.shuffled_grid(*size, name, grid_options(), p.SEED)[: p.ADD_DENSE]
        boxes = np.concatenate((boxes, more))
    return boxes


def _part_proposals(dataset, file: str | Path | None) -> list[np.ndarray]:
    if file:
        return published.proposals(dataset, file, cfg.PROPOSALS.MAX_PROPOSALS)
    if cfg.PROPOSALS.METHOD == "dense":
        return [_dense(*dataset.image_size(i), name) for i, name in enumerate(dataset.image_index)]
    return selective_search.proposals(dataset, search_options())


def _dense(width: int, height: int, name: str) -> np.ndarray:
    p = cfg.PROPOSALS
    return dense.shuffled_grid(width, height, name, grid_options(), p.SEED)[: p.MAX_PROPOSALS or None]


def _report(name: str, boxes: Sequence[np.ndarray]) -> None:
    """Say how many proposals there are, where fewer were found than were asked for."""
    wanted, counts = cfg.PROPOSALS.MAX_PROPOSALS, np.array([len(found) for found in boxes])
    if wanted and (counts < wanted).any():
        logger.info(
            "%s: %d of %d images have fewer than %d proposals; %.0f on average",
            name, (counts < wanted).sum(), len(counts), wanted, counts.mean(),
        )  # fmt: skip
