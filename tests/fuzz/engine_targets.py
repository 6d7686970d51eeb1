"""What the engine is given: each target makes a damaged input from a random stream and uses it as a user would."""

from __future__ import annotations

import math
import shutil
from functools import cache
from pathlib import Path
from random import Random

import cv2
import h5py
import lmdb
import numpy as np

import caffelite as caffe
from caffelite import proto
from caffelite.errors import CaffeliteError
from caffelite.layers.data.database import Database, new_database
from caffelite.proto.weights import read_blobproto
from tests.fuzz import seeds
from tests.fuzz.mutations import mutate_bytes, mutate_message, mutate_text

SMALL = 100_000  # numbers in a net's blobs and parameters; nets that declare more are built but not run
PASSES = 3  # most passes that a solver may ask for in one iteration or test; more is no hang, but what it asked for
PAGE = 4096  # of a database
WEIGHTS = seeds.ENGINE_DATA / "weights"


def net_text(random: Random) -> str:
    """Builds and runs the net of a damaged text."""
    text = random.choice(_nets())
    if random.random() < 0.5:
        text = mutate_text(text, random, random.choice(_nets()))
    else:
        definition = proto.parse_text(random.choice(_parsed_nets()), "NetParameter")
        mutate_message(definition, random)
        text = proto.to_text(definition)
    return _run(_net(text, random), random)


def solver_text(random: Random) -> str:
    """Builds the solver of a damaged text and does two iterations."""
    text = random.choice(seeds.SOLVERS)
    if random.random() < 0.5:
        text = mutate_text(text, random, random.choice(seeds.SOLVERS))
    else:
        definition = proto.parse_text(text, "SolverParameter")
        mutate_message(definition, random)
        text = proto.to_text(definition)
    Path("solver.prototxt").write_text(text, errors="surrogateescape")
    solver = caffe.get_solver("solver.prototxt")
    nets = [solver.net, *solver.test_nets]
    if max(map(_size, nets)) > SMALL or max([solver.param.iter_size, *solver.param.test_iter]) > PASSES:
        return "built"
    solver.step(2)
    return "trained"


def caffemodel(random: Random) -> str:
    """Reads damaged weights of all forms into a net and runs it."""
    Path("weights").write_bytes(_damaged(random, _weights("caffemodel"), "NetParameter"))
    if random.random() < 0.2:
        definition = proto.read_binary("weights", "NetParameter")
        proto.upgrade_net(definition, "weights")
        return "upgraded"
    net = _net(seeds.WEIGHTS_NET, random)
    net.copy_from("weights", skip_mismatched=random.random() < 0.5)
    return _run(net, random)


def hdf5_weights(random: Random) -> str:
    """Reads damaged HDF5 weights into a net and runs it."""
    Path("weights.h5").write_bytes(_damaged(random, _weights("caffemodel.h5")))
    net = _net(seeds.WEIGHTS_NET, random)
    net.copy_from("weights.h5", skip_mismatched=random.random() < 0.5)
    return _run(net, random)


def solverstate(random: Random) -> str:
    """Restores a solver from a damaged state and does an iteration."""
    return _restore(random, "solverstate")


def hdf5_solverstate(random: Random) -> str:
    """Restores a solver from a damaged HDF5 state and does an iteration."""
    return _restore(random, "solverstate.h5")


def records(random: Random) -> str:
    """Trains on, and reads a mean from, a database with damaged records, with damaged options now and then."""
    kind, values = random.choice(_records())
    values = [_damaged(random, _records_of(kind), kind) if random.random() < 0.3 else value for value in values]
    shutil.rmtree("records", ignore_errors=True)
    with lmdb.open("records", map_size=2**22, sync=False, lock=False) as database, database.begin(write=True) as batch:
        for i, value in enumerate(values):
            batch.put(f"{i:08}".encode(), value)
    text = seeds.DATA_NET if kind == "Datum" else seeds.ANNOTATED_NET
    means = ("", "mean_value: 3", "crop_size: 4", 'mean_file: "mean"')
    Path("mean").write_bytes(mutate_bytes((WEIGHTS / "mean.binaryproto").read_bytes(), random))
    text = text.replace("MEAN", random.choice(means))
    if random.random() < 0.3:
        definition = proto.parse_text(text, "NetParameter")
        mutate_message(definition.layer[0], random)
        text = proto.to_text(definition)
    return _run(_net(text, random), random)


