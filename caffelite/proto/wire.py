"""Protobuf's wire format for arrays: read in place from a mapped file and written as a stream.

Protobuf's own parser copies every value and refuses more than 2 GB. Here the values of a file stay where they are and
numpy looks at them; nothing is allocated on the word of a file.
"""

import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from caffelite.errors import FileFormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_AXES = 32  # kMaxBlobAxes of Caffe's blob.hpp

# BlobProto: field number -> (dtype, wire type of a value outside a packed run)
_VALUES = {5: (np.dtype("<f4"), FIXED32), 8: (np.dtype("<f8"), FIXED64)}
_SHAPE, _LEGACY_SHAPE = 7, (1, 2, 3, 4)


class WireReader:
    """The fields of a message in a file, by position; errors name the file and the offset in it."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self.size = os.fstat(file.fileno()).st_size
                self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else b""
        except OSError as error:
            raise FileFormatError(f"{path}: cannot be read: {error.strerror}") from error
        if not self.size:
            raise FileFormatError(f"{path}: the file is empty")

    def fail(self, position: int, problem: str) -> NoReturn:
        """Raise FileFormatError for what stands at `position`."""
        raise FileFormatError(f"{self.path}: damaged, or another format: {problem} at byte {position} of {self.size}")

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """The unsigned number at `position`, and the position behind it."""
        value = 0
        for shift in range(0, 70, 7):
            if position + shift // 7 >= end:
                self.fail(position, "a number is cut off")
            byte = self.bytes[position + shift // 7]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position + shift // 7 + 1
        self.fail(position, "a number has more than 10 bytes")

    def field(self, position: int, end: int) -> tuple[int, int, int, int]:
        """The field at `position` of a message that ends at `end`: number, wire type, start (a varint's value), end."""
        key, begin = self.varint(position, end)
        number, wire_type = key >> 3, key & 7
        if wire_type == VARINT:
            begin, stop = self.varint(begin, end)
        elif wire_type == BYTES:
            length, begin = self.varint(begin, end)
            stop = begin + length
        elif wire_type in (FIXED32, FIXED64):
            stop = begin + (4 if wire_type == FIXED32 else 8)
        else:
            self.fail(position, f"field {number} has the unknown wire type {wire_type}")
        if number == 0:
            self.fail(position, "a field has the number 0")
        if stop > end:
            self.fail(position, f"field {number} ends {stop - end} bytes behind the message that holds it")
        return number, wire_type, begin, stop

    def fields(self, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """All fields of the message in [position, end), each as `field` gives it."""
        while position < end:
            number, wire_type, begin, position = self.field(position, end)
            yield number, wire_type, begin, position

    def text(self, start: int, end: int) -> str:
        """A string; bytes that are no UTF-8, which protobuf lets pass, become escapes."""
        return self.bytes[start:end].decode("utf-8", "backslashreplace")

    def blob(self, start: int, end: int) -> np.ndarray:
        """The data of the BlobProto in [start, end): read-only, float32 or float64, in the shape that the file says."""
        shape: list[int] = []
        legacy: dict[int, int] = {}
        parts: list[np.ndarray] = []
        position = start
        while position < end:
            number, wire_type, begin, position = self.field(position, end)
            if number in _VALUES and wire_type == BYTES:
                parts.append(self._packed(begin, position, _VALUES[number][0]))
            elif number in _VALUES and wire_type == _VALUES[number][1]:
                values, position = self._single(begin, end, _VALUES[number][0])
                parts.append(values)
            elif number == _SHAPE and wire_type == BYTES:
                shape += self._dims(begin, position)
            elif number in _LEGACY_SHAPE and wire_type == VARINT:
                legacy[number] = begin
        if legacy:
            shape = [legacy.get(axis, 0) for axis in _LEGACY_SHAPE]
        if len(shape) > MAX_AXES:
            self.fail(start, f"a blob has {len(shape)} axes, more than {MAX_AXES}")
        doubles = [part for part in parts if part.dtype == np.float64]
        parts = doubles or parts
        count = sum(part.size for part in parts)
        if any(axis >= 2**31 for axis in shape) or math.prod(shape) != count:
            self.fail(start, f"a blob of shape {tuple(shape)} holds {count} values")
        values = parts[0] if len(parts) == 1 else np.concatenate(parts or [np.empty(0, np.float32)])
        return values.reshape(shape)

    def _dims(self, start: int, end: int) -> list[int]:
        dims = []
        for number, wire_type, begin, stop in self.fields(start, end):
            if number == 1 and wire_type == VARINT:
                dims.append(begin)
            elif number == 1 and wire_type == BYTES:
                while begin < stop:
                    value, begin = self.varint(begin, stop)
                    dims.append(value)
        return dims

    def _packed(self, start: int, end: int, dtype: np.dtype) -> np.ndarray:
        if (end - start) % dtype.itemsize:
            self.fail(start, f"{end - start} bytes are no whole number of {dtype.name} values")
        return np.frombuffer(self.bytes, dtype, (end - start) // dtype.itemsize, start)

    def _single(self, begin: int, end: int, dtype: np.dtype) -> tuple[np.ndarray, int]:
        """A run of values that each have the same key of one byte, from the value at `begin` on; its end."""
        start, row = begin - 1, 1 + dtype.itemsize
        rows = np.frombuffer(self.bytes, np.uint8, (end - start) // row * row, start).reshape(-1, row)
        others = np.flatnonzero(rows[:, 0] != rows[0, 0])
        rows = rows[: others[0] if others.size else None]
        return rows[:, 1:].copy().view(dtype).ravel(), start + rows.size


def varint(value: int) -> bytes:
    """A non-negative number in wire form."""
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def key(number: int, wire_type: int) -> bytes:
    """What stands before the value of a field."""
    return varint(number << 3 | wire_type)


def bytes_field(number: int, *contents: bytes | np.ndarray) -> list[bytes | np.ndarray]:
    """A string or message field, in pieces to be written one after the other."""
    return [key(number, BYTES) + varint(size_of(contents)), *contents]


def size_of(pieces) -> int:
    """The bytes that pieces have together."""
    return sum(piece.nbytes if isinstance(piece, np.ndarray) else len(piece) for piece in pieces)


def blob_pieces(data: np.ndarray, diff: np.ndarray | None = None) -> list[bytes | np.ndarray]:
    """A BlobProto in pieces, as Caffe's Blob::ToProto makes it: packed data, packed diff, shape."""
    pieces: list[bytes | np.ndarray] = []
    for number, values in ((5, data), (6, diff)):
        if values is not None and values.size:
            pieces += bytes_field(number, np.ascontiguousarray(values, "<f4").reshape(-1))
    if data.ndim:
        pieces += bytes_field(_SHAPE, *bytes_field(1, b"".join(map(varint, data.shape))))
    return pieces
