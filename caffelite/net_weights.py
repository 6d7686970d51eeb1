"""How weights find their layers: by layer name, all or nothing, with a report. Source: net.cpp."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import numpy as np

from caffelite.blob import Blob
from caffelite.errors import WeightsError
from caffelite.net_builder import dims
from caffelite.proto import message
from caffelite.proto import weights as weight_files

log = logging.getLogger("caffelite")


@dataclass
class LoadReport:
    """What copying weights by layer name did."""

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

    @property
    def is_of_another_net(self) -> bool:
        """Whether no layer of the file has a name of the net's."""
        return not self.loaded and not self.mismatched

    def __str__(self) -> str:
        lines = [f"weights from {self.source}: {len(self.loaded)} layer(s) loaded"]
        for kind, note in (
            ("missing", "not in the file, left as they are"),
            ("unused", "in the file, not in the net"),
            ("mismatched", "other shapes, skipped"),
        ):
            names = getattr(self, kind)
            if names:
                lines.append(f"  {kind} ({note}): {', '.join(names)}")
        return "\n".join(lines)


def copy_weights(net, source: str, layers, strict: bool, skip_mismatched: bool) -> LoadReport:
    """Copy `layers`, a list of (layer name, arrays), into the net's layers of the same names. Raises WeightsError."""
    report, todo = _match(net, source, layers)
    if report.mismatched and not skip_mismatched:
        raise WeightsError(
            f"{source} does not fit {net.file}: {'; '.join(report.mismatched)}. Weights of another net? To learn such "
            "a layer from scratch rename it in the prototxt, or leave it as it is (--skip-mismatched of a training, or "
            "copy_from(skip_mismatched=True))"
        )
    if strict and (report.missing or report.unused or report.mismatched):
        raise WeightsError(f"strict loading: {report}")
    for blob, values in todo:
        blob.assign(values.reshape(blob.shape))
    if report.is_of_another_net:
        log.warning("%s: has no layer of %s: weights of another net?", source, net.file)
    elif report.missing and net.phase == message("NetState")(phase="TEST").phase:
        log.warning("%s: lacks layers of %s, which stay as they are: %s", source, net.file, ", ".join(report.missing))
    log.info("%s", report)
    return report


def _match(net, source: str, layers) -> tuple[LoadReport, list[tuple[Blob, np.ndarray]]]:
    report, todo = LoadReport(source), []
    mine = net.layer_dict
    shared = {(net._layer_names[p.layer], p.index) for p in net.param_list if p.owner >= 0}
    for name, arrays in layers:
        if name not in mine:
            if arrays:
                report.unused.append(name)
            continue
        blobs = mine[name].blobs
        # Caffe's HDF5 files hold a shared parameter in its owner's layer only
        arrays = [*arrays, *[None] * (len(blobs) - len(arrays))]
        pairs = [(i, b, a) for i, (b, a) in enumerate(zip(blobs, arrays)) if a is not None or (name, i) not in shared]
        wrong = [
            f"layer {name!r}, param {i}: file has {dims(values.shape)}, net {dims(blob.shape)}"
            for i, blob, values in pairs
            if values is not None and not weight_files.shapes_match(values.shape, blob.shape)
        ]
        if len(arrays) > len(blobs) or any(values is None for _, _, values in pairs):
            count = sum(values is not None for values in arrays)
            report.mismatched.append(f"layer {name!r}: file has {count} blob(s), net {len(blobs)}")
        elif wrong:
            report.mismatched += wrong
        elif blobs:
            report.loaded.append(name)
            todo += [(blob, values) for _, blob, values in pairs]
    seen = {name for name, _ in layers}
    owners = {net._layer_names[p.layer] for p in net.learnable_params}
    report.missing += [n for n, layer in mine.items() if layer.blobs and n not in seen and n in owners]
    return report, todo


def share_weights(net, other) -> None:
    """Let `net` use the other net's parameters (the same memory) in layers of the same name. Raises WeightsError."""
    mine = net.layer_dict
    for name, layer in other.layer_dict.items():
        if name not in mine:
            continue
        blobs = mine[name].blobs
        if [b.shape for b in blobs] != [b.shape for b in layer.blobs]:
            raise WeightsError(
                f"cannot share layer {name!r}: shapes {[b.shape for b in blobs]} in {net.file}, "
                f"{[b.shape for b in layer.blobs]} in {other.file}"
            )
        for blob, source in zip(blobs, layer.blobs):
            blob.share_data(source)


def weight_entries(net, write_diff: bool, owned_only: bool = False):
    """Every layer as (LayerParameter without blobs, [(data, diff or None)]), in order: what a weight file holds.

    With `owned_only`, the data of parameters that share another's memory are None.
    """
    owned = {id(p.blob) for p in net.param_list if p.owner < 0}
    for layer in net.layers:
        message = type(layer.param)()
        message.CopyFrom(layer.param)
        del message.blobs[:]
        yield (
            message,
            [
                (None if owned_only and id(b) not in owned else b.read(), b.read_diff() if write_diff else None)
                for b in layer.blobs
            ],
        )
