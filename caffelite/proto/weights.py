"""Weights and solver states in files: .caffemodel, .solverstate, their HDF5 forms, and single blobs (.binaryproto).

Reading keeps nothing but views of the mapped file. Writing streams, so that a net may exceed protobuf's 2 GB, and is
byte for byte what Caffe writes.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import Message

from caffelite.errors import FileFormatError
from caffelite.proto import hdf5
from caffelite.proto.files import replacing
from caffelite.proto.hdf5 import Blobs, SolverState, write_weights_hdf5
from caffelite.proto.wire import BYTES, VARINT, WireReader, blob_pieces, bytes_field, key, varint

__all__ = [
    "SolverState",
    "read_blobproto",
    "read_solverstate",
    "read_weights",
    "shapes_match",
    "write_solverstate",
    "write_weights",
    "write_weights_hdf5",
]

# where a layer has its name and its blobs; a V0 layer lies inside a V1 layer
_NET_LAYER, _NET_LAYERS = 100, 2
_V2, _V1, _V0 = (1, 7), (4, 6), (1, 50)
_V1_LAYER = 1


def read_weights(path: str | Path) -> list[tuple[str, list[np.ndarray | None]]]:
    """The layers of a .caffemodel (V0, V1 or V2) or .caffemodel.h5 in the file's order, each with its blobs.

    Arrays are read-only views of the mapped file, float32 or float64, in the file's shape: four axes in old files (see
    `shapes_match`). None stands for a blob that an HDF5 file leaves out because another layer owns it.
    Raises FileFormatError naming file and offset.
    """
    if hdf5.is_hdf5(path):
        return hdf5.read_weights_hdf5(path)
    reader = WireReader(path)
    if re.fullmatch(rb"[\t\n\r -~]+", reader.bytes[:200]):
        raise FileFormatError(
            f"{path}: is a text (a prototxt, or a pointer of Git LFS?); expected weights, a .caffemodel"
        )
    if str(path).endswith(".solverstate"):
        raise FileFormatError(f"{path}: is a solver's state, from which --snapshot goes on; expected weights")
    layers, forms = [], set()
    for number, wire_type, start, end in reader.fields(0, reader.size):
        if wire_type == BYTES and number in (_NET_LAYER, _NET_LAYERS):
            forms.add(number)
            layers.append(_read_layer(reader, start, end, _V2 if number == _NET_LAYER else _V1))
    if len(forms) > 1:
        raise FileFormatError(f"{path}: has layers of the old and the new form; Caffe refuses such a file")
    if not layers:
        raise FileFormatError(f"{path}: holds no layers; expected a .caffemodel")
    return layers


def _read_layer(reader: WireReader, start: int, end: int, form: tuple[int, int]) -> tuple[str, list[np.ndarray]]:
    name, blobs = "", []
    for number, wire_type, begin, stop in reader.fields(start, end):
        if wire_type != BYTES:
            continue
        if number == form[0]:
            name = reader.text(begin, stop)
        elif number == form[1]:
            blobs.append(reader.blob(begin, stop))
        elif number == _V1_LAYER and form == _V1:
            return _read_layer(reader, begin, stop, _V0)
    return name, blobs


def write_weights(path: str | Path, net_name: str, layers: Iterable[tuple[Message, Blobs]]) -> None:
    """Write a .caffemodel: for each layer its LayerParameter without blobs, and its blobs as (data, diff or None).

    The file appears complete or not at all.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines(bytes_field(1, net_name.encode()))
        for layer, blobs in layers:
            file.writelines(bytes_field(_NET_LAYER, *_layer_pieces(layer, blobs)))


def read_solverstate(path: str | Path) -> SolverState:
    """The state in a .solverstate or .solverstate.h5; histories are as in `read_weights`. Raises FileFormatError."""
    if hdf5.is_hdf5(path):
        return hdf5.read_solverstate_hdf5(path)
    reader = WireReader(path)
    iteration, learned_net, current_step, history = None, "", 0, []
    for number, wire_type, begin, end in reader.fields(0, reader.size):
        if (number, wire_type) == (1, VARINT):
            iteration = begin
        elif (number, wire_type) == (2, BYTES):
            learned_net = reader.text(begin, end)
        elif (number, wire_type) == (3, BYTES):
            history.append(reader.blob(begin, end))
        elif (number, wire_type) == (4, VARINT):
            current_step = begin
    if iteration is None or max(iteration, current_step) >= 2**31:
        raise FileFormatError(f"{path}: names no iteration; expected a .solverstate")
    return SolverState(iteration, learned_net, current_step, history)


def write_solverstate(
    path: str | Path, iter: int, learned_net: str, current_step: int, history: Iterable[np.ndarray]
) -> None:
    """Write a .solverstate, or its HDF5 form if `path` ends in .h5. The file appears complete or not at all."""
    if str(path).endswith(".h5"):
        hdf5.write_solverstate_hdf5(path, SolverState(iter, learned_net, current_step, history))
        return
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines([key(1, VARINT), varint(iter), *bytes_field(2, learned_net.encode())])
        for values in history:
            file.writelines(bytes_field(3, *blob_pieces(values)))
        file.writelines([key(4, VARINT), varint(current_step)])


def read_blobproto(path: str | Path) -> np.ndarray:
    """The array in a .binaryproto, such as an image mean (1, channels, height, width). Raises FileFormatError."""
    reader = WireReader(path)
    return reader.blob(0, reader.size)


def shapes_match(file_shape: Sequence[int], blob_shape: Sequence[int]) -> bool:
    """Whether a file's blob fits a net's: equal shapes, or four axes whose leading ones the net leaves out.

    Files of 2013 and 2014 keep an inner product's weights as 1 x 1 x N x M (Blob::ShapeEquals).
    """
    file_shape, blob_shape = tuple(file_shape), tuple(blob_shape)
    return file_shape in (blob_shape, (1,) * (4 - len(blob_shape)) + blob_shape)


def _layer_pieces(layer: Message, blobs: Blobs) -> list[bytes | np.ndarray]:
    """A LayerParameter with its blobs where they belong by their number: behind `param`, before `include`."""
    blobs_number = _V2[1]
    pieces: list[bytes | np.ndarray] = [_part(layer, range(blobs_number))]
    for data, diff in blobs:
        pieces += bytes_field(blobs_number, *blob_pieces(data, diff))
    return [*pieces, _part(layer, range(blobs_number + 1, 2**29))]


def _part(layer: Message, numbers: range) -> bytes:
    part = type(layer)()
    part.CopyFrom(layer)
    for field, _ in layer.ListFields():
        if field.number not in numbers:
            part.ClearField(field.name)
    return part.SerializeToString()
