"""A net: layers built from a NetParameter, run forward and backward, with weights that load and save by layer name.

Faithful to net.cpp of Caffe in the order of building, the need-backward analysis and the sharing of parameters; the
public names are pycaffe's.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

import caffelite.layers  # noqa: F401  (registers every layer type)
from caffelite import graph, proto
from caffelite.backend import random, xp
from caffelite.blob import Blob
from caffelite.errors import CaffeliteError, NetError, WeightsError
from caffelite.layer import Layer, PassState, layer_class
from caffelite.proto import weights as weight_files

TRAIN, TEST = 0, 1
log = logging.getLogger("caffelite")


@dataclass
class Param:
    """One parameter blob of a net: where it stands, who owns its memory, and how the solver treats it."""

    layer: int
    index: int
    name: str
    blob: Blob
    owner: int = -1  # -1, or the index in `Net.param_list` of the parameter whose memory this one shares
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    has_lr_mult: bool = False
    has_decay_mult: bool = False


@dataclass
class LoadReport:
    """What copying weights by layer name did."""

    source: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)

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


class Net:
    """A directed graph of layers and blobs.

    Net(file, phase, level=0, stages=None, weights=None) reads a prototxt; `file` may also be a NetParameter, whose own
    state counts where no phase is given. The older Net(file, weights, phase) works too. A solver gives `state`, a
    NetState that is merged over the file's own. `blobs` and `params` are ordered by creation, `inputs` and `outputs` are lists
    of names. Raises PrototxtError, NetError, LayerError or WeightsError.
    """

    def __init__(self, network_file, *args, phase=None, level=0, stages=None, weights=None, seed=None, state=None):
        args = list(args)
        if args and isinstance(args[0], (str, os.PathLike)):
            weights = args.pop(0)
        if args:
            phase, *rest = args
            level, stages, weights = (rest + [level, stages, weights][len(rest) :])[:3]
        definition = proto.message("NetParameter")()
        if isinstance(network_file, (str, os.PathLike)):
            self.file = os.fspath(network_file)
            message, lines = proto.read_net(self.file)
            definition.CopyFrom(message)
            places = [f"{self.file}:{line}" if line else self.file for line in lines]
        else:
            self.file = network_file.name or "<NetParameter>"
            definition.CopyFrom(network_file)
            places = [self.file] * len(definition.layer)
        if state is not None:
            merged = type(state)(phase=int(phase))
            merged.MergeFrom(definition.state)
            merged.MergeFrom(state)
            definition.state.CopyFrom(merged)
        elif phase is not None:
            definition.state.phase = int(phase)
            definition.state.level = int(level)
        definition.state.stage.extend(stages or [])

        self.phase = definition.state.phase
        self.name = definition.name
        self.pass_state = PassState(random.random_seed() if seed is None else seed)
        self.debug_info = definition.debug_info
        self._hooks = {"before_forward": [], "after_forward": [], "before_backward": [], "after_backward": []}
        _Builder(self, *graph.insert_splits(*graph.filter_net(definition, places))).build()
        if weights is not None:
            self.copy_from(weights)

    # -- what the net is made of ------------------------------------------------------------------------------------

    @property
    def layer_dict(self) -> OrderedDict[str, Layer]:
        """Layers by name."""
        return OrderedDict(zip(self._layer_names, self.layers))

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """Names of the bottoms of every layer."""
        return OrderedDict((n, [self._blob_names[i] for i in b]) for n, b in zip(self._layer_names, self._bottoms))

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """Names of the tops of every layer."""
        return OrderedDict((n, [self._blob_names[i] for i in t]) for n, t in zip(self._layer_names, self._tops))

    @property
    def blob_loss_weights(self) -> OrderedDict[str, float]:
        """The weight of every blob in the objective, by name."""
        return OrderedDict(zip(self._blob_names, self._blob_loss_weights))

    @property
    def learnable_params(self) -> list[Param]:
        """The parameters that own their memory, in Caffe's order."""
        return [p for p in self.param_list if p.owner < 0]

    def _bottom_ids(self, i: int) -> list[int]:
        return list(self._bottoms[i])

    def _top_ids(self, i: int) -> list[int]:
        return list(self._tops[i])

    # -- running ----------------------------------------------------------------------------------------------------

    def forward(self, blobs: Iterable[str] | None = None, start: str | None = None, end: str | None = None, **inputs):
        """Run layers `start`..`end` (names; default all); returns {name: data} of the outputs and of `blobs`.

        Keyword arguments are input blobs: all of them or none. Raises NetError, LayerError.
        """
        first, last = self._layer_range(start, end, 0, len(self.layers) - 1)
        outputs = list(self.outputs) if end is None else self.top_names[end]
        self._feed(inputs)
        self._forward(first, last)
        return {name: self.blobs[name].data for name in dict.fromkeys([*outputs, *(blobs or [])])}

    def _forward(self, first: int, last: int) -> float:
        """Run layers first..last by index; returns the objective: the sum of loss weight times top."""
        terms = []  # read at the end: a GPU then runs on without waiting
        for i in range(first, last + 1):
            layer, bottom, top = self.layers[i], self.bottom_blobs[i], self.top_blobs[i]
            for hook in self._hooks["before_forward"]:
                hook(i)
            with _named(layer):
                layer.reshape(bottom, top)
                layer.forward(bottom, top)
            for blob, weight in zip(top, layer.loss_weights):
                if weight:
                    terms.append(xp.sum(blob.array * blob.gradient, dtype=np.float64))
            if self.debug_info:
                self._log_forward(i)
            for hook in self._hooks["after_forward"]:
                hook(i)
        if last == len(self.layers) - 1:
            self.pass_state.number += 1
        return sum(float(term) for term in terms)

    def backward(self, diffs: Iterable[str] | None = None, start: str | None = None, end: str | None = None, **tops):
        """Run layers `start`..`end` backward (names; default all, from the last); returns {name: diff}.

        The diffs returned are those of the inputs, or of the bottoms of `end`, and of `diffs`. Keyword arguments are
        diffs of output blobs: all of them or none.
        """
        first, last = self._layer_range(end, start, 0, len(self.layers) - 1)
        outputs = list(self.inputs) if end is None else self.bottom_names[end]
        if tops:
            if set(tops) != set(self.outputs):
                raise NetError(f"{self.file}: backward expected diffs of {self.outputs}, actual {sorted(tops)}")
            for name, diff in tops.items():
                self._check_batch(name, diff)
                self.blobs[name].diff[...] = diff
        self._backward(last, first)
        return {name: self.blobs[name].diff for name in dict.fromkeys([*outputs, *(diffs or [])])}

    def _backward(self, last: int, first: int) -> None:
        """Run layers last..first (by index) backward."""
        for i in range(last, first - 1, -1):
            for hook in self._hooks["before_backward"]:
                hook(i)
            if self.layer_need_backward[i]:
                layer = self.layers[i]
                with _named(layer):
                    layer.backward(self.top_blobs[i], self.bottom_need_backward[i], self.bottom_blobs[i])
                if self.debug_info:
                    self._log_backward(i)
            for hook in self._hooks["after_backward"]:
                hook(i)

    def forward_all(self, blobs: Iterable[str] | None = None, **inputs):
        """Run whole arrays of any length through the net, batch by batch; returns {name: stacked data}."""
        collected = OrderedDict((name, []) for name in dict.fromkeys([*self.outputs, *(blobs or [])]))
        for batch, count in self._batches(inputs):
            for name, data in self.forward(blobs=blobs, **batch).items():
                collected[name].extend(data[:count].copy())
        return {name: np.asarray(rows) for name, rows in collected.items()}

    def forward_backward_all(self, blobs=None, diffs=None, **arrays):
        """Run arrays forward and backward, batch by batch. Keywords are inputs and diffs of outputs.

        Returns ({name: stacked data}, {name: stacked diff}).
        """
        inputs = {k: v for k, v in arrays.items() if k in self.inputs}
        top_diffs = {k: v for k, v in arrays.items() if k not in self.inputs}
        all_outputs = {name: [] for name in dict.fromkeys([*self.outputs, *(blobs or [])])}
        all_diffs = {name: [] for name in dict.fromkeys([*self.inputs, *(diffs or [])])}
        batches = zip(self._batches(inputs), self._batches(top_diffs) if top_diffs else _forever(({}, 0)))
        for (batch, count), (batch_diffs, _) in batches:
            for name, data in self.forward(blobs=blobs, **batch).items():
                all_outputs[name].extend(data[:count].copy())
            for name, diff in self.backward(diffs=diffs, **batch_diffs).items():
                all_diffs[name].extend(diff[:count].copy())
        stack = lambda rows: {name: np.asarray(values) for name, values in rows.items()}  # noqa: E731
        return stack(all_outputs), stack(all_diffs)

    def reshape(self) -> None:
        """Reshape all layers from the inputs' present shapes, without computing."""
        for layer, bottom, top in zip(self.layers, self.bottom_blobs, self.top_blobs):
            with _named(layer):
                layer.reshape(bottom, top)

    def clear_param_diffs(self) -> None:
        """Set the diffs of all parameters to zero (those never touched are zero without memory)."""
        for param in self.learnable_params:
            if param.blob.diff_memory.allocated:
                param.blob.gradient[...] = 0

    def before_forward(self, hook) -> None:
        """Call hook(layer index) before each layer's forward pass."""
        self._hooks["before_forward"].append(hook)

    def after_forward(self, hook) -> None:
        """Call hook(layer index) after each layer's forward pass."""
        self._hooks["after_forward"].append(hook)

    def before_backward(self, hook) -> None:
        """Call hook(layer index) before each layer's backward pass."""
        self._hooks["before_backward"].append(hook)

    def after_backward(self, hook) -> None:
        """Call hook(layer index) after each layer's backward pass."""
        self._hooks["after_backward"].append(hook)

    def set_input_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Give the first layer, a MemoryData layer, its images and labels."""
        layer = self.layers[0]
        if not hasattr(layer, "set_arrays"):
            raise NetError(f"{self.file}: set_input_arrays needs a MemoryData layer first, actual {layer.type}")
        layer.set_arrays(data, labels)

    # -- weights ----------------------------------------------------------------------------------------------------

    def copy_from(self, source, strict: bool = False, skip_mismatched: bool = False) -> LoadReport:
        """Copy weights by layer name from a .caffemodel or .caffemodel.h5 file or another net.

        Nothing is copied unless all fits. `strict` makes missing and unused layers an error; `skip_mismatched` skips
        layers whose shapes differ. Raises WeightsError, FileFormatError.
        """
        if isinstance(source, Net):
            name = source.file
            layers = [(n, [b.data for b in layer.blobs]) for n, layer in zip(source._layer_names, source.layers)]
        else:
            name = os.fspath(source)
            layers = weight_files.read_weights(name)
        report, todo = self._match(name, layers)
        if report.mismatched and not skip_mismatched:
            raise WeightsError(
                f"{name} does not fit {self.file}: {'; '.join(report.mismatched)}. To learn such a layer from scratch "
                "rename it in the prototxt; to leave it as it is, skip mismatched layers"
            )
        if strict and (report.missing or report.unused or report.mismatched):
            raise WeightsError(f"strict loading: {report}")
        for blob, values in todo:
            blob.assign(values.reshape(blob.shape))
        log.info("%s", report)
        return report

    def _match(self, name: str, layers) -> tuple[LoadReport, list[tuple[Blob, np.ndarray]]]:
        report, todo = LoadReport(name), []
        mine = self.layer_dict
        for layer_name, arrays in layers:
            if not arrays and not (layer_name in mine and mine[layer_name].blobs):
                continue
            if layer_name not in mine:
                report.unused.append(layer_name)
                continue
            blobs = mine[layer_name].blobs
            if len(blobs) != len(arrays):
                report.mismatched.append(f"layer {layer_name!r}: file has {len(arrays)} blob(s), net {len(blobs)}")
                continue
            wrong = [
                f"layer {layer_name!r}, param {i}: file has {_dims(values.shape)}, net {_dims(blob.shape)}"
                for i, (blob, values) in enumerate(zip(blobs, arrays))
                if not weight_files.shapes_match(values.shape, blob.shape)
            ]
            if wrong:
                report.mismatched += wrong
            else:
                report.loaded.append(layer_name)
                todo += zip(blobs, arrays)
        seen = {layer_name for layer_name, _ in layers}
        owners = {self._layer_names[p.layer] for p in self.learnable_params}
        report.missing += [n for n, layer in mine.items() if layer.blobs and n not in seen and n in owners]
        return report, todo

    def share_with(self, other: Net) -> None:
        """Use the other net's parameters (the same memory) in layers of the same name. Raises WeightsError."""
        mine = self.layer_dict
        for name, layer in other.layer_dict.items():
            if name not in mine:
                continue
            blobs = mine[name].blobs
            if [b.shape for b in blobs] != [b.shape for b in layer.blobs]:
                raise WeightsError(
                    f"cannot share layer {name!r}: shapes {[b.shape for b in blobs]} in {self.file}, "
                    f"{[b.shape for b in layer.blobs]} in {other.file}"
                )
            for blob, source in zip(blobs, layer.blobs):
                blob.share_data(source)

    def save(self, path, write_diff: bool = False) -> None:
        """Write all layers and their parameters as a .caffemodel that Caffe loads."""
        weight_files.write_weights(os.fspath(path), self.name, self._weight_entries(write_diff))

    def save_hdf5(self, path, write_diff: bool = False) -> None:
        """Write the parameters as a .caffemodel.h5 that Caffe loads."""
        weight_files.write_weights_hdf5(os.fspath(path), self._weight_entries(write_diff))

    def load_hdf5(self, path) -> LoadReport:
        """Copy weights by layer name from an HDF5 file."""
        return self.copy_from(path)

    def _weight_entries(self, write_diff: bool):
        for layer in self.layers:
            message = type(layer.param)()
            message.CopyFrom(layer.param)
            del message.blobs[:]
            yield message, [(b.data, b.diff if write_diff else None) for b in layer.blobs]

    # -- details ----------------------------------------------------------------------------------------------------

    def _layer_range(self, start: str | None, end: str | None, first: int, last: int) -> tuple[int, int]:
        for name in (start, end):
            if name is not None and name not in self._layer_names:
                raise NetError(f"{self.file} has no layer {name!r}; its layers: {', '.join(self._layer_names)}")
        if start is not None:
            first = self._layer_names.index(start)
        if end is not None:
            last = self._layer_names.index(end)
        return first, last

    def _feed(self, inputs: dict[str, np.ndarray]) -> None:
        if inputs and set(inputs) != set(self.inputs):
            raise NetError(f"{self.file}: forward expected the inputs {self.inputs}, actual {sorted(inputs)}")
        for name, values in inputs.items():
            self._check_batch(name, values)
            self.blobs[name].assign(values)

    def _check_batch(self, name: str, values: np.ndarray) -> None:
        want = self.blobs[name].shape
        if np.shape(values) != want:
            raise NetError(
                f"{self.file}: blob {name!r} has shape {want}, actual array {np.shape(values)}; "
                f"call net.blobs[{name!r}].reshape(*array.shape) first"
            )

    def _batches(self, arrays: dict[str, np.ndarray]):
        """Cut arrays into the net's batch size, padding the last batch with zeros; yields (batch, rows that count)."""
        total = {len(v) for v in arrays.values()}
        if len(total) != 1:
            raise NetError(f"{self.file}: expected arrays of one length, actual {sorted(total) or 'none'}")
        size = self.blobs[next(iter(arrays))].shape[0]
        for at in range(0, total.pop(), size):
            cut = {k: np.asarray(v[at : at + size], np.float32) for k, v in arrays.items()}
            count = len(next(iter(cut.values())))
            yield {k: np.concatenate([v, np.zeros((size - count, *v.shape[1:]), np.float32)]) for k, v in cut.items()}, count

    def _log_forward(self, i: int) -> None:
        for k in self._tops[i]:
            self._log_mean("Forward", i, f"top blob {self._blob_names[k]}", "data", self._blobs[k].data)
        for k, blob in enumerate(self.layers[i].blobs):
            self._log_mean("Forward", i, f"param blob {k}", "data", blob.data)

    def _log_backward(self, i: int) -> None:
        for k, need in zip(self._bottoms[i], self.bottom_need_backward[i]):
            if need:
                self._log_mean("Backward", i, f"bottom blob {self._blob_names[k]}", "diff", self._blobs[k].diff)
        for k, blob in enumerate(self.layers[i].blobs):
            if self.layers[i].param_propagate_down[k]:
                self._log_mean("Backward", i, f"param blob {k}", "diff", blob.diff)

    def _log_mean(self, direction: str, i: int, what: str, kind: str, values: np.ndarray) -> None:
        mean = float(np.abs(values).mean(dtype=np.float64)) if values.size else 0.0
        log.info("    [%s] Layer %s, %s %s: %.6g", direction, self._layer_names[i], what, kind, mean)


