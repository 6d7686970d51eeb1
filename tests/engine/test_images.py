"""Image files: what their headers declare, how they are decoded, and what is refused."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from caffelite.errors import FileFormatError
from caffelite.image_size import image_size
from caffelite.images import decode_image, read_image, resize_to

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def encoded(suffix, image=IMAGE):
    return cv2.imencode(suffix, image)[1].tobytes()


def png(width, height, rows=b""):
    """A PNG of one bit per pixel whose header says what one likes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def tiff(width, height, tile=None):
    """The start of a TIFF whose directory says what one likes."""
    tags = [(256, width), (257, height), *zip((322, 323), tile or ())]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + directory


@pytest.mark.parametrize("suffix", [".webp", ".tiff"])
def test_other_kinds_of_a_format(suffix):
    assert image_size(b"MM\0*\0\0\0\x08\0\x01\x01\0\0\x03\0\0\0\x01\0\x14\0\0") == (20, 0)
    alpha = np.dstack([IMAGE, IMAGE[..., :1]])
    lossy = cv2.imencode(".webp", IMAGE, [cv2.IMWRITE_WEBP_QUALITY, 50])[1].tobytes()
    assert image_size(lossy) == image_size(encoded(suffix, alpha)) == (20, 12)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".gif", ".tiff", ".webp", ".ppm"])
def test_size_is_in_the_header(suffix):
    assert image_size(encoded(suffix)) == (20, 12)
    assert image_size(encoded(suffix)[:8]) is None
    assert decode_image(encoded(suffix), True, "x").shape == (12, 20, 3)


def test_jpeg_with_a_long_comment_and_filling_before_its_frame():
    data = encoded(".jpg")
    comment = b"\xff\xff\xfe" + struct.pack(">H", 1002) + b"\xc0" * 1000
    assert image_size(data[:2] + comment + data[2:]) == (20, 12)
    assert image_size(data[:2] + b"rubbish" + data[2:]) == (20, 12)


def test_decodes_colour_gray_and_as_stored():
    np.testing.assert_array_equal(decode_image(encoded(".png"), None, "x"), IMAGE)
    np.testing.assert_array_equal(decode_image(encoded(".png"), True, "x"), IMAGE)
    assert decode_image(encoded(".png"), False, "x").shape == (12, 20, 1)
    gray = encoded(".png", IMAGE[:, :, 0])
    np.testing.assert_array_equal(decode_image(gray, None, "x")[:, :, 0], IMAGE[:, :, 0])
    assert decode_image(gray, True, "x").shape == (12, 20, 3)


def test_orientation_tag_does_not_turn_the_image():
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # 6: a quarter turn
    data = encoded(".jpg")
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + data[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (20, 12, 3)
    assert decode_image(turned, True, "x").shape == decode_image(turned, None, "x").shape == (12, 20, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no bytes"),
        (b"no image at all", "15 bytes that are no image"),
        (encoded(".png")[:40], "40 bytes that are no image"),
        (encoded(".jpg")[:30], "no image with the header of a PNG"),
        (encoded(".hdr", IMAGE.astype(np.float32)), "no image with the header of a PNG"),
        (tiff(60000, 60000), "60000 x 60000 pixels"),
        (tiff(20, 12, tile=(60000, 60000)), "no image with the header of a PNG"),
        (b"P5 # wide\n90000 80000 255\n", "90000 x 80000 pixels"),
        (b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\x3f\x42\x0f" * 2, "1000000 x 1000000 pixels"),
        (b"GIF89a" + bytes([255] * 4), "65535 x 65535 pixels"),
        (png(60000, 60000), "60000 x 60000 pixels"),
        (png(30000, 30000, bytes(3750 * 1000)), "30000 x 30000 pixels"),
        (png(0, 5), "0 x 5 pixels"),
        (encoded(".png", IMAGE.astype(np.uint16)), "8 bits"),
    ],
)
def test_refuses(data, message):
    with pytest.raises(FileFormatError, match=r"^where: .*" + message):
        decode_image(data, None, "where")


def test_a_well_compressed_image_is_no_bomb():
    assert decode_image(png(4000, 4000, bytes(501 * 4000)), None, "x").shape == (4000, 4000, 1)


def test_files_and_sizes(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encoded(".png"))
    np.testing.assert_array_equal(read_image(str(path)), IMAGE)
    np.testing.assert_array_equal(read_image(str(path), True, (6, 7)), cv2.resize(IMAGE, (7, 6)))
    assert read_image(str(path), False, (6, 7)).shape == (6, 7, 1)
    with pytest.raises(FileFormatError, match=r"missing.png: cannot be read: No such file"):
        read_image(str(tmp_path / "missing.png"))
    with pytest.raises(FileFormatError, match="cannot resize an image to 100000 x 100000"):
        resize_to(IMAGE, (100000, 100000), cv2.INTER_LINEAR)
