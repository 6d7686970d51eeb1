"""Training of a Fast R-CNN net: roidb to solver, the loop, and un-normalised snapshots (train.py of Fast R-CNN)."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from caffelite import get_solver, proto
from caffelite.errors import CaffeliteError, FileFormatError, WeightsError
from caffelite.solver import policies
from caffelite.solver.signals import Signals, Stopped
from detection.config import cfg
from detection.errors import ConfigError
from detection.fast_rcnn import memory, snapshots
from detection.fast_rcnn.classes import check_classes, fit_classes
from detection.fast_rcnn.files import kept_class_names, make_writable, write_class_names
from detection.fast_rcnn.watch import NotFinite, TrainingError, Watch
from detection.roi_data.roidb import add_bbox_targets, training_roidb
from detection.training_log import TrainingLog

logger = logging.getLogger("detection")

LINES_EVERY = 20
"""Iterations between the lines on a terminal without a progress bar, for a solver without `display`."""

_NOT_IN_A_SOLVERSTATE = {"minimum_loss": float, "iter_last_event": int}  # what lr_policy "plateau" goes on from


class Trainer:
    """A solver with its roidb: trains, writes snapshots and a loss log.

    Files are named after the solver's snapshot_prefix: <prefix>_iter_N.caffemodel has bbox_pred un-normalised, ready
    for the test; <prefix>_iter_N.solverstate and .resume.npz hold what else an exact resume needs; <prefix>_loss.jsonl
    has one line per iteration, <prefix>_classes.txt the names of the classes.

    `solver` is a SolverParameter, read from `file`, `classes` the data set's names with the background; `fit` makes the
    net's numbers of classes those of the data set. Then comes `set_data`, then `train`. Raises CaffeliteError.
    """

    def __init__(self, solver, classes: Sequence[str], fit: bool = False, file: str | None = None):
        self.param = type(solver)()
        self.param.CopyFrom(solver)
        _match_classes(self.param, classes, fit)
        self.lines_every = self.param.display if self.param.HasField("display") else LINES_EVERY
        # the solver's own snapshots would hold normalised box regressors, and the trainer does the talking
        self.param.snapshot = 0
        if not self.param.debug_info:
            self.param.display = 0
        make_writable(os.path.dirname(self.param.snapshot_prefix) or ".")
        self.classes = classes
        self.seed = self.param.random_seed if self.param.random_seed >= 0 else cfg.RNG_SEED
        self.run = secrets.token_hex(8)
        self.solver = get_solver(self.param, random_seed=self.seed, file=file)
        policies.check(self.param, self.solver.file)
        self.net = self.solver.net
        self.data_layer = next((layer for layer in self.net.layers if hasattr(layer, "set_roidb")), None)
        if self.data_layer is None:
            raise ConfigError(f"{self.net.file}: has no RoIDataLayer to feed with the data set")
        self.watch = Watch(self.solver, self.data_layer)
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
        self.options = snapshots.options_in_force(self.param, self.net.layers, roidb, self.classes)
        logger.info(
            "training on %d images%s, %d per minibatch%s, seed %d",
            len(roidb), " (mirror images included)" if cfg.TRAIN.USE_FLIPPED else "", cfg.TRAIN.IMS_PER_BATCH,
            f" x iter_size {self.param.iter_size}" if self.param.iter_size > 1 else "", self.seed,
        )  # fmt: skip
        tops = self.net.top_blobs[list(self.net.layers).index(self.data_layer)]
        for blob, shape in zip(tops, memory.largest_shapes(roidb, len(self.classes))):
            blob.reshape(*shape)
        self.net.reshape()
        memory.tell(memory.memory_plan(self.solver))

    def load_weights(self, paths: str, strict: bool = False, skip_mismatched: bool = False) -> None:
        """Copy weights by layer name from .caffemodel files (several with commas); logs what was loaded and not.

        With `skip_mismatched`, layers that a file has in other shapes stay as they are.
        """
        for path in paths.split(","):
            if not os.path.exists(path):
                raise WeightsError(f"--weights {path}: no such file; data/README.md says where weights come from")
            report = self.net.copy_from(path, strict=strict, skip_mismatched=skip_mismatched)
            logger.info("%s", report)
            if report.is_of_another_net:
                raise WeightsError(f"--weights {path}: has no layer of {self.net.file}: weights of another net?")

    # -- the loop ---------------------------------------------------------------------------------------------------

    def train(self, max_iters: int) -> Path:
        """Train up to iteration `max_iters`; returns the last model written. Raises TrainingError.

        Ctrl-C and SIGTERM end it after the iteration under way, with a snapshot and a Stopped that names it; a second
        Ctrl-C ends it at once. SIGHUP makes a snapshot, and training goes on.
        """
        first = self.solver.iter
        if first >= max_iters:
            raise TrainingError(
                f"nothing to train: the solver is at iteration {first}, {max_iters} are asked for: ask for more, or "
                "continue from an earlier snapshot (--snapshot)"
            )
        steps = {"step": [self.param.stepsize], "multistep": self.param.stepvalue}.get(self.param.lr_policy)
        if steps and steps[0] >= max_iters:
            logger.info(
                "the rate stays as it is: the solver changes it at iteration %d first, and %d are made",
                steps[0],
                max_iters,
            )
        log = TrainingLog(self.loss_log, first)
        try:
            with Signals() as signals, logging_redirect_tqdm(), self._progress(max_iters) as show, _debug(self.param):
                while True:
                    began = time.perf_counter()
                    self._step(first)
                    rate = self.solver.last_rate
                    losses, seconds = self.watch.losses(), time.perf_counter() - began
                    facts = {"seconds": round(seconds, 6), **memory.facts()}
                    log.add(iter=self.solver.iter - 1, lr=rate, **losses, **facts)
                    show(losses, rate, seconds)
                    wish = signals()
                    done = self.solver.iter == max_iters
                    if done or wish == "stop":
                        log.flush()
                        model = self.snapshot()
                        if not done:
                            raise Stopped(self._how_to_continue(model, max_iters), signals.stopped_by)
                        return model
                    if wish == "snapshot" or self.solver.iter % cfg.TRAIN.SNAPSHOT_ITERS == 0:
                        log.flush()  # a resume reads it up to here
                        self._try_snapshot()
        finally:
            log.close()
            self.data_layer.close()
            if self.watch.skipped:
                logger.warning("%d update(s) were skipped because a number was not finite", self.watch.skipped)

    def _step(self, first: int) -> None:
        """One iteration; an error in it, a damaged image as well, comes after a snapshot of the weights before it."""
        try:
            self.solver.step(1)
        except NotFinite as e:
            raise TrainingError(f"{e}. {self._keep_weights_before(first)}") from None
        except (CaffeliteError, OSError, MemoryError):
            if not self.watch.updating:
                logger.error("iteration %d failed. %s", self.solver.iter, self._keep_weights_before(first))
            raise

    @property
    def loss_log(self) -> Path:
        """The file that gets one JSON line per iteration (detection.training_log)."""
        return Path(f"{self.param.snapshot_prefix}_loss.jsonl")

    @contextmanager
    def _progress(self, max_iters: int) -> Iterator:
        """A function that shows an iteration's losses, rate and seconds: on a bar, or in lines where there is none."""
        recent = deque(maxlen=max(self.param.average_loss, self.lines_every))
        times = deque(maxlen=recent.maxlen)
        with tqdm(total=max_iters, initial=self.solver.iter, desc="train", unit="it", disable=None) as bar:

            def show(losses: Mapping[str, float], rate: float, seconds: float) -> None:
                recent.append(losses)
                times.append(seconds)
                means = {name: sum(each[name] for each in recent) / len(recent) for name in losses}
                bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()}, refresh=False)
                bar.update()
                due = self.lines_every and (self.solver.iter % self.lines_every == 0 or self.solver.iter == max_iters)
                if bar.disable and due:
                    text = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
                    done = f"iteration {self.solver.iter} of {max_iters}"
                    logger.info(
                        "%s: %s (means of %d), lr %g, %.2f s each",
                        done, text, len(recent), rate, sum(times) / len(times),
                    )  # fmt: skip

            yield show

    def _how_to_continue(self, model: Path, max_iters: int) -> str:
        state = str(model).replace(".caffemodel", ".solverstate")
        return f"stopped at iteration {self.solver.iter} of {max_iters}; to continue: --resume, or --snapshot {state}"

    # -- snapshots --------------------------------------------------------------------------------------------------

    def snapshot(self, sampler: Mapping[str, np.ndarray] | None = None) -> Path:
        """Write the model, the solver's state and the sampler's (the present one, if not given); returns the model's
        file. With TRAIN.SNAPSHOT_KEEP older ones are deleted. Raises CaffeliteError."""
        sampler = self.data_layer.get_state() if sampler is None else sampler
        resume = {f"sampler:{key}": value for key, value in sampler.items()}
        resume |= {f"solver:{name}": np.array(getattr(self.solver, name)) for name in _NOT_IN_A_SOLVERSTATE}
        if self.regressor is not None:
            resume |= {f"bbox_pred:{i}": blob.data.copy() for i, blob in enumerate(self.regressor)}
            resume |= {"bbox_means": self.means, "bbox_stds": self.stds}
        make_writable(os.path.dirname(self.param.snapshot_prefix) or ".")  # somebody may have deleted it
        write_class_names(f"{self.param.snapshot_prefix}_iter_{self.solver.iter}.caffemodel", self.classes)
        with self._unnormalised():
            model, state = self.solver.snapshot()
        snapshots.write_sidecar(model, state, resume, self.solver.iter, self.run, self.seed, self.options)
        logger.info("wrote %s", model)
        if cfg.TRAIN.SNAPSHOT_KEEP:
            snapshots.prune(state, cfg.TRAIN.SNAPSHOT_KEEP)
        return Path(model)

    def _try_snapshot(self) -> None:
        try:
            self.snapshot()
        except (CaffeliteError, OSError) as e:
            logger.error("no snapshot of iteration %d (%s); training goes on, the next one may succeed",
                         self.solver.iter, e)  # fmt: skip

    def _keep_weights_before(self, first: int) -> str:
        """Snapshot the weights that an iteration which failed has not changed; says where they are."""
        if self.solver.iter == first:
            return "Nothing was learned since the start"
        self.watch.take_back_statistics()
        if not self.watch.weights_are_finite():
            return "The weights have numbers that are not finite, too: the last snapshot is what is left"
        with contextlib.suppress(CaffeliteError, OSError):
            return f"The weights before it are in {self.snapshot(self.watch.sampler)}"
        return "The weights before it cannot be written: the last snapshot is what is left"

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

    def restore(self, state: str | Path, force: bool = False) -> None:
        """Continue exactly from a snapshot's .solverstate, `force`: even if it was trained with other options.

        A .solverstate of Caffe, with nothing beside it, is taken with a warning. Raises FileFormatError, ConfigError,
        SolverError.
        """
        file = snapshots.sidecar(state)
        if not file.exists():
            self._restore_plain(state)
            return
        origin, resume = snapshots.read(state)
        snapshots.check_options(file, origin.options, self.options, force)
        sampler = {k.removeprefix("sampler:"): resume[k] for k in resume if k.startswith("sampler:")}
        self.solver.restore(state)
        try:
            for name, kind in _NOT_IN_A_SOLVERSTATE.items():
                if f"solver:{name}" in resume:  # snapshots of earlier versions lack them
                    setattr(self.solver, name, kind(resume[f"solver:{name}"].item()))
            if self.regressor is not None:
                mine = {"bbox_means": self.means, "bbox_stds": self.stds}
                if all(np.array_equal(resume[key], value) for key, value in mine.items()):
                    for i, blob in enumerate(self.regressor):
                        blob.data[...] = resume[f"bbox_pred:{i}"]
                else:
                    self._normalise()
            if len(sampler["permutation"]) == len(self.data_layer.sampler.roidb):
                self.data_layer.set_state(sampler)
            else:
                logger.warning("%s: of another number of images, so their order begins anew", file)
        except (KeyError, ValueError) as e:
            raise FileFormatError(f"{file}: damaged, or not written by a training ({e})") from None
        self.run = origin.run
        logger.info("continuing from %s at iteration %d", state, self.solver.iter)

    def _restore_plain(self, state: str | Path) -> None:
        self.solver.restore(state)
        note = "bbox_pred is taken as normalised, which it is where Caffe itself wrote the snapshot"
        if self.regressor is not None and kept_class_names(snapshots.model_of(state)):
            note = "bbox_pred is normalised anew, which changes its last bits"
            self._normalise()
        logger.warning(
            "%s: %s is not beside it, so this is no exact continuation: minibatches are drawn as at the start of a "
            "training, whether options and data are the same is not known, and %s",
            state, snapshots.sidecar(state).name, note,
        )  # fmt: skip
        logger.info("continuing from %s at iteration %d", state, self.solver.iter)

    def _normalise(self) -> None:
        """Let bbox_pred, which predicts plain dx, dy, dw, dh, predict what it is trained on."""
        weights, bias = self.regressor
        stds = np.where(self.stds > 0, self.stds, 1)
        weights.data[...] = weights.data / stds.reshape(-1, *[1] * (weights.ndim - 1))
        bias.data[...] = (bias.data - self.means) / stds


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


@contextmanager
def _debug(param) -> Iterator[None]:
    """With the solver's debug_info, what the engine logs is shown inside."""
    engine = logging.getLogger("caffelite")
    before = engine.level
    if param.debug_info and not param.display:
        logger.warning(
            "the solver has debug_info but no display: nothing is shown in iterations that are not displayed"
        )
    elif param.debug_info:
        engine.setLevel(logging.INFO)
    try:
        yield
    finally:
        engine.setLevel(before)
