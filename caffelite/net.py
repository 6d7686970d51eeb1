"""A net: layers built from a NetParameter that run forward and backward. The public names are pycaffe's.

Source: net.cpp and pycaffe.py of Caffe. How the graph is built stands in net_builder.py, how weights find their layers
in net_weights.py.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

import caffelite.layers  # noqa: F401  (registers every layer type)
from caffelite import backend, graph, proto
from caffelite.backend import random, xp
from caffelite.errors import NetError
from caffelite.layer import TEST, TRAIN, Layer, PassState
from caffelite.net_builder import Builder, Param, named
from caffelite.net_weights import LoadReport, copy_weights, share_weights, weight_entries
from caffelite.proto import weights as weight_files

log = logging.getLogger("caffelite")


class Net:
    """A directed graph of layers and blobs.

    Net(file, phase, level=0, stages=None, weights=None) reads a prototxt; `file` may also be a NetParameter, whose own
    state counts where no phase is given. The older Net(file, weights, phase) works too. A solver gives `state`, a
    NetState that is merged over the file's own. `blobs` and `params` are ordered by creation, `inputs` and `outputs`
    are lists of names. Raises PrototxtError, NetError, LayerError or WeightsError.
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
        if phase is not None and phase not in (TRAIN, TEST):
            raise NetError(f"{self.file}: phase: expected caffe.TRAIN or caffe.TEST, actual {phase!r}")
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
        kept = graph.filter_net(definition, places)
        Builder(self, *graph.insert_splits(*kept, definition)).build()
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
        outputs = self._wanted(self.outputs if end is None else self.top_names[end], blobs)
        self._feed(inputs)
        self._forward(first, last)
        return {name: self.blobs[name].read() for name in outputs}

    def _forward(self, first: int, last: int) -> float:
        """Run layers first..last by index; returns the objective: the sum of loss weight times top."""
        return float(self.launch(first, last))

    def launch(self, first: int = 0, last: int | None = None):
        """As `_forward`, but on a GPU nothing waits: the objective is an array of one number that it has still to
        compute."""
        last, terms = len(self.layers) - 1 if last is None else last, []
        watched = self.debug_info or self._hooks["before_forward"] or self._hooks["after_forward"]
        at_once, done = backend.on_gpu() and not watched, None  # done: a ReLU that the layer before it did
        for i in range(first, last + 1):
            layer, bottom, top = self.layers[i], self.bottom_blobs[i], self.top_blobs[i]
            for hook in self._hooks["before_forward"]:
                hook(i)
            with named(layer):
                layer.reshape(bottom, top)
                if at_once and i < last and self._rectifies(i):
                    done = i + 1
                    layer.forward(bottom, top, self.layers[done].negative_slope)
                elif i != done:
                    layer.forward(bottom, top)
            for blob, weight in zip(top, layer.loss_weights):
                if weight:
                    weights = blob.read_diff()
                    factor = weights.item() if blob.count == 1 else xp.asarray(weights)
                    terms.append(xp.sum(blob.array * factor, dtype=np.float64))
            if self.debug_info:
                self._log_forward(i)
            for hook in self._hooks["after_forward"]:
                hook(i)
        if last == len(self.layers) - 1:
            self.pass_state.number += 1
        return sum(terms)

    def _rectifies(self, i: int) -> bool:
        """Whether layer i does the ReLU that follows; not where either has a `forward` that may do something else."""
        return self._rectified[i] and all(layer.is_plain() for layer in self.layers[i : i + 2])

    def backward(self, diffs: Iterable[str] | None = None, start: str | None = None, end: str | None = None, **tops):
        """Run layers `start`..`end` backward (names; default all, from the last); returns {name: diff}.

        The diffs returned are those of the inputs, or of the bottoms of `end`, and of `diffs`. Keyword arguments are
        diffs of output blobs: all of them or none.
        """
        first, last = self._layer_range(end, start, 0, len(self.layers) - 1)
        outputs = self._wanted(self.inputs if end is None else self.bottom_names[end], diffs)
        if tops:
            if set(tops) != set(self.outputs):
                raise NetError(f"{self.file}: backward expected diffs of {self.outputs}, actual {sorted(tops)}")
            for name, diff in tops.items():
                self._check_batch(name, diff)
                self.blobs[name].diff[...] = diff
        self._backward(last, first)
        return {name: self.blobs[name].read_diff() for name in outputs}

    def _backward(self, last: int, first: int) -> None:
        """Run layers last..first (by index) backward."""
        for i in range(last, first - 1, -1):
            for hook in self._hooks["before_backward"]:
                hook(i)
            if self.layer_need_backward[i]:
                layer = self.layers[i]
                with named(layer):
                    layer.backward(self.top_blobs[i], self.bottom_need_backward[i], self.bottom_blobs[i])
                if self.debug_info:
                    self._log_backward(i)
            for hook in self._hooks["after_backward"]:
                hook(i)
        if self.debug_info and (first, last) == (0, len(self.layers) - 1):
            self._log_params()

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
        batches = zip(self._batches(inputs), self._batches(top_diffs) if top_diffs else itertools.repeat(({}, 0)))
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
            with named(layer):
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
            layers = [(n, [b.read() for b in layer.blobs]) for n, layer in zip(source._layer_names, source.layers)]
            return copy_weights(self, source.file, layers, strict, skip_mismatched)
        path = os.fspath(source)
        return copy_weights(self, path, weight_files.read_weights(path), strict, skip_mismatched)

    def share_with(self, other: Net) -> None:
        """Use the other net's parameters (the same memory) in layers of the same name. Raises WeightsError."""
        share_weights(self, other)

    def save(self, path, write_diff: bool = False) -> None:
        """Write all layers and their parameters as a .caffemodel that Caffe loads."""
        weight_files.write_weights(os.fspath(path), self.name, weight_entries(self, write_diff))

    def save_hdf5(self, path, write_diff: bool = False) -> None:
        """Write the parameters as a .caffemodel.h5 that Caffe loads."""
        weight_files.write_weights_hdf5(os.fspath(path), weight_entries(self, write_diff, owned_only=True))

    def load_hdf5(self, path) -> LoadReport:
        """Copy weights by layer name from an HDF5 file."""
        return self.copy_from(path)

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

    def _wanted(self, names: Iterable[str], more: Iterable[str] | None) -> list[str]:
        """Names of blobs, each once. Raises NetError for one that the net lacks."""
        wanted = list(dict.fromkeys([*names, *(more or [])]))
        unknown = [name for name in wanted if name not in self.blobs]
        if unknown:
            raise NetError(f"{self.file} has no blob {unknown[0]!r}; its blobs: {', '.join(self.blobs)}")
        return wanted

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
            yield (
                {k: np.concatenate([v, np.zeros((size - count, *v.shape[1:]), np.float32)]) for k, v in cut.items()},
                count,
            )

    def _log_forward(self, i: int) -> None:
        for k in self._tops[i]:
            self._log_mean("Forward", i, f"top blob {self._blob_names[k]}", "data", self._blobs[k].read())
        for k, blob in enumerate(self.layers[i].blobs):
            self._log_mean("Forward", i, f"param blob {k}", "data", blob.read())

    def _log_backward(self, i: int) -> None:
        for k, need in zip(self._bottoms[i], self.bottom_need_backward[i]):
            if need:
                self._log_mean("Backward", i, f"bottom blob {self._blob_names[k]}", "diff", self._blobs[k].read_diff())
        for k, blob in enumerate(self.layers[i].blobs):
            if self.layers[i].param_propagate_down[k]:
                self._log_mean("Backward", i, f"param blob {k}", "diff", blob.read_diff())

    def _log_params(self) -> None:
        blobs = [p.blob for p in self.learnable_params]
        data, diff = [b.read() for b in blobs], [b.read_diff() for b in blobs if b.diff_memory.allocated]
        l1 = (sum(float(np.abs(values).sum(dtype=np.float64)) for values in of) for of in (data, diff))
        l2 = (math.sqrt(sum(float(np.square(values, dtype=np.float64).sum()) for values in of)) for of in (data, diff))
        text = "    [Backward] All net params (data, diff): L1 norm = (%.6g, %.6g); L2 norm = (%.6g, %.6g)"
        log.info(text, *l1, *l2)

    def _log_mean(self, direction: str, i: int, what: str, kind: str, values: np.ndarray) -> None:
        mean = float(np.abs(values).mean(dtype=np.float64)) if values.size else 0.0
        log.info("    [%s] Layer %s, %s %s: %.6g", direction, self._layer_names[i], what, kind, mean)
