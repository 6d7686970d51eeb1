"""Nets and solvers of Caffe's earlier formats turned into today's, as src/caffe/util/upgrade_proto.cpp does it.

V0 (2013): `layers { layer { type: "conv" ... } }`, all options in one message, padding as layers of its own.
V1 (2014): `layers { type: CONVOLUTION convolution_param { ... } }`.
V2: `layer { type: "Convolution" convolution_param { ... } }`.
"""

import logging
from pathlib import Path

from google.protobuf.message import Message

from caffelite.errors import PrototxtError
from caffelite.proto.schema import message, nearest

log = logging.getLogger("caffelite")

V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}

SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}

# where an option of V0 went, by the type of its layer
_DATA_SOURCES = {
    "data": "data_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "window_data": "window_data_param",
}
_LEARNED = {"conv": "convolution_param", "innerproduct": "inner_product_param"}
_WINDOWED = {"conv": "convolution_param", "pool": "pooling_param"}
_LRN = {"lrn": "lrn_param"}
_IMAGES = {"images": "image_data_param"}
_WINDOW_DATA = {"window_data": "window_data_param"}
_V0_OPTIONS = {
    "num_output": (_LEARNED, "num_output"),
    "biasterm": (_LEARNED, "bias_term"),
    "weight_filler": (_LEARNED, "weight_filler"),
    "bias_filler": (_LEARNED, "bias_filler"),
    "pad": (_WINDOWED, "pad"),
    "kernelsize": (_WINDOWED, "kernel_size"),
    "group": ({"conv": "convolution_param"}, "group"),
    "stride": (_WINDOWED, "stride"),
    "pool": ({"pool": "pooling_param"}, "pool"),
    "dropout_ratio": ({"dropout": "dropout_param"}, "dropout_ratio"),
    "local_size": (_LRN, "local_size"),
    "alpha": (_LRN, "alpha"),
    "beta": (_LRN, "beta"),
    "k": (_LRN, "k"),
    "source": ({**_DATA_SOURCES, "infogain_loss": "infogain_loss_param"}, "source"),
    "batchsize": (_DATA_SOURCES, "batch_size"),
    "rand_skip": ({"data": "data_param", **_IMAGES}, "rand_skip"),
    "shuffle_images": (_IMAGES, "shuffle"),
    "new_height": (_IMAGES, "new_height"),
    "new_width": (_IMAGES, "new_width"),
    "concat_dim": ({"concat": "concat_param"}, "concat_dim"),
    "det_fg_threshold": (_WINDOW_DATA, "fg_threshold"),
    "det_bg_threshold": (_WINDOW_DATA, "bg_threshold"),
    "det_fg_fraction": (_WINDOW_DATA, "fg_fraction"),
    "det_context_pad": (_WINDOW_DATA, "context_pad"),
    "det_crop_mode": (_WINDOW_DATA, "crop_mode"),
}
_V0_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_V0_UNUSED = ("new_num", "new_channels")
_V1_DATA_PARAMS = {"DATA": "data_param", "IMAGE_DATA": "image_data_param", "WINDOW_DATA": "window_data_param"}


def upgrade_net(net: Message, path: str | Path = "<net>") -> bool:
    """Bring a NetParameter to today's form, in place; True if anything changed, which is logged.

    Raises PrototxtError, naming `path`, where Caffe gives up: an unknown V0 type, `layer` beside `layers`, a padding
    layer before anything but one convolution or pooling, fewer shapes than inputs.
    """
    steps = (
        (is_v0, _upgrade_v0, "the V0 format of layers"),
        (_has_v1_transform, _upgrade_v1_transform, "transformation fields of data layers"),
        (lambda net: len(net.layers) > 0, _upgrade_v1, "the V1 format of layers"),
        (lambda net: len(net.input) > 0, _upgrade_input, "input fields"),
        (lambda net: any(map(_has_batch_norm_params, net.layer)), _upgrade_batch_norm, "BatchNorm parameters"),
    )
    changed = False
    for is_needed, upgrade, what in steps:
        if is_needed(net):
            upgrade(net, path)
            log.info("%s: upgraded %s", path, what)
            changed = True
    return changed


