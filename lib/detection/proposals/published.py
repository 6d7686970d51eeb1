"""Proposals that the authors published as MATLAB files."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from detection.arrays import FREE_BYTES, MAX_EXPANSION
from detection.datasets.dataset import Dataset
from detection.errors import ProposalError

_HEAD, _COMPRESSED = 128, 15  # the header's bytes, the type of an element that is packed
_STEP = 2**24


def proposals(dataset: Dataset, path: str | Path, max_proposals: int = 0) -> list[np.ndarray]:
    """Proposals of every image of a data set from a file of selective_search_data.

    Each is (n, 4) int32, x1 y1 x2 y2 from 0.

    The file's cell array `boxes` holds y1 x1 y2 x2 counted from 1, in the order of `images`, or of the image set where
    it has no `images`. `max_proposals`: first boxes kept per image (0: all). Raises ProposalError, DatasetError.
    """
    arrays = _load(path)
    cells = arrays["boxes"].ravel()
    if cells.dtype != object:
        raise ProposalError(
            f"{path}: expected a cell array `boxes`, one cell per image, found numbers: a file of one image?"
        )
    if "images" in arrays:
        names = [str(np.ravel(name)[0]) if np.size(name) else "" for name in arrays["images"].ravel()]
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


def _load(path: str | Path) -> dict[str, np.ndarray]:
    try:
        _check_expansion(path)
        arrays = scipy.io.loadmat(path)
    except NotImplementedError:
        raise ProposalError(f"{path}: is in MATLAB's format 7.3; save it there with -v7") from None
    except (OSError, ValueError, TypeError, LookupError, OverflowError, MatReadError, zlib.error) as e:
        raise ProposalError(f"{path}: cannot be read as a MATLAB file: {e}") from None
    if "boxes" not in arrays:
        names = ", ".join(name for name in arrays if not name.startswith("__")) or "nothing"
        raise ProposalError(f"{path}: expected an array `boxes`, found {names}")
    return arrays


def _check_expansion(path: str | Path) -> None:
    """Raise ValueError for a file of another format than MATLAB's 5 to 7.3, and for one that unpacks to too much."""
    with open(path, "rb") as file:
        order = {b"IM": "<", b"MI": ">"}.get(file.read(_HEAD)[_HEAD - 2 :])
        if order is None:
            raise ValueError("it has no header of the formats 5 to 7.2")
        size, total = os.fstat(file.fileno()).st_size, 0
        while len(tag := file.read(8)) == 8:
            kind, length = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                file.seek(length, os.SEEK_CUR)
                continue
            unpacked = zlib.decompressobj()
            packed = file.read(min(length, size))
            while packed and not unpacked.eof:
                total += len(unpacked.decompress(packed, _STEP))
                packed = unpacked.unconsumed_tail
                if total > max(FREE_BYTES, MAX_EXPANSION * size):
                    raise ValueError(f"{size} bytes that unpack to more than {total}")


def _checked(boxes: np.ndarray, where: str | Path) -> np.ndarray:
    """Boxes as int32, signed so that subtracting 1 cannot wrap around."""
    if boxes.size == 0:
        return np.zeros((0, 4), np.int32)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "iuf":
        raise ProposalError(f"{where}: expected boxes (n, 4), found {boxes.dtype} {boxes.shape}")
    whole = boxes.astype(np.int32)
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
