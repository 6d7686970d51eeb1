"""Messages in files: text and binary, nets and solvers with old formats upgraded, and replacing a file in one step."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from google.protobuf.message import DecodeError, Message

from caffelite.errors import CaffeliteError, FileFormatError, PrototxtError
from caffelite.proto.schema import message
from caffelite.proto.text import TextReader
from caffelite.proto.upgrade import is_v0, resolve_snapshot_prefix, upgrade_net, upgrade_solver


def read_text(path: str | Path, type_name: str) -> Message:
    """The message `type_name` in a prototxt file. Raises PrototxtError, with file, line and column for bad text."""
    return _read_text(path, type_name)[0]


def read_binary(path: str | Path, type_name: str) -> Message:
    """The message `type_name` in a binary file. Raises FileFormatError if it is missing or damaged."""
    data = _read_bytes(path, FileFormatError)
    try:
        return message(type_name).FromString(data)
    except DecodeError as error:
        raise FileFormatError(f"{path}: no binary {type_name}, or a damaged one ({error})") from error


def write_binary(path: str | Path, value: Message) -> None:
    """Write a message in binary form; the file is complete or not there."""
    with replacing(path) as temporary:
        temporary.write_bytes(value.SerializeToString())


def read_net(path: str | Path) -> tuple[Message, list[int]]:
    """The net of a prototxt file in today's form, and for each of its layers the line where the layer begins.

    The Input layer that takes the place of `input:` fields gets the line of the first of them. Raises PrototxtError.
    """
    net, fields = _read_text(path, "NetParameter")
    lines = [line for name, line in fields if name in ("layer", "layers")]
    if is_v0(net):
        # the upgrade merges padding layers into the layers that follow them
        lines = [line for layer, line in zip(net.layers, lines) if layer.layer.type != "padding"]
    upgrade_net(net, path)
    if len(net.layer) > len(lines):
        lines.insert(0, next(line for name, line in fields if name == "input"))
    return net, lines


def read_solver(path: str | Path) -> Message:
    """The solver of a prototxt file in today's form, with Caffe's default for snapshot_prefix. Raises PrototxtError."""
    solver = read_text(path, "SolverParameter")
    upgrade_solver(solver, path)
    resolve_snapshot_prefix(solver, path)
    return solver


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside `path`; the file written there replaces `path` at the end, or vanishes on an error.

    The file and then its name are on the disk when this ends. Raises CaffeliteError if the system refuses.
    """
    path = Path(path)
    # beside it, because only within one file system the replacement is a single step
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise CaffeliteError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        # where even this is refused, the error above says more
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path, names: str) -> None:
    """Delete what processes that were killed in `replacing` left of files whose whole names match a pattern (re)."""
    left = re.compile(rf"\.(?:{names})\.\d+\.tmp")
    for temporary in folder.glob(".*.tmp"):
        if left.fullmatch(temporary.name):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems over a network have no such thing
            raise
    finally:
        os.close(descriptor)


def _read_text(path: str | Path, type_name: str) -> tuple[Message, list[tuple[str, int]]]:
    data = _read_bytes(path, PrototxtError)
    if b"\0" in data:
        raise PrototxtError(f"{path}: a binary file (weights?) where the text of a {type_name} is expected")
    # bytes that are no UTF-8 may stand in comments; elsewhere the reader names them
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    reader, parsed = TextReader(text, path), message(type_name)()
    try:
        reader.read(parsed)
    except PrototxtError as error:
        other = _OTHERS.get(type_name)
        if other and _holds(text, other):
            raise PrototxtError(f"{path}: is {_KINDS[other]}, expected {_KINDS[type_name]} ({error})") from None
        raise
    if not reader.fields:
        raise PrototxtError(f"{path}: holds nothing but blanks and comments; expected the text of a {type_name}")
    return parsed, reader.fields


_KINDS = {"NetParameter": "a net", "SolverParameter": "a solver"}
_OTHERS = {"NetParameter": "SolverParameter", "SolverParameter": "NetParameter"}


def _holds(text: str, type_name: str) -> bool:
    """Whether a text is that of a message of this type."""
    try:
        TextReader(text, "").read(message(type_name)())
    except PrototxtError:
        return False
    return True


def place(path: str | Path, error: Exception) -> str:
    """Where the path of a missing file started."""
    if not isinstance(error, FileNotFoundError) or Path(path).is_absolute():
        return ""
    try:
        return f"; paths start at the current folder, {Path.cwd()}"
    except OSError:
        return "; the current folder is gone"


def _read_bytes(path: str | Path, error_type: type[Exception]) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise error_type(f"{path}: cannot be read: {error.strerror}{place(path, error)}") from error
    if not data:
        raise error_type(f"{path}: the file is empty")
    return data
