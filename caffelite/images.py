"""Image files and encoded images as arrays, refused where their headers declare more than a file of that size holds."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from caffelite.errors import FileFormatError

MAX_PIXELS = 2**27
PIXELS_PER_BYTE = 10_000  # the best compression of PNG, one bit per pixel and all alike, reaches 8,000

_PNG, _JPEG, _BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM"


def decode_image(data: bytes, color: bool | None, name: str) -> np.ndarray:
    """The pixels (height, width, channels) uint8 of an encoded image, as stored: no turning by an orientation tag.

    `color` True gives blue, green, red, False gray, None what the file has. Raises FileFormatError, which says `name`.
    """
    if not data:
        raise FileFormatError(f"{name}: an image of no bytes")
    _check_size(data, name)
    flags = {True: cv2.IMREAD_COLOR, False: cv2.IMREAD_GRAYSCALE, None: cv2.IMREAD_UNCHANGED}[color]
    if color is not None:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as e:
        raise FileFormatError(f"{name}: OpenCV cannot decode the image: {e.err}") from None
    if image is None:
        raise FileFormatError(f"{name}: {len(data)} bytes that are no image OpenCV can decode")
    if image.dtype != np.uint8:
        raise FileFormatError(f"{name}: expected 8 bits per channel, actual {image.dtype}; convert the image")
    return image.reshape(*image.shape[:2], -1)


def read_image(path: str, color: bool | None = True, size: tuple[int, int] | None = None) -> np.ndarray:
    """The pixels (height, width, channels) uint8 of a file, resized bilinearly to `size` = (height, width) if given.

    Source: ReadImageToCVMat of io.cpp. Raises FileFormatError.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as e:
        raise FileFormatError(f"{path}: cannot be read: {e.strerror}") from None
    image = decode_image(data, color, path)
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


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that the header of a PNG, JPEG or BMP declares; None for others and damaged ones."""
    if data.startswith(_PNG) and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    if data.startswith(_BMP) and len(data) >= 26 and data[14] >= 40:
        width, height = struct.unpack("<ii", data[18:26])
        return width, abs(height)  # negative: rows from top to bottom
    return _jpeg_size(data) if data.startswith(_JPEG) else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the first frame header, found as libjpeg finds it: what is no marker is skipped."""
    at = data.find(b"\xff", 2)
    while 0 <= at < len(data) - 8:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # no length follows
            at += 1
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        at = data.find(b"\xff", at)
    return None


def _check_size(data: bytes, name: str) -> None:
    size = image_size(data)
    if size is None:
        if data.startswith((_PNG, _JPEG, _BMP)):
            raise FileFormatError(f"{name}: a PNG, JPEG or BMP without a header")
        return  # of another format: OpenCV's own limit holds
    width, height = size
    limit = min(MAX_PIXELS, PIXELS_PER_BYTE * len(data))
    if not 0 < width * height <= limit:
        raise FileFormatError(
            f"{name}: an image of {width} x {height} pixels in {len(data)} bytes; expected 1 to {limit:,} pixels"
        )
