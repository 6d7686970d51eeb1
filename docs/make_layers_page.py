"""Write docs/layers.md, the page of all layer types, from the layers' docstrings and the schema.

Run as `python docs/make_layers_page.py`. A test holds the page to what this makes.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor

from caffelite.layer import Layer, layer_class, layer_type_list
from caffelite.proto import message, schema

PAGE = Path(__file__).with_name("layers.md")
PROTO = Path(schema.__file__).with_name("caffe.proto")
TYPES = {number: name[5:].lower() for name, number in vars(FieldDescriptor).items() if name.startswith("TYPE_")}
LABELS = ("Bottom and top", "Bottoms and tops", "Bottom", "Bottoms", "Top", "Tops", "Parameter", "Parameters", "Source")
FAMILIES = {
    "Convolution and pooling": "Convolution Deconvolution DepthwiseConvolution Im2col Pooling SPP",
    "Regions of interest": "ROIPooling",
    "Fully connected, tables, sequences": "InnerProduct Embed LSTM",
    "Activations": "ReLU ReLU6 PReLU ELU Sigmoid TanH Swish BNLL AbsVal Clip Threshold Exp Log Power",
    "Normalisation and regularisation": "LRN BatchNorm Scale Bias MVN Normalize Dropout",
    "Losses and scores": "Softmax SoftmaxWithLoss SigmoidCrossEntropyLoss SmoothL1Loss EuclideanLoss HingeLoss "
    "InfogainLoss MultinomialLogisticLoss ContrastiveLoss Accuracy",
    "Joining, cutting, other shapes": "Concat Slice Split Eltwise Reshape Flatten Permute Crop Tile Reduction Silence",
    "Selecting": "ArgMax BatchReindex Filter",
    "SSD": "PriorBox MultiBoxLoss DetectionOutput DetectionEvaluate",
    "Data sources": "Input DummyData Parameter Data ImageData AnnotatedData MemoryData HDF5Data HDF5Output",
    "Layers of your own": "Python",
}
# options besides, or instead of, the message that has the type's name
OPTIONS = {
    "AnnotatedData": ("data_param", "transform_param"),
    "Data": ("transform_param",),
    "Deconvolution": ("convolution_param",),
    "DepthwiseConvolution": ("convolution_param",),
    "Im2col": ("convolution_param",),
    "ImageData": ("transform_param",),
    "InfogainLoss": ("loss_param",),
    "LSTM": ("recurrent_param",),
    "MultiBoxLoss": ("loss_param",),
    "SigmoidCrossEntropyLoss": ("loss_param",),
    "SoftmaxWithLoss": ("softmax_param", "loss_param"),
}
SHARED = ("LossParameter", "TransformationParameter")
EVERY_LAYER = (
    *("name", "type", "bottom", "top", "loss_weight", "param"),
    *("propagate_down", "include", "exclude", "phase"),
)
INTRODUCTION = """\
# Layers

Made by `python docs/make_layers_page.py` from the docstrings in `caffelite/layers` and from
`caffelite/proto/caffe.proto`: change those, not this page.

A prototxt names a layer by its type, its blobs by name, and gives its options in the message of that type:

```
layer {
  name: "pool1"
  type: "Pooling"
  bottom: "conv1"
  top: "pool1"
  pooling_param { pool: MAX kernel_size: 3 stride: 2 }
}
```

Every section says what the layer computes, which blobs it reads (bottoms) and makes (tops) with their shapes, which
learned parameters it has, whose semantics it follows, and all its options with their defaults. (N, C, H, W) are the
images of a batch, channels, rows and columns; () is a single number; x stands for the bottom and y for the top where
there is one of each. "Mainline Caffe" is BVLC's, version 1.0 and later; file names are those of the original's source.
A layer computes in place when its top has the bottom's name. How to add a layer is told in
[adding_a_layer.md](adding_a_layer.md).
"""


def classes() -> dict[type[Layer], list[str]]:
    """The engine's own layer classes with the type names of each."""
    found: dict[type[Layer], list[str]] = {}
    for name in layer_type_list():
        if layer_class(name).__module__.startswith("caffelite.layers."):
            found.setdefault(layer_class(name), []).append(name)
    return found


def sections(docstring: str) -> dict[str, str]:
    """A layer's docstring by its labels: "" (what it computes), "Bottoms", "Tops", "Parameters", "Source"."""
    text = " ".join(inspect.cleandoc(docstring).split())
    parts = re.split(rf"(?:^|(?<=[.)] ))({'|'.join(LABELS)}): ", text)
    return {"": parts[0].strip(), **{label: words.strip() for label, words in zip(parts[1::2], parts[2::2])}}


def origin(source: str) -> str:
    """Whose semantics a layer follows, from the "Source" of its docstring."""
    fork = re.search(r"of the ([\w -]+? forks?)\b", source)
    return fork[1] if fork else "mainline Caffe"


def counts(layer: type[Layer]) -> str:
    """How many bottoms and tops a class takes, in words."""
    instance = layer(message("LayerParameter")(), 0)  # a count may depend on the options: then of the default ones
    words = []
    for kind in ("bottom", "top"):
        exact, least, most = (getattr(instance, f"{bound}_{kind}s") for bound in ("exact", "min", "max"))
        if kind == "top" and instance.same_bottoms_and_tops:
            number, plural = "as many", True
        elif exact is not None:
            number, plural = str(exact or "no"), exact != 1
        elif most is not None:
            number, plural = f"{least} {'or' if most == least + 1 else 'to'} {most}", True
        else:
            number, plural = f"{least} or more" if least else "any number of", True
        words.append(f"{number} {kind}{'s' if plural else ''}")
    return ", ".join(words) + (", a loss" if instance.is_loss else "")


