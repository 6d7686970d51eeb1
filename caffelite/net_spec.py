"""Nets written in Python: layers are calls, blobs are their results, and `to_proto` gives the NetParameter.

    from caffelite import layers as L, params as P

    n = NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 224, 224]))
    n.conv1 = L.Convolution(n.data, num_output=64, kernel_size=3, pad=1, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
    print(n.to_proto())

Names of layers and their options come from the schema, so every layer type works. The interface is pycaffe's
(python/caffe/net_spec.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache

from caffelite.errors import NetError
from caffelite.proto import message
from caffelite.proto.schema import nearest

_SUFFIX = "_param"


@cache
def param_name_dict() -> dict[str, str]:
    """Layer types and the names of their parameter fields without `_param`: {"InnerProduct": "inner_product", ...}."""
    fields = [f for f in message("LayerParameter").DESCRIPTOR.fields if f.name.endswith(_SUFFIX)]
    return {f.message_type.name.removesuffix("Parameter"): f.name.removesuffix(_SUFFIX) for f in fields}


def to_proto(*tops: Top):
    """The NetParameter of all layers that the given tops need; layers and blobs without a name get a counted one."""
    spelling = _Spelling({})
    for top in tops:
        spelling.add(top.fn)
    return spelling.net()


def assign_proto(proto, name: str, value) -> None:
    """Set a field from plain Python values: lists fill repeated fields, dicts fill messages, recursively.

    A single value for a repeated field counts as a list of one. Raises NetError for an unknown field or a wrong type.
    """
    descriptor = proto.DESCRIPTOR
    if name not in descriptor.fields_by_name:
        advice = nearest(name, descriptor.fields_by_name)
        raise NetError(f"{descriptor.name} has no field {name!r}; {advice}".rstrip("; "))
    try:
        target = getattr(proto, name)
        if hasattr(target, "extend"):
            values = list(value) if isinstance(value, (list, tuple)) else [value]
            if descriptor.fields_by_name[name].message_type:
                for item in values:
                    _assign_message(target.add(), item)
            else:
                target.extend(values)
        elif descriptor.fields_by_name[name].message_type:
            _assign_message(target, value)
        else:
            setattr(proto, name, value)
    except (TypeError, ValueError) as e:
        raise NetError(f"{descriptor.name}.{name} cannot be {value!r}: {e}") from None


def _assign_message(proto, values) -> None:
    if not isinstance(values, Mapping):
        proto.CopyFrom(values)
        return
    for name, value in values.items():
        assign_proto(proto, name, value)


class Top:
    """One output blob of a layer: top number `n` of the Function `fn`."""

    def __init__(self, fn: Function, n: int):
        self.fn = fn
        self.n = n

    def to_proto(self):
        """The NetParameter of all layers that this top needs."""
        return to_proto(self)


class Function:
    """A layer: its type, its inputs (Tops of other layers) and its parameters.

    `ntop` (default 1) says how many tops it has, `in_place` that they are its inputs. Raises TypeError for an input
    that is not a Top.
    """

    def __init__(self, type_name: str, inputs: tuple[Top, ...], params: dict):
        for i, item in enumerate(inputs):
            if not isinstance(item, Top):
                raise TypeError(f"{type_name} input {i} is not a Top (type is {type(item)})")
        self.type_name = type_name
        self.inputs = tuple(inputs)
        self.params = dict(params)
        self.ntop = self.params.pop("ntop", 1)
        self.in_place = self.params.pop("in_place", False)
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def to_layer(self, name: str, bottoms: list[str], tops: list[str]):
        """The LayerParameter under these names. Raises NetError for a parameter that the type does not know."""
        layer = message("LayerParameter")(name=name, type=self.type_name, bottom=bottoms, top=tops)
        common = layer.DESCRIPTOR.fields_by_name
        field = param_name_dict().get(self.type_name, "") + _SUFFIX
        own = common[field].message_type.fields_by_name if field in common else {}
        for key, value in self.params.items():
            if key not in own and key not in common:
                advice = nearest(key, [*own, *common])
                raise NetError(f"layer {name!r}: {self.type_name} has no parameter {key!r}; {advice}".rstrip("; "))
            try:
                assign_proto(getattr(layer, field) if key in own else layer, key, value)
            except NetError as e:
                raise NetError(f"layer {name!r} ({self.type_name}): {e}") from None
        return layer


class _Spelling:
    """Functions written out as LayerParameters, each behind those it depends on, with names for all."""

    def __init__(self, names: dict[Top | Function, str]):
        self.names = dict(names)
        self.counts = Counter()
        self.layers = {}

    def name(self, item: Top | Function, type_name: str) -> str:
        if item not in self.names:
            self.counts[type_name] += 1
            self.names[item] = f"{type_name}{self.counts[type_name]}"
        return self.names[item]

    def add(self, fn: Function) -> None:
        pending = [fn]  # a stack of our own: very deep nets would exhaust Python's
        while pending:
            fn = pending[-1]
            missing = next((top.fn for top in fn.inputs if top.fn not in self.layers), None)
            if missing:
                pending.append(missing)
                continue
            pending.pop()
            if fn not in self.layers:
                self.layers[fn] = self.spell(fn)

    def spell(self, fn: Function):
        bottoms = [self.layers[top.fn].top[top.n] for top in fn.inputs]
        tops = bottoms if fn.in_place else [self.name(top, fn.type_name) for top in fn.tops]
        return fn.to_layer(self.name(fn.tops[0] if fn.tops else fn, fn.type_name), bottoms, tops)

    def net(self):
        return message("NetParameter")(layer=self.layers.values())


class NetSpec:
    """A set of named tops: assign them as attributes or items, then `to_proto` writes the net with those names.

    A layer is named after its first top; a layer without tops (ntop=0) is assigned itself.
    """

    def __init__(self):
        super().__setattr__("tops", {})

    def __setattr__(self, name: str, value: Top | Function) -> None:
        if not isinstance(value, (Top, Function)):
            hint = ": unpack the tops of a layer with ntop > 1" if isinstance(value, tuple) else ""
            raise TypeError(f"{name} must be a Top or a layer without tops, not {type(value)}{hint}")
        self.tops[name] = value

    def __getattr__(self, name: str) -> Top | Function:
        try:
            return self.tops[name]
        except KeyError:
            raise AttributeError(f"the NetSpec has no top {name!r}; {nearest(name, self.tops)}") from None

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    def __setitem__(self, name: str, value: Top | Function) -> None:
        self.__setattr__(name, value)

    def __getitem__(self, name: str) -> Top | Function:
        return self.tops[name]

    def __delitem__(self, name: str) -> None:
        del self.tops[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tops

    def keys(self) -> list[str]:
        """Names of all tops, in the order of their assignment (as in the SSD fork)."""
        return list(self.tops)

    def vals(self) -> list[Top | Function]:
        """All tops, in the order of their assignment (as in the SSD fork)."""
        return list(self.tops.values())

    def update(self, name: str, params: dict) -> None:
        """Change parameters of the layer that makes a top (as in the SSD fork)."""
        item = self.tops[name]
        (item.fn if isinstance(item, Top) else item).params.update(params)

    def to_proto(self):
        """The NetParameter of all layers that the assigned tops need."""
        spelling = _Spelling({top: name for name, top in self.tops.items()})
        for item in self.tops.values():
            spelling.add(item.fn if isinstance(item, Top) else item)
        return spelling.net()


class Layers:
    """`layers.Convolution(bottom, kernel_size=3)`: a Top, a tuple of Tops (ntop > 1), or the Function (ntop=0)."""

    def __getattr__(self, type_name: str):
        def layer(*inputs: Top, **params):
            fn = Function(type_name, inputs, params)
            return fn.tops[0] if fn.ntop == 1 else fn.tops or fn

        return layer


class Parameters:
    """`params.Pooling.MAX`: the constants of a layer type's parameters."""

    def __getattr__(self, type_name: str):
        return message(f"{type_name}Parameter")


layers = Layers()
params = Parameters()