def database(random: Random) -> str:
    """Reads all records of a damaged database."""
    pages = bytearray(random.choice(_databases()))
    for _ in range(random.choice((1, 1, 2, 5))):
        # most of a page is empty: its header and the records' places are in front, the records at its end
        page = random.randrange(max(1, len(pages) // PAGE)) * PAGE
        at = page + random.choice((random.randrange(40), random.randrange(200), random.randrange(PAGE)))
        pages[at : at + 8] = mutate_bytes(bytes(pages[at : at + 8]), random)[:8].ljust(8, b"\0")
    Path("data.mdb").write_bytes(mutate_bytes(bytes(pages), random) if random.random() < 0.1 else pages)
    records = Database("data.mdb")
    for i in range(min(len(records), 500)):
        records.read(i, "Datum")
    return f"{len(records)} records"


def lists(random: Random) -> str:
    """Reads a damaged list of images and labels, which has images that are there."""
    Path("seed.png").write_bytes(_picture())
    text = "".join(f"seed.png {i}\n" for i in range(3))
    Path("images.txt").write_bytes(mutate_bytes(text.encode(), random))
    net = _net(
        'layer { name: "data" type: "ImageData" top: "data" top: "label" '
        'image_data_param { source: "images.txt" batch_size: 2 } }',
        random,
    )
    return _run(net, random)


def mean(random: Random) -> str:
    """Reads a damaged .binaryproto."""
    Path("mean").write_bytes(mutate_bytes((WEIGHTS / "mean.binaryproto").read_bytes(), random))
    return str(read_blobproto("mean").shape)


def hdf5_data(random: Random) -> str:
    """Runs an HDF5Data layer over a damaged file."""
    Path("list").write_text("data.h5\n")
    Path("data.h5").write_bytes(mutate_bytes(_hdf5_data(), random))
    net = _net(
        'layer { name: "data" type: "HDF5Data" top: "data" top: "label" '
        'hdf5_data_param { source: "list" batch_size: 2 } }',
        random,
    )
    return _run(net, random)


def warm_up() -> None:
    """Run every layer's net undamaged, which compiles and loads the kernels, and make the files to be damaged."""
    generator = np.random.default_rng(1)
    for kind, cases in seeds.LAYERS.items():
        for case in cases:
            Path("net.prototxt").write_text(seeds.layer_net(kind, *case))
            net = caffe.Net("net.prototxt", caffe.TRAIN)
            for name in net.inputs:
                net.blobs[name].data[...] = seeds.feed(net.blobs[name].shape, generator)
            if kind == "MemoryData":
                net.set_input_arrays(np.ones((2, 3, 4, 4)), np.ones(2))
            net.forward()
            net.backward()
    for extension in ("caffemodel", "caffemodel.h5", "solverstate", "solverstate.h5"):
        _weights(extension)
    _parsed_nets(), _records(), _hdf5_data(), _databases(), _picture()


@cache
def _nets() -> list[str]:
    return seeds.nets()


@cache
def _parsed_nets() -> list[str]:
    """The texts that parse: some of the golden ones are wrong on purpose."""
    return [text for text in _nets() if _parses(text)]


def _parses(text: str) -> bool:
    try:
        proto.parse_text(text, "NetParameter")
    except CaffeliteError:
        return False
    return True


@cache
def _records() -> list[tuple[str, list[bytes]]]:
    return list(seeds.records())


def _records_of(kind: str) -> list[bytes]:
    return [value for other, values in _records() if other == kind for value in values]


@cache
def _databases() -> list[bytes]:
    """Databases of a single page, of many, and with records that need pages of their own."""
    found = []
    for name, (count, size) in {"one": (3, 10), "deep": (400, 30), "large": (5, 9000)}.items():
        with new_database(f"seed_{name}") as put:
            for i in range(count):
                put(f"{i:08}", proto.message("Datum")(data=bytes(size), label=i).SerializeToString())
        found.append(Path(f"seed_{name}/data.mdb").read_bytes())
        shutil.rmtree(f"seed_{name}")
    return found


@cache
def _picture() -> bytes:
    return cv2.imencode(".png", np.arange(60, dtype=np.uint8).reshape(4, 5, 3))[1].tobytes()


@cache
def _hdf5_data() -> bytes:
    with h5py.File("seed.h5", "w") as file:
        file["data"] = np.arange(48, dtype=np.float32).reshape(4, 3, 2, 2)
        file.create_dataset("label", data=np.arange(4.0), compression="gzip")
    return Path("seed.h5").read_bytes()


@cache
def _weights(extension: str) -> list[bytes]:
    """Files of weights or states: the original's, and new ones of the same nets."""
    files = [path.read_bytes() for path in sorted(WEIGHTS.glob(f"*.{extension}"))]
    for options in seeds.SOLVERS[:3]:
        Path("seed.prototxt").write_text(options + 'snapshot_prefix: "seed"' * ("snapshot_prefix" not in options))
        solver = caffe.get_solver("seed.prototxt")
        solver.step(1)
        solver.param.snapshot_format = solver.param.HDF5 if extension.endswith("h5") else solver.param.BINARYPROTO
        files.append(Path(solver.snapshot()["solverstate" in extension]).read_bytes())
    return files


def _restore(random: Random, extension: str) -> str:
    """The states behind the original's in `_weights` are those of the solvers in their order."""
    states = _weights(extension)[-3:]
    choice = random.randrange(3)
    if random.random() < 0.1:
        states = _weights(extension)
    else:
        states = states[choice : choice + 1]
    Path("state").write_bytes(_damaged(random, states, "SolverState" if extension == "solverstate" else None))
    solver = caffe.get_solver(_solver_file(choice))
    solver.restore("state")
    solver.step(1)
    return "trained"


def _solver_file(choice: int) -> str:
    Path("solver.prototxt").write_text(seeds.SOLVERS[choice])
    return "solver.prototxt"


def _damaged(random: Random, files: list[bytes], kind: str | None = None) -> bytes:
    """One of the files damaged in its bytes, or, where `kind` names its message, in its fields."""
    data = random.choice(files)
    if kind is None or random.random() < 0.5:
        return mutate_bytes(data, random, random.choice(files))
    message = proto.message(kind).FromString(data)
    mutate_message(message, random)
    return message.SerializePartialToString()


def _net(text: str, random: Random) -> caffe.Net:
    Path("net.prototxt").write_text(text, errors="surrogateescape")
    return caffe.Net("net.prototxt", random.choice((caffe.TRAIN, caffe.TEST)))


def _size(net: caffe.Net) -> int:
    blobs = [*net._blobs, *(blob for layer in net.layers for blob in layer.blobs)]
    return sum(math.prod(blob.shape) for blob in blobs)


def _run(net: caffe.Net, random: Random) -> str:
    """Feeds a small net twice and runs it forward and backward; says how far it came."""
    if _size(net) > SMALL:
        return "built"
    generator = np.random.default_rng(random.randrange(2**32))
    for _ in range(2):
        for name in net.inputs:
            blob = net.blobs[name]
            values = seeds.feed(blob.shape, generator)
            if random.random() < 0.03:
                values = np.where(generator.random(blob.shape) < 0.5, random.choice((np.nan, np.inf, -3e38)), values)
            blob.data[...] = values
        net.forward()
        net.backward()
    return "run"