def upgrade_solver(solver: Message, path: str | Path = "<solver>") -> bool:
    """Replace the enum `solver_type` of a SolverParameter by the string `type`, in place; True if it was there.

    Raises PrototxtError if both are given.
    """
    if not solver.HasField("solver_type"):
        return False
    if solver.HasField("type"):
        raise PrototxtError(f"{path}: gives both type and solver_type; keep type: {solver.type!r}")
    solver.type = SOLVER_TYPES[solver.SolverType.Name(solver.solver_type)]
    solver.ClearField("solver_type")
    log.info("%s: upgraded solver_type to type: %r", path, solver.type)
    return True


def resolve_snapshot_prefix(solver: Message, path: str | Path) -> None:
    """Name snapshots after the solver's file if no snapshot_prefix is given, or inside it if it is a folder."""
    if not solver.HasField("snapshot_prefix"):
        solver.snapshot_prefix = str(Path(path).with_suffix(""))
    elif Path(solver.snapshot_prefix).is_dir():
        solver.snapshot_prefix = str(Path(solver.snapshot_prefix) / Path(path).stem)
    else:
        return
    log.info("%s: snapshot_prefix is set to %s", path, solver.snapshot_prefix)


def is_v0(net: Message) -> bool:
    """Whether a net has layers in the V0 format."""
    return any(layer.HasField("layer") for layer in net.layers)


def _upgrade_v0(net: Message, path: str | Path) -> None:
    upgraded = message("NetParameter")(name=net.name) if net.HasField("name") else message("NetParameter")()
    for connection in _merge_padding(net, path):
        _upgrade_v0_layer(connection, upgraded.layers.add(), path)
    upgraded.input.extend(net.input)
    upgraded.input_dim.extend(net.input_dim)
    if net.HasField("force_backward"):
        upgraded.force_backward = net.force_backward
    net.CopyFrom(upgraded)


def _merge_padding(net: Message, path: str | Path) -> list[Message]:
    """The layers without padding layers, whose `pad` moves to the layer behind each."""
    source_of: dict[str, Message | None] = dict.fromkeys(net.input)
    merged = []
    for connection in net.layers:
        layer = connection.layer
        upgraded = type(connection)()
        upgraded.CopyFrom(connection)
        for j, bottom in enumerate(connection.bottom):
            if bottom not in source_of:
                raise PrototxtError(f"{path}: layer {layer.name!r} has the unknown bottom {bottom!r}")
            source = source_of[bottom]
            if source is None or source.layer.type != "padding":
                continue
            if layer.type not in ("conv", "pool"):
                raise PrototxtError(
                    f"{path}: padding layer {source.layer.name!r} feeds layer {layer.name!r} of type {layer.type!r}; "
                    "only conv and pool can take its place"
                )
            if not len(connection.bottom) == len(source.bottom) == len(source.top) == 1:
                raise PrototxtError(
                    f"{path}: padding layer {source.layer.name!r} and layer {layer.name!r} behind it "
                    "must have one bottom each"
                )
            upgraded.layer.pad = source.layer.pad
            upgraded.bottom[j] = source.bottom[0]
        source_of.update(dict.fromkeys(connection.top, connection))
        if layer.type != "padding":
            merged.append(upgraded)
    return merged


def _upgrade_v0_layer(connection: Message, v1: Message, path: str | Path) -> None:
    v1.bottom.extend(connection.bottom)
    v1.top.extend(connection.top)
    if not connection.HasField("layer"):
        return
    v0 = connection.layer
    for field, value in v0.ListFields():
        if field.name == "name":
            v1.name = value
        elif field.name == "type":
            v1.type = _v1_type(v0, path)
        elif field.name in ("blobs", "blobs_lr", "weight_decay"):
            getattr(v1, field.name).extend(value)
        elif field.name in _V0_TRANSFORM:
            setattr(v1.transform_param, _V0_TRANSFORM[field.name], value)
        elif field.name == "hdf5_output_param" and v0.type == "hdf5_output":
            v1.hdf5_output_param.CopyFrom(value)
        elif field.name in _V0_OPTIONS and v0.type in _V0_OPTIONS[field.name][0]:
            params, option = _V0_OPTIONS[field.name]
            _set_option(getattr(v1, params[v0.type]), option, value)
        elif field.name not in _V0_UNUSED:
            log.error("%s: layer %r of type %r has no option %s; it is dropped", path, v0.name, v0.type, field.name)


