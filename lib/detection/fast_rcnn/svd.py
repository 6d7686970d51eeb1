"""Truncated SVD of fully connected layers, for faster detection (Fast R-CNN, section 3.1; compress_net.py).

A layer y = W x + b with W (N, K) becomes two: `<name>_L`, rank x K without a bias, and `<name>_U`, N x rank with the
layer's bias. `_L` is diag(s) V^T and `_U` is U of the largest singular values: no other pair of this rank is nearer
to W. Of a RoI's N * K multiplications rank * (N + K) are left.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.linalg

from caffelite import TEST, Net, proto
from caffelite.errors import WeightsError
from caffelite.proto.files import replacing
from caffelite.proto.weights import read_weights
from detection.errors import ConfigError

logger = logging.getLogger("detection")

RANKS = {"fc6": 1024, "fc7": 256}
"""The paper's."""

_COLUMNS = 4096  # of the weights that are float64 at a time


@dataclass(frozen=True)
class Compression:
    """What became of a layer: shape (N, K) of its weights, the rank, and the part of sum(W^2) that is kept."""

    layer: str
    shape: tuple[int, int]
    rank: int
    energy: float

    @property
    def operations(self) -> float:
        """Multiplications left, as a part of those of the whole layer."""
        n, k = self.shape
        return self.rank * (n + k) / (n * k)

    def __str__(self) -> str:
        n, k = self.shape
        return (
            f"{self.layer} {n} x {k}: rank {self.rank}, energy kept {self.energy:.4%}, "
            f"operations {self.operations:.1%} of before"
        )


