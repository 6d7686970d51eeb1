"""Variables of MATLAB files of version 5 to 7: numbers, texts and cells.

Every size is held against the bytes that are there before memory is taken for it. Source: The MathWorks, "MAT-File
Format", chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from caffelite.errors import FileFormatError
from detection.arrays import allowed_bytes

MAX_DEPTH = 4  # of cells in cells
_MATRIX, _COMPRESSED = 14, 15
_CELL, _TEXT = 1, 4
_COMPLEX = 0x0800
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_ENCODINGS = {2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


def read_mat(path: str | Path, names: Collection[str]) -> dict[str, Any]:
    """The file's variables: the values of these names, None for all others, which are passed over.

    Numbers are arrays, a text is a str, a cell array a list of these in MATLAB's order. Raises FileFormatError.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise FileFormatError(f"{path}: cannot be read: {e.strerror}") from None
    if data[124:128] in (b"\0\2IM", b"\2\0MI"):
        raise FileFormatError(f"{path}: is in MATLAB's format 7.3; save it there with -v7")
    if data[124:128] not in (b"\0\1IM", b"\1\0MI"):
        raise FileFormatError(f"{path}: no MATLAB file of version 5 to 7")
    try:
        return _Reader(data, "<" if data[126:128] == b"IM" else ">").variables(names)
    except (ValueError, struct.error, zlib.error) as e:
        raise FileFormatError(f"{path}: damaged MATLAB file: {e}") from None


class _Reader:
    """Raises ValueError, struct.error or zlib.error for what is damaged."""

    def __init__(self, data: bytes, order: str):
        self.data, self.order = data, order
        self.left = allowed_bytes(len(data))

    def variables(self, names: Collection[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        at = 128
        while at < len(self.data):
            kind, content, at = self.element(memoryview(self.data), at)
            if kind == _COMPRESSED:
                kind, content, _ = self.element(self.expanded(content), 0)
            if kind == _MATRIX:
                name, value = self.matrix(content, names, 0)
                found[name] = value
        return found

    def element(self, data: memoryview, at: int) -> tuple[int, memoryview, int]:
        """Type and content of the element at a position, and the position behind it."""
        kind, size = struct.unpack_from(self.order + "II", data, at)
        start, end = at + 8, at + 8 + size
        if kind >> 16:  # four bytes at most, in the place of the size
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = at + 4, at + 4 + size
            behind = at + 8
        else:
            behind = end if kind == _COMPRESSED else end + -size % 8
        if end > len(data) or behind - at < size:
            raise ValueError(f"an element of {size} bytes, {len(data) - start} are left")
        return kind, data[start:end], behind

    def expanded(self, content: memoryview) -> memoryview:
        expander = zlib.decompressobj()
        data = expander.decompress(content, self.left + 1)
        self.left -= len(data)
        if self.left < 0:
            raise ValueError("its compressed contents are too large for a file of this size")
        if not expander.eof:
            raise ValueError("compressed contents that end too soon")
        return memoryview(data)

    def matrix(self, content: memoryview, names: Collection[str] | None, depth: int) -> tuple[str, Any]:
        """Name and value of a matrix; the value is None where `names` are given and lack the name."""
        if not content:
            return "", np.zeros((0, 0))
        _, flags, at = self.element(content, 0)
        (flags,) = struct.unpack_from(self.order + "I", flags)
        kind, dims, at = self.element(content, at)
        shape = np.frombuffer(dims, self.order + _stored(kind)).tolist()
        _, name, at = self.element(content, at)
        name = bytes(name).decode("latin-1")
        if names is not None and name not in names:
            return name, None
        if flags & 0xFF == _CELL:
            return name, self.cells(content, at, math.prod(shape), depth + 1)
        if flags & _COMPLEX or flags & 0xFF not in (_TEXT, *_CLASSES):
            raise ValueError(f"{name or 'a cell'}: expected numbers, texts or cells, found class {flags & 0xFF}")
        kind, values, _ = self.element(content, at)
        if flags & 0xFF == _TEXT:
            encoding = _ENCODINGS.get(kind, "utf-8") + {"<": "-le", ">": "-be"}[self.order] * (kind in (4, 17, 18))
            return name, bytes(values).decode(encoding)
        stored = np.dtype(self.order + _stored(kind))
        if min(shape, default=0) < 0 or math.prod(shape) * stored.itemsize != len(values):
            raise ValueError(f"{name or 'a cell'}: {len(values)} bytes are no {stored} of shape {shape}")
        numbers = np.frombuffer(values, stored).astype(_CLASSES[flags & 0xFF])
        return name, numbers.reshape(shape, order="F")

    def cells(self, content: memoryview, at: int, count: int, depth: int) -> list[Any]:
        if depth > MAX_DEPTH:
            raise ValueError(f"cells nested deeper than {MAX_DEPTH}")
        cells = []
        while len(cells) < count:
            kind, inner, at = self.element(content, at)
            if kind != _MATRIX:
                raise ValueError(f"a cell of type {kind}")
            cells.append(self.matrix(inner, None, depth)[1])
        return cells


def _stored(kind: int) -> str:
    if kind not in _STORED:
        raise ValueError(f"numbers of type {kind}")
    return _STORED[kind]
