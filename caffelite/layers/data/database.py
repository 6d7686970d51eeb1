"""Databases of records (LMDB), read and written as Caffe's tools do. Source: util/db_lmdb.cpp."""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from google.protobuf.message import DecodeError, Message

from caffelite.errors import CaffeliteError, FileFormatError
from caffelite.proto import message

RECORDS_PER_COMMIT = 1000
FIRST_MAP_SIZE = 2**26  # bytes; doubled when full

# LMDB allows a process one environment per file: {(device, inode): [the one that is open, number of its users]}
_open: dict[tuple[int, int], list] = {}
_lock = threading.RLock()  # a finalizer may run within what holds it


def import_lmdb():
    """The module lmdb. Raises CaffeliteError, with what to do, where it is not installed."""
    try:
        import lmdb
    except ImportError:
        raise CaffeliteError("LMDB databases need the Python package lmdb: pip install lmdb") from None
    return lmdb


class Database:
    """The records of an LMDB in the order of their keys; index them by number. One thread at a time.

    Going on from the last record costs nothing, going back starts from the first. Raises FileFormatError.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        identity, environment = _acquire(self.path)
        weakref.finalize(self, _release, identity).atexit = False
        self._count = environment.stat()["entries"]
        if not self._count:
            raise FileFormatError(f"{path}: an LMDB without records")
        self._cursor = environment.begin().cursor()
        self._at = self._count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[str, bytes]:
        """Key and value of record `index` from 0."""
        if index < self._at:
            found, self._at = self._cursor.first(), 0
        else:
            found = True
        while found and self._at < index:
            found = self._cursor.next()
            self._at += 1
        if not found:
            self._at = self._count
            raise FileFormatError(f"{self.path}: damaged: no record {index}, {self._count} expected")
        key, value = self._cursor.item()
        return key.decode(errors="backslashreplace"), value

    def read(self, index: int, type_name: str) -> tuple[str, Message]:
        """Record `index` as a message, with a name that says where it stands. Raises FileFormatError."""
        key, value = self[index]
        name = f"{self.path}: record {key!r}"
        try:
            return name, message(type_name).FromString(value)
        except DecodeError as e:
            raise FileFormatError(f"{name}: {len(value)} bytes that are no {type_name}: {e}") from None


def _acquire(path: str):
    """Identity and environment of an LMDB, opened if no other Database has it open."""
    file = os.path.join(path, "data.mdb") if os.path.isdir(path) else path
    try:
        status = os.stat(file)
    except OSError as e:
        raise FileFormatError(f"{file}: cannot be read: {e.strerror}; expected an LMDB") from None
    identity = status.st_dev, status.st_ino
    with _lock:
        if identity not in _open:
            _open[identity] = [_open_environment(path, file, status.st_size), 0]
        _open[identity][1] += 1
        return identity, _open[identity][0]


def _release(identity: tuple[int, int]) -> None:
    with _lock:
        _open[identity][1] -= 1
        if not _open[identity][1]:
            _open.pop(identity)[0].close()


def _open_environment(path: str, file: str, size: int):
    lmdb = import_lmdb()
    try:
        environment = lmdb.open(path, readonly=True, lock=False, subdir=os.path.isdir(path))
    except lmdb.Error as e:
        raise FileFormatError(f"{path}: cannot be opened as an LMDB: {e}") from None
    # reading behind the end of a mapped file would kill the process
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < needed:
        environment.close()
        raise FileFormatError(f"{file}: {size} bytes of {needed}: the file is cut off; copy it again")
    return environment


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
