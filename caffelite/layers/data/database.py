"""Databases of records (LMDB), read and written as Caffe's tools do. Source: util/db_lmdb.cpp."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf.message import DecodeError, Message

from caffelite.errors import CaffeliteError, FileFormatError
from caffelite.layers.data.lmdb_file import LmdbFile
from caffelite.proto import message

RECORDS_PER_COMMIT = 1000
FIRST_MAP_SIZE = 2**26  # bytes; doubled when full


def import_lmdb():
    """The module lmdb. Raises CaffeliteError, with what to do, where it is not installed."""
    try:
        import lmdb
    except ImportError:
        raise CaffeliteError("writing an LMDB needs the Python package lmdb: pip install lmdb") from None
    return lmdb


class Database:
    """The records of an LMDB in the order of their keys; index them by number. One thread at a time.

    Going on from the last record costs nothing, going back starts from the first. Raises FileFormatError.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        self._file = LmdbFile(os.path.join(path, "data.mdb") if os.path.isdir(path) else self.path)
        if not self._file.entries:
            raise FileFormatError(f"{path}: an LMDB without records")
        self._rewind()

    def __len__(self) -> int:
        return self._file.entries

    def __getitem__(self, index: int) -> tuple[str, bytes]:
        """Key and value of record `index` from 0."""
        if index < self._first:
            self._rewind()
        while index >= self._first + self._records:
            leaf = next(self._leaves, None)
            if leaf is None:
                self._rewind()
                raise FileFormatError(f"{self.path}: damaged: no record {index}, {len(self)} expected")
            self._leaf, self._first, self._records = leaf, self._first + self._records, len(leaf.places)
        key, value = self._file.record(self._leaf, index - self._first)
        return key.decode(errors="backslashreplace"), value

    def _rewind(self) -> None:
        self._leaves = self._file.leaves()
        self._leaf, self._first, self._records = None, 0, 0

    def read(self, index: int, type_name: str) -> tuple[str, Message]:
        """Record `index` as a message, with a name that says where it stands. Raises FileFormatError."""
        key, value = self[index]
        name = f"{self.path}: record {key!r}"
        try:
            return name, message(type_name).FromString(value)
        except DecodeError as e:
            raise FileFormatError(f"{name}: {len(value)} bytes that are no {type_name}: {e}") from None


@contextmanager
def new_database(path: str | Path) -> Iterator[Callable[[str, bytes], None]]:
    """A function put(key, value) that adds records to a new LMDB; its folder appears at the end, complete, or never.

    Raises CaffeliteError where `path` exists or cannot be written.
    """
    lmdb = import_lmdb()
    path = Path(path)
    if path.exists():
        raise CaffeliteError(f"{path}: exists already; remove it or choose another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pending: list[tuple[bytes, bytes]] = []

    def put(key: str, value: bytes) -> None:
        pending.append((key.encode(errors="surrogateescape"), value))
        if len(pending) == RECORDS_PER_COMMIT:
            _commit(lmdb, environment, pending)
            pending.clear()

    try:
        with lmdb.open(str(temporary), map_size=FIRST_MAP_SIZE, lock=False) as environment:
            yield put
            _commit(lmdb, environment, pending)
        os.replace(temporary, path)
    except (lmdb.Error, OSError) as e:
        raise CaffeliteError(f"{path}: cannot be written: {e}") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _commit(lmdb, environment, records: list[tuple[bytes, bytes]]) -> None:
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for key, value in records:
                    transaction.put(key, value)
            return
        except lmdb.MapFullError:
            environment.set_mapsize(2 * environment.info()["map_size"])
