"""Sizes of images from their headers, and reading pixels as they are stored."""

import struct

import cv2
import numpy as np
import pytest

from detection.datasets.image import image_size, read_image
from detection.errors import DatasetError

PICTURE = np.random.default_rng(0).integers(0, 256, (23, 37, 3)).astype(np.uint8)


def jpeg_with_orientation(orientation: int) -> bytes:
    """A JPEG file whose EXIF header says how the camera was held."""
    code = cv2.imencode(".jpg", PICTURE)[1].tobytes()
    tiff = b"MM\x00*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    body = b"Exif\x00\x00" + tiff
    return code[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + code[2:]


@pytest.mark.parametrize("ending", [".jpg", ".png", ".bmp", ".tiff", ".ppm"])
def test_image_size(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    cv2.imwrite(str(path), PICTURE)
    assert image_size(path) == (37, 23)
    assert read_image(path).shape == (23, 37, 3)


def test_progressive_jpeg(tmp_path):
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), PICTURE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert image_size(path) == (37, 23)


def test_orientation_does_not_turn_the_pixels(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_with_orientation(6))
    assert cv2.imread(str(path)).shape == (37, 23, 3), "the header is not understood"
    assert image_size(path) == (37, 23)
    assert read_image(path).shape == (23, 37, 3)


def test_header_alone_is_read(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_with_orientation(1)[:1000])
    assert image_size(path) == (37, 23)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10", b"\x89PNG\r\n\x1a\n", b"BM"]
)
def test_damaged_files(tmp_path, content):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    for read in (image_size, read_image):
        with pytest.raises(DatasetError, match=r"a\.jpg: .*(no image|of no bytes|without a header)"):
            read(path)


def test_missing_file(tmp_path):
    for read in (image_size, read_image):
        with pytest.raises(DatasetError, match=r"none\.jpg: cannot be read"):
            read(tmp_path / "none.jpg")
