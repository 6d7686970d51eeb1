"""How the coordinates of two feature maps relate, for nets written with `net_spec`; and the Crop that aligns them.

A map is (axis, scale, shift): position x of the input lies at scale * x + shift of the output, for the axes that follow
the channel axis `axis`; None is the axis of layers that move nothing. Source: python/caffe/coord_map.py of Caffe.
"""

from __future__ import annotations

import numpy as np

from caffelite.errors import NetError
from caffelite.net_spec import Function, Top, layers

PASS_THROUGH_LAYERS = (
    "AbsVal", "BatchNorm", "Bias", "BNLL", "Clip", "Dropout", "Eltwise", "ELU", "Exp", "Log", "LRN", "MVN", "Power",
    "PReLU", "ReLU", "ReLU6", "Scale", "Sigmoid", "Split", "Swish", "TanH", "Threshold",
)  # fmt: skip
IDENTITY = (None, 1, 0)


class UndefinedMapException(NetError, RuntimeError):
    """A layer, or two tops, between which coordinates do not map."""


class AxisMismatchException(NetError):
    """Maps that act on different axes."""


def conv_params(fn: Function) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Channel axis, stride, dilated kernel size and padding of a convolution, deconvolution, im2col or pooling."""
    params = _own_params(fn, "pooling_param" if fn.type_name == "Pooling" else "convolution_param")
    old = sorted(key for key in params if key.endswith(("_h", "_w")))
    if old:
        raise NetError(f"{fn.type_name}: coordinates are mapped with kernel_size, stride and pad, not {', '.join(old)}")
    if "kernel_size" not in params:
        raise UndefinedMapException(f"{fn.type_name} without a kernel_size has no coordinate map")
    kernel, stride, pad, dilation = (
        np.array(params.get(key, default), ndmin=1)
        for key, default in (("kernel_size", 1), ("stride", 1), ("pad", 0), ("dilation", 1))
    )
    return params.get("axis", 1), stride, (kernel - 1) * dilation + 1, pad


def crop_params(fn: Function) -> tuple[int, np.ndarray]:
    """First cropped axis and offsets of a Crop."""
    params = _own_params(fn, "crop_param")
    return params.get("axis", 2), np.array(params.get("offset", 0), ndmin=1)


def _own_params(fn: Function, field: str) -> dict:
    return fn.params.get(field, fn.params)


def coord_map(fn: Function):
    """The map of one layer from its (first) input to its output. Raises UndefinedMapException."""
    if fn.type_name in ("Convolution", "Pooling", "Im2col"):
        axis, stride, kernel, pad = conv_params(fn)
        return axis, 1 / stride, (pad - (kernel - 1) / 2) / stride
    if fn.type_name == "Deconvolution":
        axis, stride, kernel, pad = conv_params(fn)
        return axis, stride, (kernel - 1) / 2 - pad
    if fn.type_name in PASS_THROUGH_LAYERS:
        return IDENTITY
    if fn.type_name == "Crop":
        axis, offset = crop_params(fn)
        return axis - 1, 1, -offset
    raise UndefinedMapException(f"{fn.type_name} has no coordinate map")


def compose(base_map, next_map):
    """The map that applies `next_map` and then `base_map`. Raises AxisMismatchException."""
    base_axis, base_scale, base_shift = base_map
    next_axis, next_scale, next_shift = next_map
    if None not in (base_axis, next_axis) and base_axis != next_axis:
        raise AxisMismatchException(f"coordinate maps of axis {base_axis} and of axis {next_axis} do not compose")
    axis = next_axis if base_axis is None else base_axis
    return axis, base_scale * next_scale, base_scale * next_shift + base_shift


def inverse(map_):
    """The map from output to input."""
    axis, scale, shift = map_
    return axis, 1 / scale, -shift / scale


def _maps_to(top: Top) -> dict[Top, tuple]:
    """The map from each ancestor of a top (itself included) to the top, as far as layers have one; nearest first."""
    maps = {top: IDENTITY}
    pending = [top]
    while pending:
        current = pending.pop(0)
        # the second bottom of a Crop only gives it its size
        bottoms = current.fn.inputs[:1] if current.fn.type_name == "Crop" else current.fn.inputs
        try:
            step = coord_map(current.fn) if bottoms else IDENTITY
        except UndefinedMapException:
            continue
        for bottom in bottoms:
            if bottom not in maps:
                maps[bottom] = compose(maps[current], step)
                pending.append(bottom)
    return maps


def coord_map_from_to(top_from: Top, top_to: Top):
    """The map from coordinates of one top to those of another, through an ancestor they share.

    Raises UndefinedMapException where no layers with coordinate maps connect them, AxisMismatchException.
    """
    from_maps = _maps_to(top_from)
    to_maps = _maps_to(top_to)
    for ancestor in to_maps:
        if ancestor in from_maps:
            return compose(to_maps[ancestor], inverse(from_maps[ancestor]))
    raise UndefinedMapException(
        f"no coordinate map between a top of {top_from.fn.type_name} and one of {top_to.fn.type_name}: "
        "are they connected by spatial layers?"
    )


def crop(top_from: Top, top_to: Top) -> Top:
    """A Crop of `top_from` to the size and place of `top_to`.

    Raises NetError when their scales differ or the offset is negative or not whole.
    """
    axis, scale, shift = coord_map_from_to(top_from, top_to)
    axis, scale, offset = 1 if axis is None else axis, np.array(scale, ndmin=1), -np.array(shift, ndmin=1)
    if (scale != 1).any():
        raise NetError(f"crop: the scales differ by {scale.tolist()}, expected 1")
    if (offset < 0).any() or (np.round(offset) != offset).any():
        raise NetError(f"crop: the offset is {offset.tolist()}, expected whole numbers from 0")
    return layers.Crop(top_from, top_to, crop_param={"axis": axis + 1, "offset": offset.astype(int).tolist()})
