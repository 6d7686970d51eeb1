"""Proposals that the authors published as MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from caffelite.errors import FileFormatError
from detection.datasets.dataset import Dataset
from detection.errors import ProposalError
from detection.proposals.mat_file import read_mat


def proposals(dataset: Dataset, path: str | Path, max_proposals: int = 0) -> list[np.ndarray]:
    """Proposals of every image of a data set from a file of selective_search_data.

    Each is (n, 4) int32, x1 y1 x2 y2 from 0.

    The file's cell array `boxes` holds y1 x1 y2 x2 counted from 1, in the order of `images`, or of the image set where
    it has no `images`. `max_proposals`: first boxes kept per image (0: all). Raises ProposalError, DatasetError.
    """
    arrays = _load(path)
    cells = arrays["boxes"]
    if not isinstance(cells, list):
        raise ProposalError(
            f"{path}: expected a cell array `boxes`, one cell per image, found numbers: a file of one image?"
        )
    if "images" in arrays:
        names = arrays["images"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ProposalError(f"{path}: expected a cell array of names in `images`")
        if len(names) != len(cells):
            raise ProposalError(f"{path}: `images` has {len(names)} names, `boxes` has {len(cells)} cells")
        boxes_of = dict(zip(names, cells))
        missing = [name for name in dataset.image_index if name not in boxes_of]
        if missing:
            raise ProposalError(
                f"{path}: has no boxes for {len(missing)} image(s) of {dataset.name}, first {missing[0]}"
            )
        cells = [boxes_of[name] for name in dataset.image_index]
    elif len(cells) != len(dataset):
        raise ProposalError(f"{path}: has boxes for {len(cells)} images, {dataset.name} has {len(dataset)}")
    found = []
    for i, cell in enumerate(cells):
        where = f"{path}, image {dataset.image_index[i]}"
        boxes = _checked(cell, where)[: max_proposals or None]
        found.append(_inside(boxes[:, [1, 0, 3, 2]] - 1, dataset.image_size(i), where))
    return found


def demo_boxes(path: str | Path, image_size: tuple[int, int] | None = None) -> np.ndarray:
    """Proposals of one image from a file of the authors' demo, (n, 4) int32 x1 y1 x2 y2; the file has them so, from 0.

    With `image_size` (width, height) they must lie in that image. Raises ProposalError.
    """
    boxes = _checked(_load(path)["boxes"], path)
    return boxes if image_size is None else _inside(boxes, image_size, path)


def _load(path: str | Path) -> dict[str, Any]:
    try:
        arrays = read_mat(path, ("boxes", "images"))
    except FileFormatError as e:
        raise ProposalError(str(e)) from None
    if arrays.get("boxes") is None:
        raise ProposalError(f"{path}: expected an array `boxes`, found {', '.join(arrays) or 'nothing'}")
    return arrays


def _checked(boxes: Any, where: str | Path) -> np.ndarray:
    """Boxes as int32, signed so that subtracting 1 cannot wrap around."""
    if not isinstance(boxes, np.ndarray):
        raise ProposalError(f"{where}: expected boxes (n, 4), found a {'text' if isinstance(boxes, str) else 'cell'}")
    if boxes.size == 0:
        return np.zeros((0, 4), np.int32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ProposalError(f"{where}: expected boxes (n, 4), found {boxes.dtype} {boxes.shape}")
    whole = np.clip(np.nan_to_num(boxes), 0, 2**30).astype(np.int32)  # which no image reaches
    if not (whole == boxes).all():
        raise ProposalError(f"{where}: expected whole pixels, found {boxes[(whole != boxes).any(axis=1)][0]}")
    return whole


def _inside(boxes: np.ndarray, image_size: tuple[int, int], where: str | Path) -> np.ndarray:
    width, height = image_size
    x1, y1, x2, y2 = boxes.T
    wrong = (x1 < 0) | (y1 < 0) | (x2 < x1) | (y2 < y1) | (x2 >= width) | (y2 >= height)
    if wrong.any():
        n = int(wrong.argmax())
        raise ProposalError(
            f"{where}: box {n + 1} does not fit into the image of {width} x {height}: "
            f"x1 y1 x2 y2 {' '.join(map(str, boxes[n]))}, from 0"
        )
    return boxes
