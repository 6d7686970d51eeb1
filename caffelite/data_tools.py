"""Caffe's data tools as commands: databases of images, their mean, features of a net, files of old formats upgraded.

Source: convert_imageset.cpp, compute_image_mean.cpp, extract_features.cpp, upgrade_net_proto_text.cpp,
upgrade_net_proto_binary.cpp, upgrade_solver_proto_text.cpp.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import h5py
import numpy as np

from caffelite import proto
from caffelite.backend import random
from caffelite.blob import Blob
from caffelite.errors import CaffeliteError, FileFormatError
from caffelite.images import read_image
from caffelite.io import array_to_datum
from caffelite.layers.data.data import datum_image
from caffelite.layers.data.database import Database, new_database
from caffelite.layers.data.image_data import read_list
from caffelite.net import TEST, Net
from caffelite.proto.files import replacing

log = logging.getLogger("caffelite")


def add_commands(command) -> None:
    """Add the tools to the command line; `command(name, run, text, *groups)` makes a parser."""
    sub = command("convert_imageset", convert_imageset, "Make a database (LMDB) of the images in a list.")
    sub.add_argument("root", metavar="ROOTFOLDER/", help="stands before every name of the list")
    sub.add_argument("list", metavar="LISTFILE", help='lines "name label"')
    sub.add_argument("database", metavar="DB_NAME", help="the folder to make")
    sub.add_argument("--gray", action="store_true", help="read images as gray")
    sub.add_argument("--shuffle", action="store_true", help="in a random order, the same for the same --seed")
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of the order (default: 0)")
    sub.add_argument("--resize_width", type=int, default=0, metavar="N", help="pixels (default: as they are)")
    sub.add_argument("--resize_height", type=int, default=0, metavar="N", help="pixels (default: as they are)")
    sub.add_argument("--check_size", action="store_true", help="refuse images of different sizes")
    sub.add_argument("--encoded", action="store_true", help="store image files, not pixels")
    sub.add_argument(
        "--encode_type", default="", metavar="TYPE", help="png, jpg, ... (default: as the file); --encoded"
    )
    sub.add_argument("--backend", default="lmdb", metavar="lmdb", help="the only one")

    sub = command("compute_image_mean", compute_image_mean, "Compute the mean image of a database.")
    sub.add_argument("database", metavar="INPUT_DB", help="an LMDB of images of one size")
    sub.add_argument("output", metavar="OUTPUT_FILE", nargs="?", help=".binaryproto to write")
    sub.add_argument("--backend", default="lmdb", metavar="lmdb", help="the only one")

    sub = command(
        "extract_features", extract_features, "Store blobs of a net that reads its own data.", "device", "python"
    )
    sub.add_argument("weights", metavar="WEIGHTS", help=".caffemodel")
    sub.add_argument("model", metavar="MODEL", help="net prototxt with a data layer")
    sub.add_argument("blobs", metavar="BLOB[,BLOB...]", help="what to store")
    sub.add_argument("outputs", metavar="DB[,DB...]", help="where to, one for each blob")
    sub.add_argument("batches", metavar="BATCHES", type=int, help="how many passes to do")
    sub.add_argument("kind", metavar="KIND", choices=("lmdb", "hdf5"), help="lmdb (of Datum records) or hdf5")

    for run, what in (
        (upgrade_net_proto_text, "net prototxt"),
        (upgrade_net_proto_binary, ".caffemodel"),
        (upgrade_solver_proto_text, "solver prototxt"),
    ):
        sub = command(run.__name__, run, f"Write a {what} of an old format in today's.")
        sub.add_argument("input", metavar="INPUT", help="file of any format")
        sub.add_argument("output", metavar="OUTPUT", help="file to write")


def convert_imageset(options) -> None:
    """caffelite convert_imageset: Datum records under the keys %08d_name, the number being the place in the list."""
    _check_backend(options.backend)
    width, height = options.resize_width, options.resize_height
    if min(width, height) < 0 or (width > 0) != (height > 0):
        raise CaffeliteError("expected --resize_width and --resize_height above 0, or neither")
    if options.encode_type and not options.encoded:
        log.info("--encode_type is given: images are stored encoded")
        options.encoded = True
    lines = read_list(options.list, options.root)
    if options.shuffle:
        order = random.generator(options.seed, "convert_imageset").permutation(len(lines))
        lines = [lines[i] for i in order]
    first_shape, skipped = None, 0
    with new_database(options.database) as put:
        for i, (name, label) in enumerate(lines):
            path = options.root + name
            try:
                datum = _image_datum(path, label, options)
            except FileFormatError as e:  # the original, too, goes on without it
                log.warning("%s", e)
                skipped += 1
                continue
            shape = (datum.channels, datum.height, datum.width)
            first_shape = first_shape or shape
            if options.check_size and shape != first_shape:
                raise CaffeliteError(f"{path}: expected an image of shape {first_shape} like the first, actual {shape}")
            put(f"{i:08d}_{name}", datum.SerializeToString())
        if skipped == len(lines):
            raise CaffeliteError(f"{options.list}: none of its {len(lines)} image(s) could be read")
    note = f"; {skipped} could not be read and are left out" if skipped else ""
    print(f"{options.database}: {len(lines) - skipped} images{note}")


def _image_datum(path: str, label: int, options):
    """The Datum of an image file: its pixels, or if encoded its bytes, as they are where nothing has to change."""
    size = (options.resize_height, options.resize_width) if options.resize_height else None
    image = read_image(path, not options.gray, size)
    if not options.encoded:
        datum = array_to_datum(np.ascontiguousarray(image.transpose(2, 0, 1)), label)
        datum.encoded = False
        return datum
    own = os.path.splitext(path)[1].lower()
    wanted = f".{options.encode_type.lower().lstrip('.')}" if options.encode_type else own
    same_type = wanted.replace("jpeg", "jpg") == own.replace("jpeg", "jpg")
    # the original keeps the colours of a file with --gray
    if same_type and size is None and (not options.gray or read_image(path, None).shape[2] == 1):
        data = Path(path).read_bytes()
    else:
        try:
            data = cv2.imencode(wanted, image)[1].tobytes()
        except cv2.error as e:
            raise CaffeliteError(f"{path}: OpenCV cannot encode an image as {wanted!r}: {e.err}") from e
    return proto.message("Datum")(data=data, label=label, encoded=True)


def compute_image_mean(options) -> None:
    """caffelite compute_image_mean: the mean over all images of a database, in the original's float32 arithmetic."""
    _check_backend(options.backend)
    database = Database(options.database)
    total = None
    for i in range(len(database)):
        name, datum = database.read(i, "Datum")
        image = datum_image(datum, None, name).transpose(2, 0, 1)
        if total is None:
            total = np.zeros(image.shape, np.float32)
        if image.shape != total.shape:
            raise FileFormatError(
                f"{name}: expected an image of shape {total.shape} like the first, actual {image.shape}"
            )
        total += image
    mean = total / np.float32(len(database))
    if options.output:
        channels, height, width = mean.shape
        blob = proto.message("BlobProto")(num=1, channels=channels, height=height, width=width, data=mean.ravel())
        proto.write_binary(options.output, blob)
    print(f"{options.database}: mean of {len(database)} images, {' x '.join(map(str, mean.shape))}")
    for c, value in enumerate(mean.mean((1, 2), np.float64)):
        print(f"mean_value channel [{c}]: {value:.6g}")


