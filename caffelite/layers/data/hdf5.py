"""HDF5Data and HDF5Output: arrays from and to HDF5 files."""

from __future__ import annotations

import bisect
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager

import h5py
import numpy as np

from caffelite.errors import FileFormatError
from caffelite.layer import Layer, register
from caffelite.layers.data.batches import Batches, Epochs
from caffelite.proto.hdf5 import check_stored, is_hdf5


@register("HDF5Data")
class HDF5Data(Batches):
    """Each top is the rows, batch after batch, of the data set of its name in the HDF5 files of a list.

    All data sets of a file have the same number of rows, and beyond the first axis the same shape in all files. Batches
    run across the ends of files. `shuffle` gives each epoch its own order of files, and of rows within a file. Tops:
    (batch_size, *row). Source: hdf5_data_layer.cpp.
    """

    min_tops = 1

    def setup(self, bottom, top):
        super().setup(bottom, top)
        self.expect(not self.param.HasField("transform_param"), "transform_param is not for HDF5Data; leave it out")
        p = self.param.hdf5_data_param
        self.batch_size = self.check_batch_size(p)
        self.files = self._read_list(p.source)
        shapes = [self._shapes(path) for path in self.files]
        for path, others in zip(self.files, shapes):
            self.expect(
                others[1] == shapes[0][1],
                f"{path}: expected rows of shapes {shapes[0][1]} as in {self.files[0]}, actual {others[1]}",
            )
        self.rows = [rows for rows, _ in shapes]
        self.expect(sum(self.rows) > 0, f"hdf5_data_param.source {p.source!r}: its files have no rows")
        for blob, shape in zip(top, shapes[0][1]):
            self.give_shape(blob, (self.batch_size, *shape))
        # an order of files, and for each file an order of rows, in every epoch
        stream = (self.pass_state.seed, self.name)
        self.file_order = Epochs(len(self.files), (*stream, "files") if p.shuffle else None)
        self.row_orders = [Epochs(n, (*stream, "rows", k) if p.shuffle else None) for k, n in enumerate(self.rows)]
        self._loaded: tuple[int, list[np.ndarray]] = (-1, [])

    def load(self, batch):
        parts = [[] for _ in self.param.top]
        for file, rows in self._rows(batch * self.batch_size, self.batch_size):
            if file != self._loaded[0]:
                self._loaded = file, self._read(self.files[file])
            for part, values in zip(parts, self._loaded[1]):
                part.append(values[rows])
        return [np.concatenate(part) for part in parts]

    def _rows(self, position: int, count: int) -> Iterator[tuple[int, list[int]]]:
        """The rows at `count` positions of the endless run: (file, rows of it) one after another."""
        n = len(self.files)
        while count:
            epoch, place = divmod(position, sum(self.rows))
            files = [self.file_order[epoch * n + i] for i in range(n)]
            ends = list(itertools.accumulate(self.rows[file] for file in files))
            i = bisect.bisect_right(ends, place)
            file, taken = files[i], min(count, ends[i] - place)
            first = (epoch + 1) * self.rows[file] - (ends[i] - place)
            yield file, [self.row_orders[file][k] for k in range(first, first + taken)]
            position, count = position + taken, count - taken

    def _read_list(self, path: str) -> list[str]:
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                whole = is_hdf5(path)
                self.expect(
                    not whole, f"hdf5_data_param.source {path!r}: is an HDF5 file; expected a text that names such"
                )
                files = file.read().split()
        except OSError as e:
            raise self.error(f"hdf5_data_param.source {path!r}: cannot be read: {e.strerror}") from None
        self.expect(bool(files), f"hdf5_data_param.source {path!r}: names no HDF5 file")
        return files

    def _shapes(self, path: str) -> tuple[int, list[tuple[int, ...]]]:
        """Number of rows of a file, and the shape of a row for each top."""
        with _opened(path) as file:
            sets = [_dataset(path, file, name) for name in self.param.top]
            rows = {s.shape[0] for s in sets}
            if len(rows) > 1:
                raise FileFormatError(
                    f"{path}: expected as many rows for every top, actual "
                    + ", ".join(f"{name} {s.shape[0]}" for name, s in zip(self.param.top, sets))
                )
            return rows.pop(), [s.shape[1:] for s in sets]

    def _read(self, path: str) -> list[np.ndarray]:
        with _opened(path) as file:
            return [_dataset(path, file, name)[()].astype(np.float32, copy=False) for name in self.param.top]


@contextmanager
def _opened(path: str) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise FileFormatError(f"{path}: cannot be read: there is no such file") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as e:
        raise FileFormatError(f"{path}: cannot be read as HDF5: {e}") from e


def _dataset(path: str, file: h5py.File, name: str) -> h5py.Dataset:
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise FileFormatError(f"{path}: expected a data set {name!r} for the top, actual {', '.join(file) or 'none'}")
    if found.dtype.kind not in "fiu" or not found.ndim:
        raise FileFormatError(f"{path}: data set {name!r}: expected rows of numbers, actual {found.dtype}{found.shape}")
    check_stored(path, found)
    return found


@register("HDF5Output")
class HDF5Output(Layer):
    """Writes its bottoms to the data sets `data` and `label` of a new HDF5 file.

    It replaces an older HDF5 file of that name, but no other. Each pass appends its N rows, where the original could
    write one pass only. Bottoms: two blobs (N, ...), written as (N, channels, height, width). Source:
    hdf5_output_layer.cpp.
    """

    exact_bottoms = 2
    exact_tops = 0

    def setup(self, bottom, top):
        self.path = self.param.hdf5_output_param.file_name
        self.expect(bool(self.path), "expected a file in hdf5_output_param.file_name, actual none")
        self.expect(
            not os.path.exists(self.path) or is_hdf5(self.path),
            f"hdf5_output_param.file_name {self.path!r} is there and no HDF5 file: it is not overwritten",
        )
        with self._opened("w"):
            pass

    def reshape(self, bottom, top):
        counts = [b.num for b in bottom]
        self.expect(counts[0] == counts[1], f"expected as many rows of data as of labels, actual {counts}")

    def forward(self, bottom, top):
        with self._opened("a") as file:
            for name, blob in zip(("data", "label"), bottom):
                shape = (blob.num, blob.channels, blob.height, blob.width)
                if name not in file:
                    file.create_dataset(name, (0, *shape[1:]), np.float32, maxshape=(None, *shape[1:]))
                rows = file[name]
                self.expect(rows.shape[1:] == shape[1:], f"rows changed from {rows.shape[1:]} to {shape[1:]}")
                rows.resize(len(rows) + shape[0], 0)
                rows[len(rows) - shape[0] :] = blob.data.reshape(shape)

    def backward(self, top, propagate_down, bottom):
        pass

    def _opened(self, mode: str) -> h5py.File:
        try:
            return h5py.File(self.path, mode)
        except OSError as e:
            raise self.error(f"hdf5_output_param.file_name {self.path!r}: cannot be written: {e}") from e
