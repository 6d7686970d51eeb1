"""Arrays in .npz files, read without trust: what a header declares must lie in the file before memory is taken."""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caffelite.errors import FileFormatError

MAX_EXPANSION = 100  # times the file's size that its arrays may have together; our own files reach 10
FREE_BYTES = 2**26  # that they may have in any case: arrays of zeros shrink a thousandfold
# as numpy writes it; numpy's own reader of it raises many things, and evaluates expressions
_HEADER = re.compile(
    rb"\{'descr': '([<>|][biufSU]\d{1,9})', 'fortran_order': (False|True), "
    rb"'shape': \(((?:\d{1,18}, ?)*\d{0,18})\), \} *\n"
)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others take memory on the word of the file


def allowed_bytes(size: int) -> int:
    """How many bytes the contents of a compressed file of `size` bytes may have."""
    return max(FREE_BYTES, MAX_EXPANSION * size)


def read_arrays(path: str | Path, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of a .npz file, `names` among them: numbers, booleans and texts, no objects. Raises FileFormatError.

    FileNotFoundError is left to the caller, for whom a missing file may be none that is damaged.
    """
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            total, size = sum(member.file_size for member in members), file.seek(0, 2)
            if total > allowed_bytes(size) or any(m.compress_size > size for m in members):
                raise ValueError(f"declares arrays of {total} bytes in a file of {size}")
            arrays = {member.filename.removesuffix(".npy"): _read(archive, member) for member in members}
    except FileNotFoundError:
        raise
    except (OSError, EOFError, ValueError, TypeError, RuntimeError, LookupError, zipfile.BadZipFile, zlib.error) as e:
        raise FileFormatError(f"{path}: damaged, or no file of arrays: {e or type(e).__name__}") from None
    missing = [name for name in names if name not in arrays]
    if missing:
        raise FileFormatError(f"{path}: expected the arrays {', '.join(names)}, it lacks {', '.join(missing)}")
    return arrays


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """One array. Raises what zipfile and numpy raise for damaged ones."""
    if member.compress_type not in _METHODS:
        raise ValueError(f"{member.filename}: compressed by method {member.compress_type}")
    data = archive.read(member)
    # signature, version 1.0, length of the header
    start = 10 + struct.unpack("<H", data[8:10])[0] if data.startswith(b"\x93NUMPY\1\0") and len(data) > 10 else 0
    header = _HEADER.fullmatch(data, 10, start)
    if not header:
        raise ValueError(f"{member.filename}: no header of an array of numbers or texts")
    dtype, order = np.dtype(header[1].decode()), "F" if header[2] == b"True" else "C"
    shape = tuple(int(size) for size in header[3].split(b",") if size.strip())
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        raise ValueError(f"{member.filename}: {len(data) - start} bytes are no {dtype} of shape {shape}")
    values = np.frombuffer(data, dtype, offset=start) if start < len(data) else np.empty(0, dtype)
    if dtype.kind == "U" and values.size and values.view(dtype.byteorder + "u4").max() > 0x10FFFF:
        raise ValueError(f"{member.filename}: texts with characters that do not exist")
    return values.reshape(shape, order=order).copy()
