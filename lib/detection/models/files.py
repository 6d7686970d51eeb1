"""The prototxt files of the models, written from their definitions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from caffelite import proto
from caffelite.net_spec import assign_proto
from caffelite.proto.schema import is_repeated
from detection import plain_yaml
from detection.fast_rcnn.svd import compress_definition
from detection.models.build import Model, Variant, test_net, train_net
from detection.models.nets import MODELS

WIDTH = 100
TEST_ABOUT = (
    "an image and its RoIs in, what is predicted for each RoI out.\n"
    "Its inputs take the shapes of the image and of the RoIs (R, 5): image index, x1, y1, x2, y2 in\n"
    "pixels of the data blob."
)
SNAPSHOTS = "snapshot is 0: the trainer saves the snapshots, with bbox_pred un-normalised."
GENERATED = "Written by tools/make_models.py: change lib/detection/models/nets.py instead."


def to_prototxt(message: Message, comment: str) -> str:
    """A message as a prototxt file: a field per line, small messages on one line, under a comment."""
    return "".join(f"# {line}\n" for line in comment.splitlines()) + "\n".join(_lines(message, "")) + "\n"


def _lines(message: Message, indent: str) -> Iterator[str]:
    for field, value in message.ListFields():
        for item in value if is_repeated(field) else [value]:
            if field.message_type is None:
                yield f"{indent}{field.name}: {_scalar(field, item)}"
                continue
            inside = list(_lines(item, ""))
            short = f"{indent}{field.name} {{ {' '.join(inside)} }}"
            if field.name != "layer" and len(short) <= WIDTH and not any(line.endswith("}") for line in inside):
                yield short
            else:
                yield f"{indent}{field.name} {{"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}"


def _scalar(field: FieldDescriptor, value) -> str:
    """A value as protobuf's own printer would write it: that one changes with the library's version."""
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    if field.type == FieldDescriptor.TYPE_STRING:
        return json.dumps(value)
    if field.type == FieldDescriptor.TYPE_FLOAT:
        return f"{float(str(np.float32(value))):.7g}"  # the shortest number that is this float32
    return str(value).lower() if isinstance(value, bool) else str(value)


def solver(model: Model, folder: str, variant: Variant):
    """The SolverParameter of a model's variant in `folder`."""
    param = proto.message("SolverParameter")(train_net=f"{folder}/train.prototxt")
    for name, value in model.solver.items():
        assign_proto(param, name, value)
    stem = "" if model.folder == "prototxt" else f"{Path(model.folder).name.lower()}_"
    param.snapshot_prefix = f"{stem}{variant.name or 'fast_rcnn'}"  # in output/<EXP_DIR>/<data set>
    return param


def texts(root: Path) -> dict[str, str]:
    """All generated files: {path from the repository's root: text}. The options in config.yml of a model, which are
    written by hand, are read from `root`: its variants' begin with them."""
    files = {}
    for model in MODELS.values():
        own = root / model.folder / "config.yml"
        options = plain_yaml.load(own.read_text()) if own.is_file() else {}
        for variant in model.variants:
            folder = f"{model.folder}/{variant.name}".rstrip("/")
            about = f"{model.title}.\n{model.about}\n" + (f"Here {variant.about}.\n" if variant.name else "")
            files[f"{folder}/train.prototxt"] = to_prototxt(train_net(model, variant), about + GENERATED)
            if not variant.name or variant.own_test:
                about = f"{model.title}, for testing:\n{TEST_ABOUT}\n"
                files[f"{folder}/test.prototxt"] = to_prototxt(test_net(model, variant), about + GENERATED)
            about = f"{model.solver_about}\n{SNAPSHOTS}\n"
            files[f"{folder}/solver.prototxt"] = to_prototxt(solver(model, folder, variant), about + GENERATED)
            if variant.name:
                files |= _config(folder, merge_options(options, variant.options))
        if model.ranks:
            folder = f"{model.folder}/compressed"
            layers = ", ".join(f"{name} at rank {rank}" for name, rank in model.ranks.items())
            about = f"{model.title}, for testing with truncated SVD: {layers}.\n{TEST_ABOUT}\n"
            net = compress_definition(test_net(model), model.ranks, model.name)
            files[f"{folder}/test.prototxt"] = to_prototxt(net, about + GENERATED)
            files |= _config(folder, options)
    return files


def _config(folder: str, options: dict) -> dict[str, str]:
    """The config.yml of a folder that needs options."""
    text = f"# {GENERATED}\n{yaml.safe_dump(options, sort_keys=False)}"
    return {f"{folder}/config.yml": text} if options else {}


def merge_options(options: dict, more: dict) -> dict:
    """Nested options, those of `more` over the others."""
    merged = dict(options)
    for name, value in more.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = merge_options(merged[name], value) if both else value
    return merged


def stale(root: str | Path) -> list[str]:
    """The generated files below `root` that are not what the definitions say."""
    root = Path(root)
    return [
        path for path, text in texts(root).items() if not (root / path).is_file() or (root / path).read_text() != text
    ]


def write(root: str | Path) -> list[str]:
    """Write the files that are stale; returns their paths from `root`."""
    changed, files = stale(root), texts(Path(root))
    for path in changed:
        file = Path(root) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(files[path])
    return changed