def extract_features(options) -> None:
    """caffelite extract_features: runs a TEST net on the data it reads and stores blobs, one record per image.

    In an LMDB: Datum records of floats (channels, height, width) under the keys %010d. In HDF5: a data set of the
    blob's name and shape, which HDF5Data reads.
    """
    names, outputs = options.blobs.split(","), options.outputs.split(",")
    if len(names) != len(outputs):
        raise CaffeliteError(f"expected one output for each blob, actual {len(outputs)} for {len(names)} blob(s)")
    if options.batches < 1:
        raise CaffeliteError(f"expected at least 1 pass, actual {options.batches}")
    net = Net(options.model, TEST)
    net.copy_from(options.weights)
    unknown = [name for name in names if name not in net.blobs]
    if unknown:
        raise CaffeliteError(f"{options.model} has no blob {', '.join(unknown)}; its blobs: {', '.join(net.blobs)}")
    store = {"lmdb": _features_to_lmdb, "hdf5": _features_to_hdf5}[options.kind]
    with ExitStack() as stack:
        sinks = [stack.enter_context(store(output, name)) for output, name in zip(outputs, names)]
        for _ in range(options.batches):
            net.forward()
            for name, sink in zip(names, sinks):
                sink(net.blobs[name])
    for name, output in zip(names, outputs):
        print(f"{output}: {options.batches} batches of {name} {net.blobs[name].shape}")


@contextmanager
def _features_to_lmdb(path: str, name: str) -> Iterator[Callable[[Blob], None]]:
    with new_database(path) as put:
        keys = itertools.count()

        def store(blob: Blob) -> None:
            for values in blob.data.reshape(blob.num, blob.channels, blob.height, blob.width):
                put(f"{next(keys):010d}", array_to_datum(values).SerializeToString())

        yield store


@contextmanager
def _features_to_hdf5(path: str, name: str) -> Iterator[Callable[[Blob], None]]:
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:

        def store(blob: Blob) -> None:
            rows = np.atleast_1d(blob.data)
            if name not in file:
                file.create_dataset(name, (0, *rows.shape[1:]), np.float32, maxshape=(None, *rows.shape[1:]))
            stored = file[name]
            stored.resize(len(stored) + len(rows), 0)
            stored[len(stored) - len(rows) :] = rows

        yield store


def upgrade_net_proto_text(options) -> None:
    """caffelite upgrade_net_proto_text: a net prototxt of any format in today's."""
    net = proto.read_text(options.input, "NetParameter")
    _report(options, proto.upgrade_net(net, options.input))
    _write_text(options.output, net)


def upgrade_net_proto_binary(options) -> None:
    """caffelite upgrade_net_proto_binary: a net with its weights of any format in today's."""
    net = proto.read_binary(options.input, "NetParameter")
    _report(options, proto.upgrade_net(net, options.input))
    proto.write_binary(options.output, net)


def upgrade_solver_proto_text(options) -> None:
    """caffelite upgrade_solver_proto_text: a solver prototxt of any format in today's."""
    solver = proto.read_text(options.input, "SolverParameter")
    _report(options, proto.upgrade_solver(solver, options.input))
    _write_text(options.output, solver)


def _write_text(path: str, value) -> None:
    with replacing(path) as temporary:
        temporary.write_text(proto.to_text(value), encoding="utf-8")


def _report(options, upgraded: bool) -> None:
    print(f"{options.input}: {'upgraded' if upgraded else 'is in the latest format'}; written to {options.output}")


def _check_backend(name: str) -> None:
    if name != "lmdb":
        raise CaffeliteError(f"--backend {name!r}: expected lmdb, the only one that is supported")