def _v1_type(v0: Message, path: str | Path) -> int:
    if v0.type not in V0_TYPES:
        advice = nearest(v0.type, V0_TYPES)
        raise PrototxtError(f"{path}: layer {v0.name!r} has the unknown type {v0.type!r}; {advice}")
    return message("V1LayerParameter").LayerType.Value(V0_TYPES[v0.type])


def _set_option(param: Message, name: str, value: object) -> None:
    if isinstance(value, Message):
        getattr(param, name).CopyFrom(value)
    elif hasattr(getattr(param, name), "append"):
        getattr(param, name).append(value)
    else:
        setattr(param, name, value)


def _v1_data_param(layer: Message) -> str | None:
    return _V1_DATA_PARAMS.get(layer.LayerType.Name(layer.type))


def _has_v1_transform(net: Message) -> bool:
    return any(
        (name := _v1_data_param(layer)) and any(getattr(layer, name).HasField(f) for f in _V0_TRANSFORM.values())
        for layer in net.layers
    )


def _upgrade_v1_transform(net: Message, path: str | Path) -> None:
    for layer in net.layers:
        name = _v1_data_param(layer)
        if name is None:
            continue
        param = getattr(layer, name)
        # every data layer of the net gets both messages, with or without fields, as in Caffe
        param.SetInParent()
        layer.transform_param.SetInParent()
        for option in _V0_TRANSFORM.values():
            if param.HasField(option):
                setattr(layer.transform_param, option, getattr(param, option))
                param.ClearField(option)


def _upgrade_v1(net: Message, path: str | Path) -> None:
    if net.layer:
        raise PrototxtError(f"{path}: has both `layer` and `layers`; rewrite the `layers` in the form layer {{ ... }}")
    for v1 in net.layers:
        _upgrade_v1_layer(v1, net.layer.add(), path)
    net.ClearField("layers")


def _upgrade_v1_layer(v1: Message, layer: Message, path: str | Path) -> None:
    for field, value in v1.ListFields():
        if field.name == "type":
            layer.type = V1_TYPES[v1.LayerType.Name(value)]
        elif field.name == "param":
            for i, name in enumerate(value):
                _param_spec(layer, i).name = name
        elif field.name == "blob_share_mode":
            for i, mode in enumerate(value):
                _param_spec(layer, i).share_mode = mode
        elif field.name == "blobs_lr":
            for i, lr_mult in enumerate(value):
                _param_spec(layer, i).lr_mult = lr_mult
        elif field.name == "weight_decay":
            for i, decay_mult in enumerate(value):
                _param_spec(layer, i).decay_mult = decay_mult
        elif field.name == "name":
            layer.name = value
        elif isinstance(value, Message):
            getattr(layer, field.name).CopyFrom(value)
        else:
            getattr(layer, field.name).extend(value)


def _param_spec(layer: Message, i: int) -> Message:
    while len(layer.param) <= i:
        layer.param.add()
    return layer.param[i]


def _upgrade_input(net: Message, path: str | Path) -> None:
    """Turn input fields into an Input layer before all others; inputs without any shape are dropped, as in Caffe."""
    if net.input_shape or net.input_dim:
        shapes = [list(shape.dim) for shape in net.input_shape]
        shapes = shapes or [list(net.input_dim[4 * i : 4 * i + 4]) for i in range(len(net.input_dim) // 4)]
        if len(shapes) < len(net.input):
            raise PrototxtError(f"{path}: {len(net.input)} inputs ({', '.join(net.input)}) but {len(shapes)} shapes")
        layer = message("LayerParameter")(name="input", type="Input", top=net.input)
        for shape, _ in zip(shapes, net.input):
            layer.input_param.shape.add(dim=shape)
        layers = [layer, *net.layer]
        rebuilt = message("NetParameter")(layer=layers)
        net.ClearField("layer")
        net.MergeFrom(rebuilt)
    else:
        log.warning("%s: inputs %s have no shape and are dropped", path, ", ".join(net.input))
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)


def _has_batch_norm_params(layer: Message) -> bool:
    return layer.type == "BatchNorm" and len(layer.param) == 3


def _upgrade_batch_norm(net: Message, path: str | Path) -> None:
    """Freeze the three statistics of every BatchNorm layer that declares them."""
    for layer in filter(_has_batch_norm_params, net.layer):
        for spec in layer.param:
            spec.lr_mult = 0
            spec.decay_mult = 0
