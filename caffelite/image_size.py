"""Width and height that an image file declares, read from its header alone."""

from __future__ import annotations

import re
import struct

FORMATS = "PNG, JPEG, BMP, GIF, TIFF, WebP, PBM, PGM or PPM"

_PNG, _JPEG, _BMP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM"
_BLANKS = rb"(?:\s|#[^\n]*\n)+"
_PNM = re.compile(rb"P[1-6]" + _BLANKS + rb"(\d{1,9})" + _BLANKS + rb"(\d{1,9})\s")
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT = 256, 257, 322, 323
_TIFF_NUMBERS = {1: "B", 3: "H", 4: "I"}
_LARGE_TILE = 2**24  # pixels


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels that the header of an image of one of the FORMATS declares; None for all else."""
    try:
        if data.startswith(_PNG):
            return struct.unpack_from(">II", data, 16)
        if data.startswith(_JPEG):
            return _jpeg_size(data)
        if data.startswith(_BMP):
            return _bmp_size(data)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return struct.unpack_from("<HH", data, 6)
        if data.startswith((b"II*\0", b"MM\0*")):
            return _tiff_size(data, "<" if data.startswith(b"I") else ">")
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp_size(data)
        found = _PNM.match(data)
        return found and (int(found[1]), int(found[2]))
    except struct.error:  # the file ends in its header
        return None


def _bmp_size(data: bytes) -> tuple[int, int] | None:
    head, width, height = struct.unpack_from("<Iii", data, 14)
    # an older head has shorter numbers; a negative height means rows from top to bottom
    return None if head < 40 else (width, abs(height))


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in the first frame header, found as libjpeg finds it: what is no marker is skipped."""
    at = data.find(b"\xff", 2)
    while 0 <= at < len(data) - 8:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # no length follows
            at += 1
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
        at = data.find(b"\xff", at)
    return None


def _tiff_size(data: bytes, order: str) -> tuple[int, int] | None:
    """The sides that the first directory names; None too where a tile is large and larger than the image."""
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    sides = dict.fromkeys((_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_TILE_WIDTH, _TIFF_TILE_HEIGHT), 0)
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in sides:
            if kind not in _TIFF_NUMBERS:
                return None
            sides[tag] = max(sides[tag], *struct.unpack_from(order + _TIFF_NUMBERS[kind], data, at + 8))
    width, height, tile_width, tile_height = sides.values()
    return None if tile_width * tile_height > max(_LARGE_TILE, width * height) else (width, height)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X":
        low, high, height_low, height_high = struct.unpack_from("<HBHB", data, 24)
        return (low | high << 16) + 1, (height_low | height_high << 16) + 1
    return None
