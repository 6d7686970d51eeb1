"""Weights and solver states in HDF5 files, as src/caffe/net.cpp and src/caffe/solvers/sgd_solver.cpp lay them out.

/data/<layer>/<i> and, if gradients are saved, /diff/<layer>/<i>; /iter, /learned_net, /current_step, /history/<i>.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from google.protobuf.message import Message

from caffelite.errors import FileFormatError
from caffelite.proto.files import place, replacing

Blobs = Sequence[tuple[np.ndarray | None, np.ndarray | None]]

_MAX_BLOBS = 1000  # of a layer; no net comes near
_MAX_COMPRESSION = 2000  # no filter of HDF5 reaches this factor
_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class SolverState(NamedTuple):
    """What a solver needs besides the weights to go on: `history` holds the blobs of the update rule."""

    iter: int
    learned_net: str
    current_step: int
    history: Iterable[np.ndarray]


def is_hdf5(path: str | Path) -> bool:
    """Whether a file begins as HDF5 files do."""
    try:
        with open(path, "rb") as file:
            return file.read(len(_SIGNATURE)) == _SIGNATURE
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it, as a damaged state gives
        why = getattr(error, "strerror", error)
        raise FileFormatError(f"{path}: cannot be read: {why}{place(path, error)}") from error


def read_weights_hdf5(path: str | Path) -> list[tuple[str, list[np.ndarray | None]]]:
    """The layers under /data by name, each with its blobs, None for a blob that another layer owns.

    Raises FileFormatError.
    """
    with _opened(path) as file:
        groups: dict[str, dict[int, h5py.Dataset]] = {}

        def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                groups.setdefault(name, {})
            else:
                layer, _, index = name.rpartition("/")
                if not index.isdecimal() or int(index) >= _MAX_BLOBS:
                    raise FileFormatError(f"{path}: /data/{name} is no blob; blobs are numbered from 0")
                groups.setdefault(layer, {})[int(index)] = item

        if not isinstance(file.get("data"), h5py.Group):
            raise FileFormatError(f"{path}: has no group /data; expected weights")
        file["data"].visititems(visit)
        # a slash in a layer's name makes a group that is no layer itself
        outer = {name.rpartition("/")[0] for name in groups}
        return [
            (name, [_array(path, blobs[i]) if i in blobs else None for i in range(max(blobs, default=-1) + 1)])
            for name, blobs in groups.items()
            if blobs or name not in outer
        ]


def write_weights_hdf5(path: str | Path, layers: Iterable[tuple[Message, Blobs]]) -> None:
    """Write a .caffemodel.h5: for each layer its LayerParameter, and its blobs as (data, diff or None).

    Data that is None is left out, as Caffe leaves out what another layer owns. The file appears complete or not at all.
    """
    with _replaced(path) as file:
        for layer, blobs in layers:
            try:
                file.create_group(f"data/{layer.name}")
                for i, (data, diff) in enumerate(blobs):
                    for kind, values in (("data", data), ("diff", diff)):
                        if values is not None:
                            file.create_dataset(f"{kind}/{layer.name}/{i}", data=np.asarray(values, np.float32))
            except ValueError as error:
                problem = f"the name of layer {layer.name!r} cannot be used in HDF5 ({error}); rename it"
                raise FileFormatError(f"{path}: {problem}, or save as .caffemodel") from error


def read_solverstate_hdf5(path: str | Path) -> SolverState:
    """The state in a .solverstate.h5. Raises FileFormatError."""
    with _opened(path) as file:
        missing = [name for name in ("iter", "current_step", "history") if name not in file]
        if missing:
            raise FileFormatError(f"{path}: lacks {', '.join(missing)}; expected a solver state")
        iteration, current_step = (_whole_number(path, file[name]) for name in ("iter", "current_step"))
        learned_net = b""
        if "learned_net" in file:
            check_stored(path, file["learned_net"])
            learned_net = file["learned_net"][()]
        if not isinstance(learned_net, bytes):
            raise FileFormatError(f"{path}: learned_net is no string")
        if not (0 <= iteration < 2**31 and 0 <= current_step < 2**31):
            raise FileFormatError(f"{path}: expected iteration and step from 0, actual {iteration}, {current_step}")
        history = [_array(path, file["history"][str(i)]) for i in range(len(file["history"]))]
    return SolverState(iteration, learned_net.rstrip(b"\0").decode(errors="backslashreplace"), current_step, history)


def write_solverstate_hdf5(path: str | Path, state: SolverState) -> None:
    """Write a .solverstate.h5. The file appears complete or not at all."""
    with _replaced(path) as file:
        file.create_dataset("iter", data=np.array([state.iter], np.int32))
        name = state.learned_net.encode()
        # one byte more than the name: C reads it up to the zero
        file.create_dataset("learned_net", data=np.array(name, f"S{len(name) + 1}"))
        file.create_dataset("current_step", data=np.array([state.current_step], np.int32))
        history = file.create_group("history")
        for i, values in enumerate(state.history):
            history.create_dataset(str(i), data=np.asarray(values, np.float32))


def check_stored(path: str | Path, dataset: h5py.Dataset) -> None:
    """Raise FileFormatError unless the file holds what a data set of it declares: not more, and not in other files."""
    if not isinstance(dataset, h5py.Dataset):
        raise FileFormatError(f"{path}: {dataset.name} is no data set")
    if dataset.external or dataset.is_virtual or Path(dataset.file.filename) != Path(path):
        raise FileFormatError(f"{path}: {dataset.name} lies in another file; copy it into this one")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > _MAX_COMPRESSION * stored:
        raise FileFormatError(f"{path}: {dataset.name} declares {dataset.nbytes} bytes and stores {stored}")


def _array(path: str | Path, dataset: h5py.Dataset) -> np.ndarray:
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind != "f":
        raise FileFormatError(f"{path}: {dataset.name} holds no floats")
    check_stored(path, dataset)
    return dataset[()]


def _whole_number(path: str | Path, dataset: h5py.Dataset) -> int:
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "iu" or dataset.size != 1:
        raise FileFormatError(f"{path}: {dataset.name} is no whole number")
    check_stored(path, dataset)
    return int(np.ravel(dataset[()])[0])


@contextmanager
def _opened(path: str | Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
        raise FileFormatError(f"{path}: damaged, or no HDF5 file of Caffe: {error}") from error


@contextmanager
def _replaced(path: str | Path) -> Iterator[h5py.File]:
    content = io.BytesIO()  # the HDF5 library ends the process where a disk is full at the moment it closes a file
    with h5py.File(content, "w") as file:
        yield file
    with replacing(path) as temporary, open(temporary, "wb") as written:
        written.write(content.getbuffer())
