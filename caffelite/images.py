"""Image files and encoded images as arrays, refused where their headers declare more than a file of that size holds."""

from __future__ import annotations

import cv2
import numpy as np

from caffelite.errors import FileFormatError
from caffelite.image_size import FORMATS, image_size

MAX_PIXELS = 2**27
PIXELS_PER_BYTE = 10_000  # the best compression of PNG, one bit per pixel and all alike, reaches 8,000


def decode(data: bytes, flags: int, name: str) -> np.ndarray:
    """What OpenCV's imdecode gives for an encoded image. Raises FileFormatError, which says `name`."""
    if not data:
        raise FileFormatError(f"{name}: an image of no bytes")
    _check_size(data, name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as e:
        raise FileFormatError(f"{name}: OpenCV cannot decode the image: {e.err}") from None
    if image is None:
        raise FileFormatError(f"{name}: {len(data)} bytes that are no image OpenCV can decode")
    return image


def decode_image(data: bytes, color: bool | None, name: str) -> np.ndarray:
    """The pixels (height, width, channels) uint8 of an encoded image, as stored: no turning by an orientation tag.

    `color` True gives blue, green, red, False gray, None what the file has. Raises FileFormatError, which says `name`.
    """
    flags = {True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE, None: cv2.IMREAD_UNCHANGED}[color]
    if color is not None:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    image = decode(data, flags, name)
    if image.dtype != np.uint8:
        raise FileFormatError(f"{name}: expected 8 bits per channel, actual {image.dtype}; convert the image")
    return image.reshape(*image.shape[:2], -1)


def read_bytes(path: str) -> bytes:
    """The bytes of a file. Raises FileFormatError."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except (OSError, ValueError) as e:  # ValueError: a name with a zero in it
        raise FileFormatError(f"{path}: cannot be read: {getattr(e, 'strerror', None) or e}") from None


def read_image(path: str, color: bool | None = True, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels (height, width, channels) uint8 of a file, resized bilinearly to `size` = (height, width) if given.

    Source: ReadImageToCVMat of io.cpp. Raises FileFormatError.
    """
    image = decode_image(read_bytes(path), color, path)
    return image if size is None else resize_to(image, size, cv2.INTER_LINEAR)


def resize_to(image: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """An image (height, width, channels) resized to `size` = (height, width) by OpenCV. Raises FileFormatError."""
    height, width = size
    if height * width > MAX_PIXELS:
        raise FileFormatError(f"cannot resize an image to {width} x {height}: at most {MAX_PIXELS:,} pixels")
    try:
        resized = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=interpolation)
    except cv2.error as e:
        raise FileFormatError(f"OpenCV cannot resize an image of {image.shape} {image.dtype}: {e.err}") from None
    return resized.reshape(height, width, -1)


def _check_size(data: bytes, name: str) -> None:
    size = image_size(data)
    if size is None:
        raise FileFormatError(f"{name}: {len(data)} bytes that are no image with the header of a {FORMATS}")
    width, height = size
    limit = min(MAX_PIXELS, PIXELS_PER_BYTE * len(data))
    if not 0 < width * height <= limit:
        raise FileFormatError(
            f"{name}: an image of {width} x {height} pixels in {len(data)} bytes; expected 1 to {limit:,} pixels"
        )