def option_fields(name: str) -> list:
    """The fields of LayerParameter that hold the options of a layer type."""
    fields = message("LayerParameter").DESCRIPTOR.fields
    own = [f.name for f in fields if f.message_type and f.message_type.name == f"{name}Parameter"]
    return [message("LayerParameter").DESCRIPTOR.fields_by_name[field] for field in (*own, *OPTIONS.get(name, ()))]


def comments() -> dict[str, str]:
    """The comment above each message, field and enum value of caffe.proto, by dotted name."""
    found, path, pending = {}, [], []
    for line in PROTO.read_text().splitlines():
        line = line.strip()
        if line.startswith("//"):
            pending.append(line[2:].strip())
            continue
        if name := re.match(r"(?:message|enum) (\w+) \{|(?:(?:optional|required|repeated) [\w.]+ )?(\w+) = \d", line):
            found[".".join([*path, name[1] or name[2]])] = " ".join(pending)
            if name[1]:
                path.append(name[1])
        elif line == "}":
            path.pop()
        pending = []
    return found


def escape(text: str) -> str:
    """Text of docstrings and comments as Markdown: only its backticks are markup."""
    parts = text.split("`")
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([*]|(?<!\w)_|_(?!\w)|<(?=\w))", r"\\\1", parts[i])
    return "`".join(parts)


def heading(layer: type[Layer], names: list[str]) -> str:
    """The type names of a layer, that of its class first."""
    return ", ".join(sorted(names, key=lambda name: name != layer.__name__))


def anchor(title: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


class Page:
    """The page as it grows; a message's table stands where it is met first, or at the end if layers share it."""

    def __init__(self):
        self.lines: list[str] = []
        self.comments = comments()
        self.tables: dict[str, str] = {}  # message: the layer under which its table stands
        self.shared: list = []

    def table(self, descriptor, names: tuple[str, ...] | None = None) -> None:
        """The fields of a message (only `names`, if given): type, default, meaning."""
        self.lines += ["| field | type | default | meaning |", "| --- | --- | --- | --- |"]
        for field in descriptor.fields:
            if names is None or field.name in names:
                cells = (f"`{field.name}`", self.type(field), self.default(field), self.meaning(field))
                self.lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        self.lines.append("")

    def link(self, descriptor) -> str:
        """A link to the table that a message has at the end."""
        if descriptor not in self.shared:
            self.shared.append(descriptor)
        return f"[{descriptor.name}](#{anchor(descriptor.name)})"

    def type(self, field) -> str:
        if field.message_type:
            kind = self.link(field.message_type)
        elif field.enum_type:
            kind = ", ".join(value.name for value in field.enum_type.values)
        else:
            kind = TYPES[field.type]
        return f"{kind}, repeated" if schema.is_repeated(field) else kind

    def default(self, field) -> str:
        if schema.is_required(field):
            return "required"
        if not field.has_default_value:
            return ""
        if field.enum_type:
            return field.enum_type.values_by_number[field.default_value].name
        if isinstance(field.default_value, bool):
            return str(field.default_value).lower()
        return f'"{field.default_value}"' if isinstance(field.default_value, str) else f"{field.default_value:g}"

    def meaning(self, field) -> str:
        words = [self.comments[field.full_name.removeprefix("caffe.")]]
        if field.enum_type:
            path = field.enum_type.full_name.removeprefix("caffe.")
            values = [(value.name, self.comments[f"{path}.{value.name}"]) for value in field.enum_type.values]
            words += [f"{name}: {comment[:1].lower()}{comment[1:]}" for name, comment in values if comment]
        return escape(" ".join(filter(None, words)))

    def layer(self, layer: type[Layer], names: list[str]) -> None:
        """The section of one layer class."""
        title = heading(layer, names)
        parts = sections(layer.__doc__)
        source = parts.pop("Source")
        self.lines += [f"### {title}", "", escape(parts.pop("")), "", f"- {counts(layer)}"]
        self.lines += [f"- **{label}**: {escape(words)}" for label, words in parts.items()]
        self.lines += [f"- **Source** ({origin(source)}): {escape(source)}", ""]
        for field in option_fields(layer.__name__):
            kind = field.message_type
            if kind.name in SHARED:
                self.lines += [f"Options in `{field.name}`: {self.link(kind)}.", ""]
            elif kind.name in self.tables:
                other = self.tables[kind.name]
                self.lines += [f"Options in `{field.name}`, as for [{other}](#{anchor(other)}).", ""]
            else:
                self.tables[kind.name] = title
                self.lines += [f"Options in `{field.name}`:", ""]
                self.table(kind)


def make() -> str:
    """The text of docs/layers.md."""
    known, page = classes(), Page()
    by_name = {layer.__name__: layer for layer in known}
    families = {title: [by_name[name] for name in names.split()] for title, names in FAMILIES.items()}
    page.lines += [INTRODUCTION, "## Contents", "", "- [What every layer has](#what-every-layer-has)"]
    for title, layers in families.items():
        links = [heading(layer, known[layer]) for layer in layers]
        page.lines.append(f"- [{title}](#{anchor(title)}): " + ", ".join(f"[{h}](#{anchor(h)})" for h in links))
    page.lines += ["- [Messages inside others](#messages-inside-others)", "", "## What every layer has", ""]
    page.table(message("LayerParameter").DESCRIPTOR, EVERY_LAYER)
    for title, layers in families.items():
        page.lines += [f"## {title}", ""]
        for layer in layers:
            page.layer(layer, known[layer])
    page.lines += ["## Messages inside others", ""]
    for descriptor in page.shared:  # grows on the way
        page.lines += [f"### {descriptor.name}", "", escape(page.comments[descriptor.name]), ""]
        page.table(descriptor)
    return "\n".join(page.lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(make())
