"""The files of a training and a test: where they lie, and those whose format is our own."""

from __future__ import annotations

import glob
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from caffelite import proto
from caffelite.errors import CaffeliteError, WeightsError
from caffelite.proto.files import replacing
from detection.config import cfg
from detection.datasets.voc import VOC_CLASSES


def read_solver(path: str, dataset: str, output: str | None = None):
    """The SolverParameter of a file, its snapshot_prefix complete: in the folder `output` if given, else where the
    prefix says, or if that names no folder, in output/<EXP_DIR>/<data set>; with TRAIN.SNAPSHOT_INFIX at its end.
    Raises CaffeliteError."""
    if not os.path.isfile(path):
        raise CaffeliteError(f"--solver {path}: no such file here; the default job runs from the repository's root")
    param = proto.read_solver(path)
    folder, name = _prefix(param, path)
    if cfg.TRAIN.SNAPSHOT_INFIX:
        name += f"_{cfg.TRAIN.SNAPSHOT_INFIX}"
    param.snapshot_prefix = os.path.join(output or folder or os.path.join("output", cfg.EXP_DIR, dataset), name)
    return param


def _prefix(param, path: str) -> tuple[str, str]:
    """Folder and name of a solver's snapshots; where the prefix is a mere folder, the name is the solver file's."""
    folder, name = os.path.split(param.snapshot_prefix)
    return folder, name or Path(path).stem


def make_writable(folder: str | Path) -> None:
    """Make a folder and try it: after hours of work it is too late to learn that it cannot be written. Raises
    CaffeliteError."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        raise CaffeliteError(f"{folder}: nothing can be written to this folder: {e.strerror}") from None


def newest_model(definition: str, fits: Callable[[list[str]], bool] | None = None) -> Path:
    """The model written last by the solver.prototxt beside a test prototxt; if there are such, of those whose names of
    classes, background first, satisfy `fits`. Raises WeightsError that says how to train one."""
    solver = Path(definition).with_name("solver.prototxt")
    if not Path(definition).is_file():
        root = "; the default job runs from the repository's root" * (not os.path.isabs(definition))
        raise WeightsError(f"--def {definition}: no such file{root}")
    if not solver.is_file():
        raise WeightsError(f"no --net is given, and there is no {solver} whose newest model could be taken")
    folder, name = _prefix(proto.read_solver(str(solver)), str(solver))
    folders = [Path(folder)] if folder else Path("output", cfg.EXP_DIR).glob("*")
    found = [model for place in folders for model in place.glob(f"{name}_*iter_*.caffemodel*")]
    # what was made of a model, compressed or with SVMs, fits another net or other options
    models = [model for model in found if re.fullmatch(r".*_iter_\d+\.caffemodel(\.h5)?", model.name)]
    if not models:
        where = folder or f"output/{cfg.EXP_DIR}"
        where += "" if os.path.isabs(where) else f" of the current folder, {os.getcwd()}"
        raise WeightsError(
            f"there is no trained model {name}_iter_*.caffemodel in {where}; train one with "
            f"./tools/train_net.py --solver {solver}"
        )
    fitting = [model for model in models if fits is not None and fits(kept_class_names(model) or [])]
    return max(fitting or models, key=lambda model: (model.stat().st_mtime_ns, str(model)))


def _classes_file(model: str | Path) -> Path:
    model = Path(model)
    return model.with_name(model.name.rsplit("_iter_", 1)[0] + "_classes.txt")


def write_class_names(model: str | Path, classes: Sequence[str]) -> None:
    """Keep the names of a model's classes, background first, beside it and the other snapshots of its training."""
    with replacing(_classes_file(model)) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in classes))


def kept_class_names(model: str | Path) -> list[str] | None:
    """The names that `write_class_names` kept beside a model, None where there are none."""
    file = _classes_file(model)
    return file.read_text().splitlines() if file.is_file() else None


def refuse_other_classes(prefix: str, classes: Sequence[str]) -> None:
    """Raise CaffeliteError where models of this snapshot prefix have learned other classes: a training would give them
    its own names."""
    models = sorted(Path(prefix).parent.glob(f"{glob.escape(Path(prefix).name)}_iter_*.caffemodel*"))
    learned = kept_class_names(models[0]) if models else None
    if learned is not None and learned != list(classes):
        raise CaffeliteError(
            f"{models[0].parent}: holds models of the classes {', '.join(learned[1:])}, and this training is of "
            f"{', '.join(classes[1:])}: give it a folder of its own (--output), or delete the other's models"
        )


def class_names(model: str | Path, count: int) -> list[str]:
    """Names of a model's classes, background first: those kept beside it, else PASCAL VOC's if there are 21, else
    numbers."""
    kept = kept_class_names(model)
    if kept is not None:
        return kept
    names = VOC_CLASSES if count == len(VOC_CLASSES) + 1 else [f"class {i}" for i in range(1, count)]
    return ["__background__", *names]
