"""Training of a Fast R-CNN net: roidb to solver, the loop, and un-normalised snapshots (train.py of Fast R-CNN)."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import threading
import time
import zipfile
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from caffelite import get_solver, proto
from caffelite.errors import CaffeliteError, FileFormatError, WeightsError
from caffelite.proto.files import replacing
from detection.config import ConfigError, cfg
from detection.fast_rcnn import memory
from detection.fast_rcnn.classes import check_classes, fit_classes
from detection.fast_rcnn.files import make_writable, write_class_names
from detection.roi_data.roidb import add_bbox_targets, training_roidb

logger = logging.getLogger("detection")


class TrainingError(CaffeliteError):
    """Training that cannot go on."""


class Trainer:
    """A solver with its roidb: trains, writes snapshots and a loss log.

    Files are named after the solver's snapshot_prefix: <prefix>_iter_N.caffemodel has bbox_pred un-normalised, ready
    for the test; <prefix>_iter_N.solverstate and .resume.npz hold what else an exact resume needs; <prefix>_loss.jsonl
    has one line per iteration, <prefix>_classes.txt the names of the classes.

    `solver` is a SolverParameter, `classes` the data set's names with the background; `fit` makes the net's numbers of
    classes those of the data set. Then comes `set_data`, then `train`. Raises CaffeliteError.
    """

    def __init__(self, solver, classes: Sequence[str], fit: bool = False):
        self.param = type(solver)()
        self.param.CopyFrom(solver)
        _match_classes(self.param, classes, fit)
        if cfg.TRAIN.SNAPSHOT_INFIX:
            self.param.snapshot_prefix += f"_{cfg.TRAIN.SNAPSHOT_INFIX}"
        self.display = self.param.display or 20
        # the solver's own snapshots would hold normalised box regressors, and the trainer does the talking
        self.param.snapshot = self.param.display = 0
        make_writable(os.path.dirname(self.param.snapshot_prefix) or ".")
        self.classes = classes
        self.seed = self.param.random_seed if self.param.random_seed >= 0 else cfg.RNG_SEED
        self.solver = get_solver(self.param, random_seed=self.seed)
        self.net = self.solver.net
        self.data_layer = next((layer for layer in self.net.layers if hasattr(layer, "set_roidb")), None)
        if self.data_layer is None:
            raise ConfigError(f"{self.net.file}: has no RoIDataLayer to feed with the data set")
        self.regressor = self.net.params.get("bbox_pred") if cfg.TRAIN.BBOX_REG else None
        if cfg.TRAIN.BBOX_REG and self.regressor is None:
            logger.warning(
                "%s: has no layer bbox_pred: what predicts boxes there is trained on normalised targets, and stays so",
                self.net.file,
            )
        elif self.regressor is not None and len(self.regressor) != 2:
            raise ConfigError(f"{self.net.file}: layer 'bbox_pred': expected a bias, which snapshots un-normalise")

    def set_data(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Train on the roidb entries of a data set (`build_roidb`). Raises DatasetError, ConfigError."""
        roidb = training_roidb(entries)
        self.means, self.stds = add_bbox_targets(roidb, len(self.classes))
        self.data_layer.set_roidb(roidb)
        logger.info(
            "training on %d images%s, %d per minibatch%s, seed %d",
            len(roidb), " (mirror images included)" if cfg.TRAIN.USE_FLIPPED else "", cfg.TRAIN.IMS_PER_BATCH,
            f" x iter_size {self.param.iter_size}" if self.param.iter_size > 1 else "", self.seed,
        )  # fmt: skip
        tops = self.net.top_blobs[list(self.net.layers).index(self.data_layer)]
        for blob, shape in zip(tops, memory.largest_shapes(roidb, len(self.classes))):
            blob.reshape(*shape)
        self.net.reshape()
        logger.info("%s", memory.describe(memory.memory_plan(self.solver)))

    def load_weights(self, paths: str, strict: bool = False) -> None:
        """Copy weights by layer name from .caffemodel files (several with commas); logs what was loaded and not."""
        for path in paths.split(","):
            if not os.path.exists(path):
                raise WeightsError(f"--weights {path}: no such file; data/README.md says where weights come from")
            report = self.net.copy_from(path, strict=strict)
            logger.info("%s", report)
            if not report.loaded:
                raise WeightsError(f"--weights {path}: has no layer of {self.net.file}: weights of another net?")

    # -- the loop ---------------------------------------------------------------------------------------------------

    def train(self, max_iters: int) -> Path:
        """Train up to iteration `max_iters`; returns the last model written. Raises TrainingError.

        Ctrl-C ends it after the iteration under way, with a snapshot and a KeyboardInterrupt that names it; a second
        one ends it at once.
        """
        self._start_loss_log()
        model, began, first = None, time.perf_counter(), self.solver.iter
        recent = deque(maxlen=max(self.param.average_loss, self.display))
        try:
            with (
                _interrupts() as interrupted,
                open(self.loss_log, "a") as log,
                logging_redirect_tqdm(),
                tqdm(total=max_iters, initial=first, desc="train", unit="it", disable=None) as bar,
            ):
                while self.solver.iter < max_iters:
                    rate = self.solver.lr
                    self.solver.step(1)
                    losses = self._losses()
                    log.write(json.dumps({"iter": self.solver.iter - 1, "lr": rate, **losses}) + "\n")
                    recent.append(losses)
                    means = {name: sum(each[name] for each in recent) / len(recent) for name in losses}
                    bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()}, refresh=False)
                    bar.update()
                    if bar.disable and self.solver.iter % self.display == 0:
                        seconds = (time.perf_counter() - began) / (self.solver.iter - first)
                        text = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
                        done = f"iteration {self.solver.iter} of {max_iters}"
                        logger.info("%s: %s, lr %g, %.2f s each", done, text, rate, seconds)
                    last = self.solver.iter == max_iters or interrupted.is_set()
                    if last or self.solver.iter % cfg.TRAIN.SNAPSHOT_ITERS == 0:
                        log.flush()  # a resume reads it up to here
                        model = self.snapshot()
                    if interrupted.is_set() and self.solver.iter < max_iters:
                        raise KeyboardInterrupt(
                            f"stopped at iteration {self.solver.iter} of {max_iters}; to continue: "
                            f"--snapshot {str(model).replace('.caffemodel', '.solverstate')}"
                        )
        finally:
            self.data_layer.close()
        if model is None:
            raise TrainingError(f"nothing to train: the solver is at iteration {first}, {max_iters} are asked for")
        return model

    @property
    def loss_log(self) -> Path:
        """The file that gets one JSON line per iteration: iter, lr, loss and the losses it is the sum of."""
        return Path(f"{self.param.snapshot_prefix}_loss.jsonl")

    def _losses(self) -> dict[str, float]:
        """The objective and its terms in the pass just done. Raises TrainingError where it is not finite."""
        terms = {
            name: weight * float(self.net.blobs[name].data.sum())
            for name, weight in self.net.blob_loss_weights.items()
            if weight
        }
        losses = {"loss": sum(terms.values()), **terms}
        if not math.isfinite(losses["loss"]):
            raise TrainingError(self._where_not_finite(losses))
        return losses

    def _where_not_finite(self, losses: Mapping[str, float]) -> str:
        blobs = self.net.blobs
        name = next((name for name in blobs if not np.isfinite(blobs[name].data).all()), self.net.outputs[-1])
        values = blobs[name].data
        return (
            f"iteration {self.solver.iter - 1}: the loss is not finite "
            f"({', '.join(f'{loss} {value:g}' for loss, value in losses.items())}). First blob with such values: "
            f"{name!r} ({(~np.isfinite(values)).sum()} of {values.size}). "
            f"Images of the minibatch: {', '.join(self.data_layer.last_images)}. "
            "Try a lower base_lr, clip_gradients, or other weights to start from"
        )

    # -- snapshots --------------------------------------------------------------------------------------------------

    def snapshot(self) -> Path:
        """Write the model, the solver's state and the sampler's; returns the model's file."""
        resume = {f"sampler:{key}": value for key, value in self.data_layer.get_state().items()}
        if self.regressor is not None:
            resume |= {f"bbox_pred:{i}": blob.data.copy() for i, blob in enumerate(self.regressor)}
            resume |= {"bbox_means": self.means, "bbox_stds": self.stds}
        with self._unnormalised():
            model, state = self.solver.snapshot()
        with replacing(_resume_file(state)) as temporary, open(temporary, "wb") as file:
            np.savez(file, **resume)
        write_class_names(model, self.classes)
        logger.info("wrote %s", model)
        return Path(model)

    @contextmanager
    def _unnormalised(self):
        """bbox_pred predicts plain dx, dy, dw, dh inside; afterwards it has its old values, bit for bit."""
        if self.regressor is None:
            yield
            return
        weights, bias = self.regressor
        saved = weights.data.copy(), bias.data.copy()
        stds = self.stds.reshape(-1, *[1] * (weights.ndim - 1))
        weights.data[...] = weights.data * stds
        bias.data[...] = bias.data * self.stds + self.means
        try:
            yield
        finally:
            weights.data[...], bias.data[...] = saved

    def restore(self, state: str | Path) -> None:
        """Continue exactly from a snapshot's .solverstate. Raises FileFormatError, ConfigError, SolverError."""
        _, file = resume_files(state)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                resume = dict(arrays)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as e:
            raise FileFormatError(f"{file}: damaged, or not written by a training ({e})") from None
        if self.regressor is not None:
            mine = {"bbox_means": self.means, "bbox_stds": self.stds}
            if not all(key in resume and np.array_equal(resume[key], mine[key]) for key in mine):
                raise ConfigError(
                    f"{file}: its box targets were normalised otherwise: resume with the same data set and options"
                )
        self.solver.restore(state)
        if self.regressor is not None:
            for i, blob in enumerate(self.regressor):
                blob.data[...] = resume[f"bbox_pred:{i}"]
        prefix = "sampler:"
        self.data_layer.set_state({k[len(prefix) :]: resume[k] for k in resume if k.startswith(prefix)})
        logger.info("continuing from %s at iteration %d", state, self.solver.iter)

    def _start_loss_log(self) -> None:
        """Begin the loss log: empty, or where training continues, with the lines up to there."""
        lines = self.loss_log.read_text().splitlines() if self.solver.iter and self.loss_log.exists() else []
        # only a whole line ends in a brace: a crash may have cut the last one
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["iter"] < self.solver.iter]
        self.loss_log.write_text("".join(f"{line}\n" for line in kept))


