"""Snapshots of a training: which files belong to one, which of them are intact, and which run they are of.

A snapshot is <prefix>_iter_N.caffemodel and .solverstate, as Caffe's, and .resume.npz, which is written last and holds
what Caffe never saved, with checksums of the other two. A kill at any moment leaves the three of them or a set that
lacks the last one or does not match it.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import logging
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format

from caffelite.errors import FileFormatError
from caffelite.proto.files import replacing
from detection.arrays import read_arrays
from detection.config import cfg
from detection.errors import ConfigError

logger = logging.getLogger("detection")

_FORMAT = 1
_SIDECAR = ".resume.npz"
_STATES = (".solverstate", ".solverstate.h5")
_KINDS = {"iteration": int, "run": str, "seed": int, "written": float, "files": dict, "options": dict}

# what may change at a resume: it decides where and when something is written and shown, not what is learned
_FREE_OPTIONS = {"SNAPSHOT_ITERS", "SNAPSHOT_KEEP", "SNAPSHOT_INFIX", "NONFINITE", "USE_PREFETCH"}
_FREE_SOLVER_FIELDS = {
    "net", "net_param", "train_net", "train_net_param", "test_net", "test_net_param", "test_iter", "test_interval",
    "test_compute_loss", "test_initialization", "test_state", "display", "average_loss", "max_iter", "snapshot",
    "snapshot_prefix", "snapshot_diff", "snapshot_format", "snapshot_after_train", "solver_mode", "device_id",
    "random_seed", "debug_info", "solver_type", "layer_wise_reduce", "weights", "train_state",
    "eval_type", "ap_version", "show_per_class_result",
}  # fmt: skip
_NEEDED_BY_POLICY = {"poly": {"max_iter"}, "plateau": {"average_loss"}}


@dataclass(frozen=True)
class Origin:
    """Of which training a snapshot is: its `iteration`, an id of the `run` (the same after a resume), the solver's
    `seed`, when it was `written` (seconds since 1970), the names and sha256 of its `files`, and the `options` that
    decide what is learned, as text by name."""

    iteration: int
    run: str
    seed: int
    written: float
    files: Mapping[str, str]
    options: Mapping[str, str]


def sidecar(state: str | Path) -> Path:
    """The .resume.npz of a .solverstate. Raises FileFormatError for another file."""
    state = Path(state)
    if not state.name.endswith(_STATES):
        raise FileFormatError(f"--snapshot {state}: expected a file <prefix>_iter_N.solverstate")
    return state.with_name(state.name.removesuffix(".h5").removesuffix(".solverstate") + _SIDECAR)


def model_of(state: str | Path) -> Path:
    """The .caffemodel of a .solverstate."""
    head, _, tail = Path(state).name.rpartition(".solverstate")
    return Path(state).with_name(f"{head}.caffemodel{tail}")


def write_sidecar(
    model: str, state: str, arrays: Mapping[str, np.ndarray], iteration: int, run: str, seed: int, options
) -> None:
    """Complete a snapshot whose model and state are written. Raises CaffeliteError."""
    files = {Path(file).name: _sha256(Path(file)) for file in (model, state)}
    origin = Origin(iteration, run, seed, time.time(), files, options)
    text = json.dumps({"format": _FORMAT, **dataclasses.asdict(origin)})
    with replacing(sidecar(state)) as temporary, open(temporary, "wb") as file:
        np.savez(file, origin=np.array(text), **arrays)


def read_sidecar(file: Path) -> tuple[Origin, dict[str, np.ndarray]]:
    """The origin and the arrays of a .resume.npz. Raises FileFormatError."""
    try:
        arrays = read_arrays(file, ["origin"])
    except OSError as e:
        raise FileFormatError(f"{file}: cannot be read: {e.strerror}") from None
    try:
        values = json.loads(str(arrays.pop("origin")))
        if values.pop("format") != _FORMAT:
            raise ValueError("of another version of this program")
        for name, kind in _KINDS.items():
            if not isinstance(values.get(name), kind):
                raise ValueError(f"its {name} is {str(values.get(name))[:80]!r}")
        if not all(isinstance(text, str) for name in ("files", "options") for text in values[name].values()):
            raise ValueError("its files or options are no texts")
        return Origin(**values), arrays
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as e:
        raise FileFormatError(f"{file}: damaged, or not written by a training ({e})") from None


def read(state: str | Path) -> tuple[Origin, dict[str, np.ndarray]]:
    """What lies beside a .solverstate, whose files have to be those that were written. Raises FileFormatError."""
    file = sidecar(state)
    origin, arrays = read_sidecar(file)
    for path in (model_of(state), Path(state)):
        if path.name not in origin.files:
            raise FileFormatError(f"{file}: belongs to {', '.join(origin.files)}, not to {path.name}")
        try:
            actual = _sha256(path)
        except OSError as e:
            raise FileFormatError(f"{path}: cannot be read: {e.strerror}") from None
        if actual != origin.files[path.name]:
            raise FileFormatError(f"{path}: damaged, or of another snapshot than {file.name}")
    return origin, arrays


def newest(prefix: str | Path) -> Path | None:
    """The .solverstate of the intact snapshot written last, None where there is none; says which were damaged."""
    found = []
    for file in _of_prefix(prefix, _SIDECAR):
        try:
            origin, _ = read_sidecar(file)
            found.append((origin.written, origin.iteration, file, origin.files))
        except FileFormatError as e:
            logger.warning("not resumed from: %s", e)
    for state in [s for suffix in _STATES for s in _of_prefix(prefix, suffix)]:
        if not sidecar(state).exists():
            logger.warning("not resumed from: %s: incomplete, %s is not there", state, sidecar(state).name)
    for _, _, file, files in sorted(found, key=lambda one: one[:2], reverse=True):
        stem = file.name.removesuffix(_SIDECAR)
        state = next((file.with_name(stem + suffix) for suffix in _STATES if stem + suffix in files), None)
        try:
            if state is None:
                raise FileFormatError(f"{file}: belongs to {', '.join(files)}")
            read(state)
            return state
        except FileFormatError as e:
            logger.warning("not resumed from: %s", e)
    return None


def prune(state: str | Path, keep: int) -> None:
    """Delete all snapshots of the run that has just written this one but the `keep` newest; what cannot be deleted is
    said."""
    latest = sidecar(state)
    run = read_sidecar(latest)[0].run
    older = []
    for file in _of_prefix(latest.with_name(latest.name.rpartition("_iter_")[0]), _SIDECAR):
        try:
            origin, _ = read_sidecar(file)
        except FileFormatError:
            continue
        if origin.run == run and file != latest:
            older.append((origin.written, file))
    for _, file in sorted(older, key=lambda one: one[0], reverse=True)[keep - 1 :]:
        try:
            file.unlink()  # first: without it the others are no snapshot
            for suffix in _STATES:
                state = file.with_name(file.name.removesuffix(_SIDECAR) + suffix)
                state.unlink(missing_ok=True)
                model_of(state).unlink(missing_ok=True)
        except OSError as e:
            logger.warning("%s: cannot be deleted: %s", file, e.strerror)


def options_in_force(solver_param, layers: Sequence, roidb: Sequence[Mapping[str, Any]], classes) -> dict[str, str]:
    """Everything that decides what is learned, as text by name: options, solver, layers, and a hash of the data."""
    options = {f"TRAIN.{f.name}": getattr(cfg.TRAIN, f.name) for f in dataclasses.fields(cfg.TRAIN)}
    options = {name: value for name, value in options.items() if name.split(".")[1] not in _FREE_OPTIONS}
    options |= {name: getattr(cfg, name) for name in ("BOX_WIDTH_OFFSET", "PIXEL_MEANS", "EPS")}
    free = _FREE_SOLVER_FIELDS - _NEEDED_BY_POLICY.get(solver_param.lr_policy, set())
    for field in solver_param.DESCRIPTOR.fields:
        if field.name not in free:
            value = getattr(solver_param, field.name)
            options[f"solver's {field.name}"] = value if isinstance(value, int | float | str) else list(value)
    texts = {name: str(value) for name, value in options.items()}
    for layer in layers:
        texts[f"layer {layer.name}"] = text_format.MessageToString(layer.param, as_one_line=True)
    return {**texts, "classes": ", ".join(classes), "data set": _data_hash(roidb)}


def check_options(file: Path, before: Mapping[str, str], now: Mapping[str, str], force: bool) -> None:
    """Compare the options of a snapshot with those in force; ConfigError names the first that differs, with `force` a
    warning names them all."""
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if not names:
        return
    told = [f"{n}: {_short(before.get(n))} in the snapshot, {_short(now.get(n))} now" for n in names]
    if not force:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        raise ConfigError(
            f"{file}: trained otherwise: {told[0]}{more}. Resume with the same options and data, or say "
            "--force-resume: then it is another training from here on"
        )
    for line in told:
        logger.warning("%s: resumed though it was trained otherwise: %s", file, line)


def _short(text: str | None) -> str:
    return "nothing" if text is None else textwrap.shorten(text, 80, placeholder=" ...")


def _data_hash(roidb: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the images' names, sizes and boxes, mirror images left out: they follow from the others."""
    digest = hashlib.sha256()
    for entry in roidb:
        if not entry["flipped"]:
            image = Path(entry["image"])
            digest.update(repr((image.name, image.stat().st_size, entry["width"], entry["height"])).encode())
            for key in ("boxes", "gt_classes", "max_overlaps", "max_classes"):
                digest.update(np.ascontiguousarray(entry[key]))
    return digest.hexdigest()[:16]


def _of_prefix(prefix: str | Path, suffix: str) -> list[Path]:
    prefix = Path(prefix)
    return sorted(prefix.parent.glob(f"{glob.escape(prefix.name)}_iter_*{suffix}"))


def _sha256(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slowly(stream)


def _slowly(stream) -> str:
    digest = hashlib.sha256()  # Python 3.10
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
