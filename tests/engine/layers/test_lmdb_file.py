"""LMDB files: read as liblmdb reads them, and refused where they are damaged."""

import random

import lmdb
import pytest

from caffelite.errors import FileFormatError
from caffelite.layers.data.database import Database
from caffelite.layers.data.lmdb_file import LmdbFile


def write(path, records, remove=()):
    with lmdb.open(str(path), map_size=2**26) as database:
        with database.begin(write=True) as batch:
            for key, value in records:
                batch.put(key, value)
        with database.begin(write=True) as batch:
            for key in remove:
                batch.delete(key)
        with database.begin() as batch:
            return list(batch.cursor()), database.stat()["depth"]


def read(path):
    file = LmdbFile(str(path / "data.mdb"))
    return [file.record(leaf, i) for leaf in file.leaves() for i in range(len(leaf.places))]


@pytest.mark.parametrize(
    ("count", "sizes", "depth"), [(1, (0, 5), 1), (300, (10, 500), 2), (20, (3000, 20_000), 1), (20_000, (0, 90), 3)]
)
def test_reads_what_liblmdb_reads(tmp_path, count, sizes, depth):
    generator = random.Random(count)
    records = [(f"{generator.randrange(10**9)}_{i}".encode(), generator.randbytes(generator.randint(*sizes)))
               for i in range(count)]  # fmt: skip
    expected, deep = write(tmp_path / "db", records, [key for key, _ in records[1::3]])
    assert deep == depth and len(expected) == count - len(records[1::3])
    assert read(tmp_path / "db") == expected
    database = Database(tmp_path / "db")
    assert len(database) == len(expected)
    for i in generator.choices(range(len(expected)), k=20):
        assert database[i] == (expected[i][0].decode(), expected[i][1])


def test_pages_of_another_size(tmp_path):
    expected, _ = write(tmp_path / "db", [(b"%d" % i, bytes(i)) for i in range(100)])
    data = bytearray((tmp_path / "db" / "data.mdb").read_bytes())
    assert int.from_bytes(data[40:44], "little") == LmdbFile(str(tmp_path / "db" / "data.mdb")).page_size
    assert read(tmp_path / "db") == expected
    data[40:44] = (100).to_bytes(4, "little")
    (tmp_path / "db" / "data.mdb").write_bytes(data)
    with pytest.raises(FileFormatError, match="pages of 100 bytes"):
        read(tmp_path / "db")


def test_a_page_that_is_none(tmp_path):
    """The root of a database of many pages, damaged in its kind, in its keys, and pointing at itself."""
    write(tmp_path / "db", [(b"%04d" % i, bytes(50)) for i in range(500)])
    path = tmp_path / "db" / "data.mdb"
    good, file = path.read_bytes(), LmdbFile(str(path))
    root = file.root * file.page_size
    place = root + int.from_bytes(good[root + 16 : root + 18], "little")
    for at, value, message in (
        (root + 10, 2, "with flags 0x2"),
        (root + 12, 16, "and 0 keys"),
        (root + 16, 5000, "record 0 beyond the page"),
        (place, file.root, "page .* with flags 0x1"),
        (place, 60_000, "expected 4096 more bytes"),
    ):
        path.write_bytes(good[:at] + value.to_bytes(2, "little") + good[at + 2 :])
        with pytest.raises(FileFormatError, match=f"data.mdb: damaged, or no LMDB: .*{message}.* at byte"):
            read(tmp_path / "db")


def test_a_damaged_page_does_not_shift_the_others(tmp_path):
    expected, _ = write(tmp_path / "db", [(b"%04d" % i, bytes(50)) for i in range(500)])
    path = tmp_path / "db" / "data.mdb"
    file = LmdbFile(str(path))
    _, second, *_ = file.leaves()
    data = bytearray(path.read_bytes())
    data[second.number * file.page_size + 10] = 0
    path.write_bytes(data)
    database = Database(tmp_path / "db")
    assert database[3][1] == expected[3][1]
    for _ in range(2):
        with pytest.raises(FileFormatError, match="damaged"):
            database[499]
    assert database[5] == (expected[5][0].decode(), expected[5][1])
