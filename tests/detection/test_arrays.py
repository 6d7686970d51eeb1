"""Arrays in .npz files: read as numpy writes them, and refused where a header promises what is not there."""

import io
import zipfile

import numpy as np
import pytest

from caffelite.errors import FileFormatError
from detection.arrays import read_arrays

ARRAYS = {
    "boxes": np.arange(12, dtype=np.int32).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "one": np.array(7),
    "none": np.zeros((0, 5), np.float32),
    "names": np.array(["a", "bär"]),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    read = read_arrays(tmp_path / "a.npz", ["one", "boxes"])
    assert list(read) == list(ARRAYS)
    for name, values in ARRAYS.items():
        np.testing.assert_array_equal(read[name], values)
        assert read[name].dtype == values.dtype and read[name].flags.writeable


def member(tmp_path, header: str, data: bytes = b"", method: int = zipfile.ZIP_STORED):
    """A file with one array, whose header is this text."""
    text = header.encode().ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("a.npy", b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data)
    return tmp_path / "a.npz"


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (
            "{'descr': '<f8', 'fortran_order': False, 'shape': (9000000000,), }",
            b"",
            "0 bytes are no float64 of shape",
        ),
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", bytes(8), "no header of an array"),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", bytes(8), "no header of an array"),
        ("{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }", b"\xff" * 4, "characters that do not exist"),
        ("{'descr': '<f8'}", b"", "no header of an array"),
        ("((((", b"", "no header of an array"),
    ],
)
def test_headers_are_not_believed(tmp_path, header, data, message):
    with pytest.raises(FileFormatError, match=message):
        read_arrays(member(tmp_path, header, data))


def test_bombs(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"{i}.npy", bytes(2**25))
    with pytest.raises(FileFormatError, match=r"declares arrays of 100663296 bytes in a file of \d{5,6}$"):
        read_arrays(tmp_path / "a.npz")
    with pytest.raises(FileFormatError, match="compressed by method 14"):
        read_arrays(member(tmp_path, "", method=zipfile.ZIP_LZMA))


def test_other_files(tmp_path):
    for data in (b"", b"PK", np.random.default_rng(0).bytes(1000)):
        (tmp_path / "a.npz").write_bytes(data)
        with pytest.raises(FileFormatError, match=r"a\.npz: damaged, or no file of arrays"):
            read_arrays(tmp_path / "a.npz")
    buffer = io.BytesIO()
    np.savez(buffer, a=1)
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    with pytest.raises(FileFormatError, match="expected the arrays a, b, it lacks b"):
        read_arrays(tmp_path / "a.npz", ["a", "b"])
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "b.npz")
