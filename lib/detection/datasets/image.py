"""Images as detection reads them: BGR pixels as stored, since annotations are made on them, and their size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffelite import image_size as headers
from caffelite import images
from caffelite.errors import FileFormatError
from detection.errors import DatasetError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

_HEADER = 1 << 16  # bytes in which most files tell their size


def read_image(path: str | Path) -> np.ndarray:
    """The image (height, width, 3) uint8, BGR, in its stored orientation. Raises DatasetError."""
    try:
        return images.read_image(str(path))
    except FileFormatError as e:
        raise DatasetError(str(e)) from None


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels, from the header alone. Raises DatasetError."""
    try:
        with open(path, "rb") as file:
            start = file.read(_HEADER)
            size = headers.image_size(start)
            if size is None and len(start) == _HEADER:  # a long preview or profile before the header
                size = headers.image_size(start + file.read())
    except OSError as e:
        raise DatasetError(f"{path}: cannot be read: {e.strerror}") from None
    return size or read_image(path).shape[1::-1]
