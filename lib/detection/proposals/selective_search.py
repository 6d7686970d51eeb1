"""Selective search (Uijlings et al., IJCV 2013) by OpenCV, in the same order every run, kept in files.

OpenCV finds the same boxes every time but orders them by the C library's rand(). Here they are ordered anew, in the
way of the paper (section 3.3): a random number times the box's place in the hierarchy, where the largest is first; the
smallest products come first.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from caffelite.backend.kernels import cores
from caffelite.errors import FileFormatError
from caffelite.proto.files import replacing
from detection.arrays import read_arrays
from detection.datasets import DATA
from detection.datasets.dataset import Dataset
from detection.datasets.image import read_image
from detection.errors import ProposalError
from detection.progress import Progress

_VERSION = 1
logger = logging.getLogger("detection")

_IMAGES_PER_FILE = 500  # work that is interrupted is lost for one file only


@dataclass(frozen=True)
class SearchOptions:
    """How proposals are made.

    `mode`: `fast` (2 colour spaces, 2 scales) or `quality` (5 colour spaces, 4 scales). `max_side`: larger images are
    shrunk to it (pixels; 0: never), the boxes are scaled back. `min_size`: least width and height of a box, in pixels
    of the image. `max_proposals`: best boxes kept per image (0: all). `seed` of the order.
    """

    mode: str = "fast"
    max_side: int = 500
    min_size: int = 0
    max_proposals: int = 0
    seed: int = 3

    def __post_init__(self):
        if self.mode not in ("fast", "quality"):
            raise ProposalError(f"selective search: expected mode fast or quality, actual {self.mode!r}")
        for name in ("max_side", "min_size", "max_proposals"):
            if getattr(self, name) < 0:
                raise ProposalError(f"selective search: expected {name} of at least 0, actual {getattr(self, name)}")


def search(image: np.ndarray, options: SearchOptions = SearchOptions()) -> np.ndarray:
    """Proposals of a BGR image (height, width, 3) uint8: (n, 4) int32, x1 y1 x2 y2 from 0.

    Corners are included; no two boxes are alike. Raises ProposalError.
    """
    height, width = image.shape[:2]
    factor = min(1.0, options.max_side / max(height, width)) if options.max_side else 1.0
    if factor < 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    segmentation = _segmentation()
    segmentation.setBaseImage(image)
    if options.mode == "fast":
        segmentation.switchToSelectiveSearchFast()
    else:
        segmentation.switchToSelectiveSearchQuality()
    boxes = np.asarray(segmentation.process(), np.int64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # x, y, width, height to corners, the second one past the box
    scale = np.array([width / image.shape[1], height / image.shape[0]] * 2)
    boxes = np.rint(boxes * scale).astype(np.int64) - (0, 0, 1, 1)
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    boxes = boxes[(sides >= max(1, options.min_size)).all(axis=1)]
    return _ordered(np.unique(boxes, axis=0), options.seed)[: options.max_proposals or None].astype(np.int32)


def _segmentation():
    try:
        return cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    except AttributeError:
        raise ProposalError(
            f"selective search: OpenCV {cv2.__version__} as installed here is without its contrib modules; "
            "pip uninstall every opencv package, then pip install opencv-contrib-python-headless"
        ) from None


def _ordered(boxes: np.ndarray, seed: int) -> np.ndarray:
    """Boxes, each a row of its own, in the paper's pseudo-random order; the order they came in does not matter."""
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    boxes = boxes[np.argsort(-areas, kind="stable")]
    rank = np.random.default_rng(seed).random(len(boxes)) * np.arange(1, len(boxes) + 1)
    return boxes[np.argsort(rank, kind="stable")]


def proposals(
    dataset: Dataset,
    options: SearchOptions = SearchOptions(),
    cache: str | Path = DATA / "cache",
    threads: int | None = None,
) -> list[np.ndarray]:
    """Proposals of every image of a data set, as `search` gives them, from files in `cache` or made and put there.

    A file's name carries a hash of the images' names and contents, the options and the version of OpenCV; it holds all
    boxes, whatever `max_proposals` is.
    `threads`: images worked on at once, by default one per CPU core. Raises DatasetError, ProposalError.
    """
    most, options = options.max_proposals, replace(options, max_proposals=0)
    paths = [dataset.image_path(i) for i in range(len(dataset))]
    starts = list(range(0, len(paths), _IMAGES_PER_FILE))
    files = [
        Path(cache)
        / "selective_search"
        / f"{dataset.name}_{start}_{options.mode}_{_hash(paths[start:end], options)}.npz"
        for start, end in pairwise([*starts, len(paths)])
    ]
    found: list[np.ndarray] = []
    missing = sum(min(_IMAGES_PER_FILE, len(paths) - s) for s, file in zip(starts, files) if not file.is_file())
    if missing:
        logger.info("selective search of %d images of %s; kept in %s", missing, dataset.name, files[0].parent)
    with _single_threaded_opencv(), Progress(missing, f"proposals {dataset.name}") as progress:
        for start, file in zip(starts, files):
            part = paths[start : start + _IMAGES_PER_FILE]
            boxes = _load(file, len(part))
            if boxes is None:
                boxes = _search_all(part, options, threads, progress.update)
                _save(file, boxes)
            found += [of_image[: most or None] for of_image in boxes]
    return found


def _search_all(
    paths: list[Path], options: SearchOptions, threads: int | None, done: Callable[[int], object]
) -> list[np.ndarray]:
    # threads, not processes: OpenCV lets go of the interpreter while it works
    with ThreadPoolExecutor(threads or cores()) as pool:
        boxes = []
        for result in pool.map(lambda path: search(read_image(path), options), paths):
            boxes.append(result)
            done(1)
        return boxes


@contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _hash(paths: list[Path], options: SearchOptions) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, cv2.__version__, asdict(options)]).encode())
    for path in paths:
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _save(file: Path, boxes: list[np.ndarray]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary, open(temporary, "wb") as stream:  # whole or not at all, whoever else writes it
        np.savez_compressed(stream, boxes=np.concatenate(boxes), counts=[len(b) for b in boxes])


def _load(file: Path, images: int) -> list[np.ndarray] | None:
    """The boxes of each image of a file, None if there is no such file. Raises ProposalError if it is damaged."""
    try:
        arrays = read_arrays(file, ("boxes", "counts"))
    except FileNotFoundError:
        return None
    except FileFormatError as e:
        raise ProposalError(f"{e}; delete it and the proposals are made anew") from None
    boxes, counts = arrays["boxes"], arrays["counts"]
    whole = boxes.dtype == np.int32 and counts.dtype.kind == "i" and counts.shape == (images,)
    if not whole or counts.min() < 0 or boxes.shape != (counts.sum(), 4):
        raise ProposalError(
            f"{file}: damaged: expected boxes (n, 4) of {images} images, found {boxes.dtype} {boxes.shape} and counts "
            f"{counts.shape}; delete it and the proposals are made anew"
        )
    return np.split(boxes, np.cumsum(counts)[:-1])
