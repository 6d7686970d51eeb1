"""Images as detection reads them: BGR pixels as stored, and their size from the first bytes of the file."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

from detection.errors import DatasetError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

# annotations are made on the stored pixels: a camera's orientation tag must not turn the image under its boxes
_READ_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def read_image(path: str | Path) -> np.ndarray:
    """The image (height, width, 3) uint8, BGR, in its stored orientation. Raises DatasetError."""
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), _READ_FLAGS)
    except OSError as e:
        raise DatasetError(f"{path}: cannot be read: {e.strerror}") from None
    except cv2.error:
        image = None
    if image is None:
        raise DatasetError(f"{path}: not an image that OpenCV can decode")
    return image


def image_size(path: str | Path) -> tuple[int, int]:
    """Width and height in pixels, from the header alone for JPEG, PNG and BMP. Raises DatasetError."""
    try:
        with open(path, "rb") as file:
            head = file.read(26)
            if head.startswith(b"\xff\xd8"):
                size = _jpeg_size(file)
            elif head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
                size = struct.unpack(">II", head[16:24])
            elif head.startswith(b"BM") and len(head) >= 26 and head[14] >= 40:
                width, height = struct.unpack("<ii", head[18:26])
                size = width, abs(height)  # rows stored top-down have a negative height
            else:
                size = None
    except OSError as e:
        raise DatasetError(f"{path}: cannot be read: {e.strerror}") from None
    if size is None:
        height, width = read_image(path).shape[:2]
        size = width, height
    return size


def _jpeg_size(file) -> tuple[int, int] | None:
    """Width and height in the frame header of an open JPEG file, None where there is none."""
    file.seek(2)
    while True:
        marker = file.read(4)
        if len(marker) < 4 or marker[0] != 0xFF:
            return None
        if marker[1] == 0xFF:  # a fill byte before the marker
            file.seek(-3, 1)
            continue
        # C0..CF are frame headers but for the tables C4, C8 and CC
        if 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):
            frame = file.read(5)
            if len(frame) < 5:
                return None
            height, width = struct.unpack(">xHH", frame)
            return (width, height) if height else None
        file.seek(struct.unpack(">H", marker[2:])[0] - 2, 1)
