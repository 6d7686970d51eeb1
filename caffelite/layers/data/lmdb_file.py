"""The records of an LMDB file, read page by page without trust.

liblmdb maps the file and follows every number in it: a damaged one ends the process. Here each page is read and checked
when the walk comes to it. Source: the format of version 0.9, mdb.c (64 bits, little-endian).
"""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from caffelite.errors import FileFormatError

MAGIC, VERSION = 0xBEEFC0DE, 1
PAGE_SIZES = [2**i for i in range(8, 17)]
MAX_DEPTH = 32
BRANCH, LEAF, OVERFLOW = 0x01, 0x02, 0x04  # of a page
BIG = 0x01  # of a node: its value has pages of its own
NO_PAGE, DUPLICATES = 2**64 - 1, 0x04

# magic, version, address, map size; the free and the main tree: pad, flags, depth, branches, leaves, overflow pages,
# entries, root; last page, number of the transaction
_META = struct.Struct("<IIQQ" + 2 * "IHHQQQQQ" + "QQ")
_PAGE = struct.Struct("<QHHHH")  # number, pad, flags, ends of the places and of the free room
_NODE = struct.Struct("<HHHH")  # two halves of a size (in a branch with the flags, of a page number), flags, key size


@dataclass
class Page:
    """A page: its bytes, its number, and where in it each record begins, or each branch."""

    data: bytes
    number: int
    places: tuple[int, ...]


class LmdbFile:
    """The main database of an LMDB file: `entries` records, in `leaves`. Raises FileFormatError.

    It is for any number of threads, and stays open as long as the object lives.
    """

    def __init__(self, path: str):
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
            self.size = os.fstat(self._file).st_size
        except (OSError, ValueError) as e:
            problem = getattr(e, "strerror", None) or e
            raise FileFormatError(f"{path}: cannot be read: {problem}; expected an LMDB") from None
        weakref.finalize(self, os.close, self._file)
        metas = [self._meta(0)]
        self.page_size = metas[0][4]  # the pad of the free tree
        if self.page_size not in PAGE_SIZES:
            self._fail(_PAGE.size, f"pages of {self.page_size} bytes")
        metas.append(self._meta(self.page_size))
        meta = max(metas, key=lambda values: values[-1])
        flags, self.depth, self.entries, self.root = meta[13], meta[14], meta[18], meta[19]
        if flags & DUPLICATES or self.depth > MAX_DEPTH:
            self._fail(
                0, f"flags {flags:#x} and depth {self.depth} of the main database, which Caffe's tools never write"
            )
        if self.entries * _NODE.size > self.size:
            self._fail(0, f"{self.entries} records")
        pages = meta[-2] + 1
        if self.size < pages * self.page_size:
            raise FileFormatError(
                f"{path}: {self.size} bytes of {pages * self.page_size}: the file is cut off; copy it again"
            )

    def leaves(self) -> Iterator[Page]:
        """The pages of records in the order of their keys. Raises FileFormatError."""
        if self.root != NO_PAGE:
            yield from self._walk(self.root, self.depth)

    def record(self, leaf: Page, index: int) -> tuple[bytes, bytes]:
        """Key and value of a record of a leaf. Raises FileFormatError."""
        low, high, flags, key_size, start = self._node(leaf, index)
        key, size = leaf.data[start : start + key_size], low | high << 16
        start += key_size
        if flags == BIG:
            number = int.from_bytes(leaf.data[start : start + 8], "little")
            _, _, kind, low, high = _PAGE.unpack(self._read(number * self.page_size, _PAGE.size))
            if not kind & OVERFLOW or (low | high << 16) * self.page_size < _PAGE.size + size:
                self._fail(number * self.page_size, f"no value of {size} bytes")
            return key, self._read(number * self.page_size + _PAGE.size, size)
        if flags or start + size > len(leaf.data):
            self._fail(leaf.number * self.page_size, f"a record with flags {flags} and a value of {size} bytes")
        return key, leaf.data[start : start + size]

    def _walk(self, number: int, depth: int) -> Iterator[Page]:
        page = self._page(number, LEAF if depth == 1 else BRANCH)
        if depth == 1:
            yield page
            return
        for i in range(len(page.places)):
            low, high, top, _, _ = self._node(page, i)
            yield from self._walk(low | high << 16 | top << 32, depth - 1)

    def _page(self, number: int, kind: int) -> Page:
        data = self._read(number * self.page_size, self.page_size)
        stated, _, flags, end, _ = _PAGE.unpack_from(data)
        count = (end - _PAGE.size) // 2
        if stated != number or flags & (BRANCH | LEAF | OVERFLOW) != kind or not 0 < count <= len(data) // 8:
            self._fail(number * self.page_size, f"page {stated} with flags {flags:#x} and {count} keys")
        return Page(data, number, struct.unpack_from(f"<{count}H", data, _PAGE.size))

    def _node(self, page: Page, index: int) -> tuple[int, int, int, int, int]:
        """The four numbers of a node, and where its key begins; the key lies in the page."""
        start = page.places[index] + _NODE.size
        if start <= len(page.data):
            low, high, flags, key_size = _NODE.unpack_from(page.data, start - _NODE.size)
            if start + key_size <= len(page.data):
                return low, high, flags, key_size, start
        self._fail(page.number * self.page_size, f"record {index} beyond the page")

    def _meta(self, start: int) -> tuple[int, ...]:
        values = _META.unpack(self._read(start + _PAGE.size, _META.size))
        if values[:2] != (MAGIC, VERSION):
            self._fail(start, "no head of an LMDB of version 1, 64 bits")
        return values

    def _read(self, start: int, size: int) -> bytes:
        if start + size > self.size:
            self._fail(start, f"expected {size} more bytes")
        data = os.pread(self._file, size, start)
        if len(data) < size:
            self._fail(start, f"only {len(data)} of {size} bytes")
        return data

    def _fail(self, position: int, problem: str) -> NoReturn:
        raise FileFormatError(f"{self.path}: damaged, or no LMDB: {problem} at byte {position} of {self.size}")
