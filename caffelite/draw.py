"""A net as a picture: Graphviz text from a NetParameter, rendered by the program `dot` (as python/caffe/draw.py)."""

from __future__ import annotations

import os
import shutil
import subprocess

from caffelite import graph
from caffelite.errors import BackendError
from caffelite.proto import message

TEXT_FORMATS = ("dot", "gv", "raw")  # written without Graphviz
FORMATS = (
    *["png", "svg", "pdf", "ps", "eps", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp", "json", "plain", "xdot"],
    *TEXT_FORMATS,
)
BLOB_COLOR, LAYER_COLOR, IN_PLACE_COLOR = "#E0E0E0", "#6495ED", "#90EE90"
COLORS = {"Convolution": "#FF5050", "Deconvolution": "#FF5050", "Pooling": "#FF9900", "InnerProduct": "#CC33FF"}
_PARAMS = {
    "Convolution": "convolution_param",
    "Deconvolution": "convolution_param",
    "InnerProduct": "inner_product_param",
}


def net_to_dot(
    net, rankdir: str = "LR", label_edges: bool = True, phase: int | None = None, display_lrm: bool = False
) -> str:
    """Graphviz text of a NetParameter: boxes are layers (green: in place), octagons blobs.

    `rankdir` is the direction of the graph: LR, TB or BT. `label_edges` writes the number of outputs beside the arrows,
    `display_lrm` the learning rate multipliers into the layers. With a `phase` only its layers are drawn.
    """
    if phase is not None:
        chosen = message("NetParameter")()
        chosen.CopyFrom(net)
        chosen.state.phase = phase
        net, _ = graph.filter_net(chosen, [""] * len(chosen.layer))
    lines = [f"digraph {_quote(net.name or 'Net')} {{", f"  rankdir={rankdir};", "  node [style=filled];"]
    blobs = dict.fromkeys([*net.input, *(blob for layer in net.layer for blob in [*layer.bottom, *layer.top])])
    for blob in blobs:
        lines.append(f'  {_quote("blob " + blob)} [label={_quote(blob)} shape=octagon fillcolor="{BLOB_COLOR}"];')
    separator = "\n" if rankdir == "LR" else " "
    for i, layer in enumerate(net.layer):
        node = _quote(f"layer {i} {layer.name}")
        label = _quote(separator.join(describe(layer, display_lrm)))
        lines.append(f'  {node} [label={label} shape=box fillcolor="{_color(layer)}"];')
        lines += [f"  {_quote('blob ' + blob)} -> {node};" for blob in layer.bottom]
        note = f" [label={_quote(outputs(layer))}]" if label_edges and outputs(layer) else ""
        lines += [f"  {node} -> {_quote('blob ' + blob)}{note};" for blob in layer.top]
    return "\n".join([*lines, "}", ""])


def describe(layer, display_lrm: bool = False) -> list[str]:
    """What is written into a layer's box: its name, its type, and its kernel, stride and padding where it has them."""
    words = [layer.name, f"({layer.type})"]
    if layer.type == "Pooling":
        param = layer.pooling_param
        words[1] = f"(Pooling {type(param).PoolMethod.Name(param.pool)})"
    if layer.type in ("Convolution", "Deconvolution", "Pooling"):
        param = getattr(layer, _PARAMS.get(layer.type, "pooling_param"))
        for name, default in (("kernel_size", None), ("stride", 1), ("pad", 0)):
            words.append(f"{name.replace('_', ' ')}: {_extent(param, name, default)}")
    if display_lrm and layer.type in _PARAMS:
        words.append("lr mult: " + ", ".join(f"{value:g}" for value in get_layer_lr_mult(layer)))
    return words


def _extent(param, name: str, default) -> str:
    """A kernel size, stride or padding, given once, per axis, or as _h and _w."""
    prefix = name.removesuffix("_size")
    if any(param.HasField(f"{prefix}_{axis}") for axis in "hw"):
        return f"{getattr(param, f'{prefix}_h')}x{getattr(param, f'{prefix}_w')}"
    if getattr(param, "global_pooling", False) and name == "kernel_size":
        return "global"
    value = getattr(param, name)
    values = [value] if isinstance(value, int) else list(value)
    return "x".join(map(str, values)) or str(default)


def get_layer_lr_mult(layer) -> tuple[float, float]:
    """The learning rate multipliers of a layer's weights and biases."""
    given = [param.lr_mult for param in layer.param][:2]
    return tuple(given + [1.0] * (2 - len(given)))


def outputs(layer) -> str:
    """What is written beside the arrows to a layer's tops: its number of outputs, or the batch size of a Data layer."""
    if layer.type == "Data":
        return f"Batch {layer.data_param.batch_size}"
    return str(getattr(layer, _PARAMS[layer.type]).num_output) if layer.type in _PARAMS else ""


def _color(layer) -> str:
    in_place = len(layer.bottom) == len(layer.top) == 1 and layer.bottom[0] == layer.top[0]
    return IN_PLACE_COLOR if in_place else COLORS.get(layer.type, LAYER_COLOR)


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def draw_net(net, rankdir: str = "LR", ext: str = "png", phase: int | None = None, display_lrm: bool = False) -> bytes:
    """The picture of a NetParameter in a format of Graphviz: png, svg, pdf, ...; `dot` and `gv` give the text.

    Raises BackendError where Graphviz is missing or does not know the format.
    """
    text = net_to_dot(net, rankdir, phase=phase, display_lrm=display_lrm).encode()
    if ext in TEXT_FORMATS:
        return text
    program = shutil.which("dot")
    if program is None:
        raise BackendError(
            f"a .{ext} picture of a net needs the program `dot`: install Graphviz (e.g. apt install graphviz), "
            "or name the file .dot to get its text"
        )
    result = subprocess.run([program, f"-T{ext}"], input=text, capture_output=True)
    if result.returncode:
        raise BackendError(f"dot -T{ext}: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


def draw_net_to_file(
    net, filename: str | os.PathLike, rankdir: str = "LR", phase: int | None = None, display_lrm: bool = False
) -> None:
    """Write the picture of a NetParameter; the file's extension names the format. Raises BackendError."""
    ext = os.path.splitext(filename)[1].lstrip(".").lower()
    if ext not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise BackendError(f"{filename}: expected an extension that names the format of the picture: {known}")
    picture = draw_net(net, rankdir, ext, phase, display_lrm)
    with open(filename, "wb") as file:
        file.write(picture)