def _match_classes(param, classes: Sequence[str], fit: bool) -> None:
    """Compare the train net's numbers of classes with the data set's, or with `fit` change the net in `param`."""
    for field in ("net", "train_net"):
        if param.HasField(field):
            file = getattr(param, field)
            definition, _ = proto.read_net(file)
            if fit:
                fit_classes(definition, len(classes))
                param.ClearField(field)
                getattr(param, f"{field}_param").CopyFrom(definition)
            else:
                check_classes(definition, classes, file)


def resume_files(state: str | Path) -> tuple[Path, Path]:
    """The two files that a resume needs: the .solverstate and what lies beside it. Raises FileFormatError."""
    if ".solverstate" not in Path(state).name:
        raise FileFormatError(f"--snapshot {state}: expected a file <prefix>_iter_N.solverstate")
    files = Path(state), _resume_file(state)
    for path in files:
        if not path.is_file():
            raise FileFormatError(f"--snapshot {state}: {path} does not exist, and an exact resume needs it")
    return files


def _resume_file(state: str | Path) -> Path:
    state = Path(state)
    return state.with_name(state.name.split(".solverstate")[0] + ".resume.npz")


@contextmanager
def _interrupts():
    """Inside, the first Ctrl-C sets the event that this gives; a second one raises KeyboardInterrupt."""
    asked = threading.Event()
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield asked  # another thread, or someone who has other plans
        return

    def ask(number, frame):
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