def truncated_svd(weights: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Factors U (N, rank) and L (rank, K) float32 of weights (N, K), and the part of sum(W^2) that they keep.

    U holds the singular vectors of the largest singular values, L = U^T W = diag(s) V^T. They come from eigenvectors
    of W W^T in float64: exact to the rounding of float32 for singular values above 1e-7 of the largest, and without
    the memory of a whole SVD. The largest entry of every column of U is positive, so a matrix has one result; its last
    bits may depend on the number of BLAS threads. Raises ConfigError.
    """
    n, k = weights.shape
    if not 1 <= rank <= min(n, k):
        raise ConfigError(f"a rank of {rank}: expected 1 to {min(n, k)} for weights of {n} x {k}")
    parts = [slice(start, start + _COLUMNS) for start in range(0, k, _COLUMNS)]
    gram = np.zeros((n, n))
    for part in parts:
        columns = weights[:, part].astype(np.float64)
        gram += columns @ columns.T
    total = float(np.trace(gram))
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=(n - rank, n - 1), overwrite_a=True, check_finite=False)
    vectors = vectors[:, ::-1]
    vectors = vectors * np.where(vectors[np.abs(vectors).argmax(axis=0), np.arange(rank)] < 0, -1, 1)
    left = np.hstack([vectors.T @ weights[:, part].astype(np.float64) for part in parts])
    energy = float(np.maximum(values, 0).sum()) / total if total else 1.0
    return vectors.astype(np.float32), left.astype(np.float32), min(energy, 1.0)


def compress_definition(definition, ranks: Mapping[str, int], where: str):
    """A copy of a NetParameter, read from `where`, in which every layer of `ranks` is a pair of the given rank.

    The second one has the layer's top, so that nothing else changes. Raises ConfigError.
    """
    layers = {layer.name: layer for layer in definition.layer}
    fully_connected = [layer.name for layer in definition.layer if layer.type == "InnerProduct"]
    for name, rank in ranks.items():
        if rank < 1:
            raise ConfigError(f"layer {name!r}: a rank of {rank}: expected at least 1")
        if name not in layers:
            raise ConfigError(
                f"{where}: has no layer {name!r} to compress; its InnerProduct layers: {', '.join(fully_connected)}"
            )
        if layers[name].type != "InnerProduct":
            raise ConfigError(f"{where}: layer {name!r}: expected an InnerProduct, actual {layers[name].type}")
        if any(param.name for param in layers[name].param):
            raise ConfigError(f"{where}: layer {name!r} shares its weights by name, and cannot be compressed")
        taken = {f"{name}_L", f"{name}_U"}.intersection(layers)
        if taken:
            raise ConfigError(f"{where}: has a layer {taken.pop()!r} already, and cannot have another one")
    compressed = type(definition)()
    compressed.CopyFrom(definition)
    del compressed.layer[:]
    for layer in definition.layer:
        if layer.name in ranks:
            compressed.layer.extend(_pair(layer, ranks[layer.name]))
        else:
            compressed.layer.add().CopyFrom(layer)
    return compressed


def _pair(layer, rank: int) -> tuple:
    """The two LayerParameters in the place of one."""
    first, second = type(layer)(), type(layer)()
    first.CopyFrom(layer)
    first.name = f"{layer.name}_L"
    first.top[:] = [first.name]
    del first.param[1:]
    param = first.inner_product_param
    param.num_output, param.bias_term = rank, False
    param.ClearField("bias_filler")
    second.CopyFrom(layer)
    second.name = f"{layer.name}_U"
    second.bottom[:] = first.top
    if layer.inner_product_param.axis != 1:
        second.inner_product_param.axis = -1
    return first, second


def compress(
    definition: str, weights: str, ranks: Mapping[str, int], out_definition: str, out_weights: str
) -> list[Compression]:
    """Compress layers of a test net (prototxt) and its weights (.caffemodel) to the ranks given by name; writes a
    prototxt and a .caffemodel, and returns what became of each layer. Raises CaffeliteError."""
    whole, _ = proto.read_net(definition)
    compressed = compress_definition(whole, ranks, definition)
    net = Net(compressed, phase=TEST)
    file = dict(read_weights(weights))
    lacking = [name for name in ranks if any(blob is None for blob in file.get(name) or [None])]
    if not lacking:
        lacking = [name for name in net.copy_from(weights).missing if name[:-2] not in ranks]
    if lacking:
        raise WeightsError(f"{weights}: is no model of {definition}: it lacks the layers {', '.join(lacking)}")
    done = []
    for name, rank in ranks.items():
        done.append(_fill(net, name, rank, file[name], weights))
        if done[-1].operations >= 1:
            logger.warning("%s: a rank of %d saves no operations", name, rank)
    heading = f"# Made by tools/compress_net.py of {os.path.basename(definition)}: " + ", ".join(
        f"{c.layer} {c.shape[0]} x {c.shape[1]} at rank {c.rank}" for c in done
    )
    with replacing(out_definition) as temporary:
        temporary.write_text(f"{heading}\n{proto.to_text(compressed)}")
    net.save(out_weights)
    _copy_options(definition, out_definition)
    return done


def _copy_options(definition: str, out_definition: str) -> None:
    """Have the options beside a net's prototxt beside that of the compressed one, unless there are others."""
    options, copy = (Path(file).with_name("config.yml") for file in (definition, out_definition))
    if options.is_file() and not copy.exists():
        with replacing(copy) as temporary:
            temporary.write_bytes(options.read_bytes())
    if not options.is_file() and copy.is_file():
        logger.warning("%s: will be the options of the compressed net; the net itself has none beside it", copy)
    elif options.is_file() and copy.read_bytes() != options.read_bytes():
        logger.warning("%s: has other options than %s: test with --cfg %s", copy, options, options)


def _fill(net: Net, name: str, rank: int, blobs: list[np.ndarray], source: str) -> Compression:
    """Give a pair of layers the factors of the weights that the file `source` has for the layer `name`."""
    left, right = net.params[f"{name}_L"], net.params[f"{name}_U"]
    transpose = net.layer_dict[f"{name}_L"].transpose
    shape = right[0].shape[transpose], left[0].shape[not transpose]
    weights = blobs[0].reshape(blobs[0].shape[-2:])  # files of 2014 have four axes
    weights = weights.T if transpose else weights
    biases = [blob.count for blob in right[1:]], [values.size for values in blobs[1:]]
    if weights.shape != shape or biases[0] != biases[1]:
        raise WeightsError(
            f"{source}: layer {name!r}: expected weights {shape} and biases {biases[0]}, "
            f"actual {weights.shape} and {biases[1]}"
        )
    if not np.isfinite(weights).all():
        raise WeightsError(f"{source}: layer {name!r}: its weights are not all finite numbers")
    try:
        u, lower, energy = truncated_svd(weights, rank)
    except ConfigError as e:
        raise ConfigError(f"layer {name!r}: {e}") from None
    left[0].assign(np.ascontiguousarray(lower.T if transpose else lower))
    right[0].assign(np.ascontiguousarray(u.T if transpose else u))
    for blob, values in zip(right[1:], blobs[1:]):
        blob.assign(values.reshape(blob.shape))
    return Compression(name, shape, rank, energy)
