"""The Layer base class and the registry of layer types."""

from __future__ import annotations

import difflib

from caffelite import fillers
from caffelite.backend import random
from caffelite.blob import Blob
from caffelite.errors import LayerError, NetError

TRAIN, TEST = 0, 1  # phases
_registry: dict[str, type[Layer]] = {}
ABSENT = {
    "WindowData": "the windows that R-CNN cuts from images are not read here; Fast R-CNN's RoIDataLayer reads RoIs",
    "RNN": "of Caffe's recurrent layers LSTM is here",
    "LSTMUnit": "the layer LSTM, which has it inside, is here",
    "ROIAlign": "Mask R-CNN is not here yet; Fast R-CNN's ROIPooling is, which rounds to whole cells",
}
"""Types that are known and left out: why, and what there is."""


def register(*names: str):
    """Class decorator: make a layer class known to prototxts under these type names."""

    def add(layer: type[Layer]) -> type[Layer]:
        if not (isinstance(layer, type) and issubclass(layer, Layer)):
            raise NetError(
                f"register({', '.join(map(repr, names))}): expected a class derived from Layer, actual {layer}"
            )
        for name in names:
            _registry[name] = layer
        return layer

    return add


def layer_type_list() -> list[str]:
    """Names of all known layer types, sorted (pycaffe's name)."""
    return sorted(_registry)


def layer_class(name: str) -> type[Layer]:
    """The class registered for a type name. Raises NetError naming the nearest known type."""
    if name not in _registry:
        if name in ABSENT:
            raise NetError(f"layer type {name!r} is not part of caffelite: {ABSENT[name]}")
        near = difflib.get_close_matches(name, _registry, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(layer_type_list())
        raise NetError(
            f"unknown layer type {name!r}{hint} (a layer of your own is known once its module is imported; known: "
            f"{known})"
        )
    return _registry[name]


def registered_classes() -> set[type[Layer]]:
    """The classes of all known layer types."""
    return set(_registry.values())


class BlobVec(list):
    """The parameter blobs of a layer."""

    def add_blob(self, *shape: int) -> Blob:
        """Append a new blob of zeros and return it; no dimensions make a scalar."""
        blob = Blob()
        blob.reshape(*shape)
        self.append(blob)
        return blob


class PassState:
    """What a net's layers know of the run: the seed, and the number of forward passes done before this one."""

    def __init__(self, seed: int):
        self.seed = seed
        self.number = 0


class Layer:
    """One node of a net: `setup` once, `reshape` before every forward, then `forward` and `backward`.

    Subclass it for a layer of your own; a prototxt names it by `type: "Python"` with module and layer, or by the type
    under which it was registered. Class attributes state how many bottoms and tops it takes; `check_counts` holds a
    net to them. `backward` must overwrite the gradient of each bottom i with propagate_down[i], and add to the
    gradients of `self.blobs` for which `self.param_propagate_down` is true.
    """

    exact_bottoms: int | None = None
    min_bottoms: int | None = None
    max_bottoms: int | None = None
    exact_tops: int | None = None
    min_tops: int | None = None
    max_tops: int | None = None
    same_bottoms_and_tops = False
    in_place = True  # whether a top may be the bottom of its place
    is_loss = False  # its first top has loss weight 1 unless the prototxt says otherwise; tops it lacks are made up

    def __init__(self, param, phase: int, pass_state: PassState | None = None, where: str = ""):
        self.param = param
        self.phase = phase
        self.name = param.name
        self.type = param.type
        self.where = where  # "file:line" of the layer in its prototxt
        self.param_str = param.python_param.param_str
        self.pass_state = pass_state or PassState(random.random_seed())
        self.blobs = BlobVec()
        self.loss_weights: list[float] = []
        self.param_propagate_down: list[bool] = []

    def is_plain(self) -> bool:
        """Whether `forward` is the one that the layer's own class names `fused_forward`: a net may run it together with
        an in-place ReLU behind it, whose negative slope it then gets as a third argument. So it is not where a class
        that is derived from it, or somebody at run time, has put another in its place."""
        kind = type(self)
        return "forward" not in vars(self) and kind.forward is vars(kind).get("fused_forward")

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Read and check the parameters, create `self.blobs`. Runs once, before the first reshape."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Give the tops their shapes."""
        raise self.error(f"{type(self).__name__} has no reshape")

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        """Compute the tops from the bottoms."""
        raise self.error(f"{type(self).__name__} has no forward")

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """Compute gradients from the tops' gradients."""
        if any(propagate_down) or any(self.param_propagate_down[: len(self.blobs)]):
            raise self.error("this type of layer has no backward pass")

    def allow_force_backward(self, bottom_index: int) -> bool:
        """Whether `force_backward` may ask for the gradient of this bottom."""
        return not (self.is_loss and bottom_index == 1)

    def error(self, message: str) -> LayerError:
        """An error that names this layer and its place in the prototxt."""
        place = f"{self.where}: " if self.where else ""
        blobs = f" [bottom: {', '.join(self.param.bottom) or '-'}; top: {', '.join(self.param.top) or '-'}]"
        return LayerError(f"{place}layer {self.name!r} ({self.type}): {message}{blobs}")

    def expect(self, condition: bool, message: str) -> None:
        """Raise `error(message)` unless the condition holds."""
        if not condition:
            raise self.error(message)

    def axis(self, blob: Blob, index: int) -> int:
        """A possibly negative axis of a bottom as a number from 0; a clear error when out of range."""
        try:
            return blob.axis(index)
        except IndexError as e:
            raise self.error(str(e)) from None

    def add_param(self, shape: tuple[int, ...], filler) -> Blob:
        """Append a parameter blob that `filler` (a FillerParameter) fills when it is first touched."""
        blob = self.blobs.add_blob(*shape)
        try:
            fill = fillers.make(filler)
            fill.check(shape)
        except ValueError as e:
            raise self.error(str(e)) from None
        stream = (self.pass_state.seed, self.name, "param", len(self.blobs) - 1)
        blob.fill_later(lambda data: fill(data, random.generator(*stream)))
        return blob

    def random(self) -> random.np.random.Generator:
        """A generator for this layer and pass: the same on every device, and again after a resume."""
        return random.generator(self.pass_state.seed, self.name, self.pass_state.number)

    def check_counts(self, bottom: list, top: list) -> None:
        """Raise LayerError where the numbers of bottoms or tops, or a top that is a bottom, are not for this type."""
        for kind, n, exact, least, most in (
            ("bottom", len(bottom), self.exact_bottoms, self.min_bottoms, self.max_bottoms),
            ("top", len(top), self.exact_tops, self.min_tops, self.max_tops),
        ):
            if exact is not None and n != exact:
                raise self.error(f"expected exactly {exact} {kind} blob(s), actual {n}")
            if least is not None and n < least:
                raise self.error(f"expected at least {least} {kind} blob(s), actual {n}")
            if most is not None and n > most:
                raise self.error(f"expected at most {most} {kind} blob(s), actual {n}")
        if self.same_bottoms_and_tops and len(bottom) != len(top):
            raise self.error(f"expected one top per bottom, actual {len(bottom)} bottom(s) and {len(top)} top(s)")
        if not self.in_place and any(blob is other for blob in bottom for other in top):
            raise self.error(f"{self.type} does not run in place: give its top another name")
