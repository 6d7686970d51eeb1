"""How a net is made of a NetParameter: layers, blobs, parameters, and who needs a backward pass.

Source: Net::Init of net.cpp of Caffe, in its order.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass

from caffelite import proto
from caffelite.blob import Blob
from caffelite.errors import CaffeliteError, NetError
from caffelite.layer import Layer, layer_class
from caffelite.layers.activation import ReLU

GPU_LIBRARIES = ("cupy", "cupy_backends")  # whose exceptions are of the driver, of CUDA or of its libraries
SMALLER = "use smaller images, fewer RoIs or a smaller batch"


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


class Builder:
    """Builds what `net` is made of from a filtered NetParameter with splits and its layers' places."""

    def __init__(self, net, definition, places: list[str]):
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
        net._rectified = [self.rectified(i) for i in range(len(net.layers))]
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
        with named(layer):
            layer.setup(bottom, top)
            layer.reshape(bottom, top)
        self.set_loss_weights(layer, tops)
        need_backward = any(self.blob_need_backward[b] for b in bottoms) | self.add_params(i, layer)
        net.layer_need_backward.append(need_backward)
        if need_backward:
            for t in tops:
                self.blob_need_backward[t] = True

    def rectified(self, i: int) -> bool:
        """Whether the layer behind layer i, which is none itself, is a ReLU in its place."""
        layers, tops = self.net.layers, self.net._tops
        return (
            i + 1 < len(layers)
            and isinstance(layers[i + 1], ReLU)
            and not isinstance(layers[i], ReLU)
            and len(tops[i]) == 1
            and tops[i] == self.net._bottoms[i + 1] == tops[i + 1]
        )

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
                self.net._blobs[t].fill_diff(weight)

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
            f"shared param {spec.name!r}: shape {dims(param.blob.shape)} here, {dims(owner.blob.shape)} in its owner, "
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
def named(layer: Layer):
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
        raise layer.error(f"out of memory ({e}): {SMALLER}") from e
    except Exception as e:
        if type(e).__module__.split(".")[0] not in GPU_LIBRARIES:
            raise
        raise layer.error(
            f"the GPU reports {e}; if its memory is full: {SMALLER}; it may report late what an earlier layer did, "
            "which the environment variable CUDA_LAUNCH_BLOCKING=1 prevents"
        ) from e


def dims(shape: tuple[int, ...]) -> str:
    """A shape for people: 5 x 36, or scalar."""
    return " x ".join(map(str, shape)) or "scalar"
