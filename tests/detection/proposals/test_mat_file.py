"""MATLAB files: read as scipy writes and reads them, and refused where they are damaged."""

import zlib

import numpy as np
import pytest
import scipy.io

from caffelite.errors import FileFormatError
from detection.proposals.mat_file import read_mat

CELL = np.empty((1, 3), object)
CELL[0, :] = [np.arange(6, dtype=np.uint16).reshape(2, 3), "bär", np.zeros((0, 0))]
VALUES = {
    **{str(np.dtype(kind)): np.arange(6).reshape(2, 3).astype(kind) for kind in ("f8", "f4", "i1", "u2", "i4", "u8")},
    "small": np.array([[7]], np.uint8),
    "text": "some words",
    "cells": CELL,
}
OTHERS = {"struct": {"a": 1}, "complex": 1 + 2j, "sparse": scipy.sparse.eye(3)}


def save(tmp_path, values, **options):
    scipy.io.savemat(tmp_path / "a.mat", values, **options)
    return tmp_path / "a.mat"


@pytest.mark.parametrize("compressed", [False, True])
def test_what_scipy_writes(tmp_path, compressed):
    read = read_mat(save(tmp_path, {**OTHERS, **VALUES}, do_compression=compressed), VALUES)
    assert list(read) == [*OTHERS, *VALUES] and not any(read[name] for name in OTHERS)
    for name, values in VALUES.items():
        if isinstance(values, str):
            assert read[name] == values
        elif name != "cells":
            np.testing.assert_array_equal(read[name], values)
            assert read[name].dtype == values.dtype
    numbers, text, nothing = read["cells"]
    np.testing.assert_array_equal(numbers, CELL[0, 0])
    assert text == "bär" and nothing.shape == (0, 0)


def test_other_order_of_bytes(tmp_path):
    """A file as a big-endian machine writes it: one variable a = [1 2]."""
    words = b"".join(n.to_bytes(4, "big") for n in (14, 56, 6, 8, 6, 0, 5, 8, 1, 2, (1 << 16) | 1))
    data = bytes(124) + b"\1\0MI" + words + b"a\0\0\0" + (b"\0\0\0\x03\0\0\0\x04" + b"\0\1\0\2" + bytes(4))
    (tmp_path / "a.mat").write_bytes(data)
    np.testing.assert_array_equal(read_mat(tmp_path / "a.mat", "a")["a"], [[1, 2]])


def test_what_it_does_not_read(tmp_path):
    for name in OTHERS:
        with pytest.raises(FileFormatError, match=f"{name}: expected numbers, texts or cells, found class"):
            read_mat(save(tmp_path, OTHERS), [name])
    with pytest.raises(FileFormatError, match="no MATLAB file of version 5 to 7"):
        read_mat(save(tmp_path, {"a": np.ones(3)}, format="4"), "a")
    (tmp_path / "a.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(FileFormatError, match=r"MATLAB's format 7\.3; save it there with -v7"):
        read_mat(tmp_path / "a.mat", "a")
    with pytest.raises(FileFormatError, match="cannot be read: No such file"):
        read_mat(tmp_path / "b.mat", "a")


def test_sizes_are_not_believed(tmp_path):
    path = save(tmp_path, {"a": np.ones((2, 3))})
    good = bytearray(path.read_bytes())
    for at, value, message in (
        (132, 2**31, "an element of 2147483648 bytes"),
        (160, 2**31 - 1, r"48 bytes are no float64 of shape \[2147483647, 3\]"),
        (152, 99, "numbers of type 99"),
    ):
        damaged = good.copy()
        damaged[at : at + 4] = value.to_bytes(4, "little")
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=rf"a\.mat: damaged MATLAB file: .*({message})"):
            read_mat(path, "a")
    inner = None
    for _ in range(6):
        cell = np.empty((1, 1), object)
        cell[0, 0] = inner if inner is not None else 1
        inner = cell
    with pytest.raises(FileFormatError, match="nested deeper than 4"):
        read_mat(save(tmp_path, {"a": inner}), "a")


def test_bombs(tmp_path):
    bomb = zlib.compress(bytes(2**27))
    path = save(tmp_path, {"a": np.ones(3)})
    path.write_bytes(path.read_bytes()[:128] + (15).to_bytes(4, "little") + len(bomb).to_bytes(4, "little") + bomb)
    with pytest.raises(FileFormatError, match="compressed contents are too large"):
        read_mat(path, "a")
    path.write_bytes(path.read_bytes()[:128] + (15).to_bytes(4, "little") + (9).to_bytes(4, "little") + bomb[:9])
    with pytest.raises(FileFormatError, match="compressed contents that end too soon"):
        read_mat(path, "a")