class _Builder:
    """Builds a net's layers, blobs and parameters in Caffe's order."""

    def __init__(self, net: Net, definition, places: list[str]):
        self.net, self.definition, self.places = net, definition, places
        self.blob_index: dict[str, int] = {}
        self.available: set[str] = set()
        self.blob_need_backward: list[bool] = []
        self.param_names: dict[str, int] = {}
        net.layers, net._layer_names = [], []
        net._blobs, net._blob_names, net._blob_loss_weights = [], [], []
        net._bottoms, net._tops, net.bottom_blobs, net.top_blobs = [], [], [], []
        net.bottom_need_backward, net.layer_need_backward = [], []
        net.param_list, net.inputs = [], []

    def build(self) -> None:
        net = self.net
        for i, param in enumerate(self.definition.layer):
            self.add_layer(i, param)
        self.prune_backward()
        if self.definition.force_backward:
            self.force_backward()
        net.outputs = sorted(self.available)
        for param in net.param_list:
            if param.owner >= 0:
                param.blob.share_data(net.param_list[param.owner].blob)
                param.blob.share_diff(net.param_list[param.owner].blob)
        net.blobs = OrderedDict(zip(net._blob_names, net._blobs))
        net.params = OrderedDict((n, layer.blobs) for n, layer in zip(net._layer_names, net.layers) if layer.blobs)

    def add_layer(self, i: int, param) -> None:
        net, place = self.net, self.places[i]
        if not param.HasField("phase"):
            param.phase = net.phase
        try:
            kind = layer_class(param.type)
        except NetError as e:
            raise NetError(f"{place}: layer {param.name!r}: {e}") from None
        make = getattr(kind, "create", kind)
        layer: Layer = make(param, param.phase, net.pass_state, place)
        if param.propagate_down:
            layer.expect(
                len(param.propagate_down) == len(param.bottom),
                f"propagate_down must be given 0 or {len(param.bottom)} times (once per bottom), "
                f"actual {len(param.propagate_down)}",
            )
        net.layers.append(layer)
        net._layer_names.append(param.name)
        bottoms = [self.take_bottom(layer, name) for name in param.bottom]
        tops = [self.add_top(layer, j, name) for j, name in enumerate(param.top)]
        if param.type == "Input":
            net.inputs += param.top
        if layer.is_loss:
            while len(tops) < (layer.exact_tops or layer.min_tops or 0):
                tops.append(self.new_blob("(automatic)"))
            if not param.loss_weight:
                param.loss_weight.append(1.0)
        net._bottoms.append(bottoms)
        net._tops.append(tops)
        bottom, top = [net._blobs[b] for b in bottoms], [net._blobs[t] for t in tops]
        net.bottom_blobs.append(bottom)
        net.top_blobs.append(top)
        net.bottom_need_backward.append(
            list(param.propagate_down) if param.propagate_down else [self.blob_need_backward[b] for b in bottoms]
        )
        layer.check_counts(bottom, top)
        with _named(layer):
            layer.setup(bottom, top)
            layer.reshape(bottom, top)
        self.set_loss_weights(layer, tops)
        need_backward = any(self.blob_need_backward[b] for b in bottoms) | self.add_params(i, layer)
        net.layer_need_backward.append(need_backward)
        if need_backward:
            for t in tops:
                self.blob_need_backward[t] = True

    def take_bottom(self, layer: Layer, name: str) -> int:
        if name not in self.available:
            raise layer.error(f"bottom blob {name!r} is unknown here, or used up by a layer that computed in place")
        self.available.discard(name)
        return self.blob_index[name]

    def add_top(self, layer: Layer, j: int, name: str) -> int:
        self.available.add(name)
        if j < len(layer.param.bottom) and layer.param.bottom[j] == name:
            return self.blob_index[name]
        if name in self.blob_index:
            raise layer.error(f"top blob {name!r} is made by another layer already: rename one of the two")
        self.blob_index[name] = self.new_blob(name)
        return self.blob_index[name]

    def new_blob(self, name: str) -> int:
        self.net._blobs.append(Blob())
        self.net._blob_names.append(name)
        self.net._blob_loss_weights.append(0.0)
        self.blob_need_backward.append(False)
        return len(self.net._blobs) - 1

    def set_loss_weights(self, layer: Layer, tops: list[int]) -> None:
        weights = list(layer.param.loss_weight)
        layer.expect(
            not weights or len(weights) == len(tops),
            f"loss_weight must be given once per top or not at all, actual {len(weights)} for {len(tops)} top(s)",
        )
        layer.loss_weights = weights or [0.0] * len(tops)
        for t, weight in zip(tops, layer.loss_weights):
            self.net._blob_loss_weights[t] = weight
            if weight:
                self.net._blobs[t].diff[...] = weight

    def add_params(self, i: int, layer: Layer) -> bool:
        """Register the layer's parameter blobs; returns whether any of them learns."""
        specs = list(layer.param.param)
        layer.expect(
            len(specs) <= len(layer.blobs),
            f"{len(specs)} `param` entries, but the layer has {len(layer.blobs)} parameter blob(s)",
        )
        default = proto.message("ParamSpec")()
        specs += [default] * (len(layer.blobs) - len(specs))
        layer.param_propagate_down = [spec.lr_mult != 0 for spec in specs]
        for index, (spec, blob) in enumerate(zip(specs, layer.blobs)):
            param = Param(i, index, spec.name, blob)
            if spec.name in self.param_names:
                self.share_param(layer, spec, param)
            else:
                param.lr_mult, param.decay_mult = spec.lr_mult, spec.decay_mult
                param.has_lr_mult, param.has_decay_mult = spec.HasField("lr_mult"), spec.HasField("decay_mult")
                if spec.name:
                    self.param_names[spec.name] = len(self.net.param_list)
            self.net.param_list.append(param)
        return any(layer.param_propagate_down)

    def share_param(self, layer: Layer, spec, param: Param) -> None:
        param.owner = self.param_names[spec.name]
        owner = self.net.param_list[param.owner]
        permissive = proto.message("ParamSpec").PERMISSIVE
        if spec.share_mode == permissive and spec.HasField("share_mode"):
            fits = param.blob.count == owner.blob.count
        else:
            fits = param.blob.shape == owner.blob.shape
        layer.expect(
            fits,
            f"shared param {spec.name!r}: shape {_dims(param.blob.shape)} here, {_dims(owner.blob.shape)} in its owner, "
            f"layer {self.net._layer_names[owner.layer]!r} (share_mode PERMISSIVE allows other shapes of one count)",
        )
        for attribute in ("lr_mult", "decay_mult"):
            if spec.HasField(attribute):
                value = getattr(spec, attribute)
                layer.expect(
                    not getattr(owner, f"has_{attribute}") or getattr(owner, attribute) == value,
                    f"shared param {spec.name!r}: {attribute} {value} here, {getattr(owner, attribute)} in "
                    f"layer {self.net._layer_names[owner.layer]!r}",
                )
                setattr(owner, attribute, value)
                setattr(owner, f"has_{attribute}", True)
        param.lr_mult, param.decay_mult = owner.lr_mult, owner.decay_mult

    def prune_backward(self) -> None:
        """Take back the need for backward where nothing flows into the loss or nothing flows further down."""
        net = self.net
        under_loss, skip = set(), set()
        for i in reversed(range(len(net.layers))):
            tops = [net._blob_names[t] for t in net._tops[i]]
            contributes = any(net.layers[i].loss_weights) or not under_loss.isdisjoint(tops)
            if net.layer_need_backward[i] and skip.issuperset(tops):
                net.layer_need_backward[i] = False
                net.bottom_need_backward[i] = [False] * len(net._bottoms[i])
            if not contributes:
                net.layer_need_backward[i] = False
                net.bottom_need_backward[i] = [False] * len(net._bottoms[i])
            for b, need in zip(net._bottoms[i], net.bottom_need_backward[i]):
                if contributes:
                    under_loss.add(net._blob_names[b])
                if not need:
                    skip.add(net._blob_names[b])

    def force_backward(self) -> None:
        net = self.net
        for i, layer in enumerate(net.layers):
            net.layer_need_backward[i] = True
            net.bottom_need_backward[i] = [
                need or layer.allow_force_backward(j) for j, need in enumerate(net.bottom_need_backward[i])
            ]
            layer.param_propagate_down = [True] * len(layer.blobs)


@contextlib.contextmanager
def _named(layer: Layer):
    """Let errors of the engine name the layer they come from."""
    try:
        yield
    except NetError as e:
        if layer.name and repr(layer.name) in str(e):
            raise
        raise layer.error(str(e)) from e
    except CaffeliteError as e:
        raise layer.error(str(e)) from e
    except MemoryError as e:
        raise layer.error(f"out of memory ({e}): use smaller images, fewer RoIs or a smaller batch") from e


def _dims(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _forever(value):
    while True:
        yield value
