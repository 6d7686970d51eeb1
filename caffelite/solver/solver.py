"""The training loop of Caffe: step, test, display, snapshot, restore. Source: solver.cpp and sgd_solver.cpp."""

from __future__ import annotations

import difflib
import logging
import math
import os
import tempfile
from collections import deque
from pathlib import Path

import numpy as np

from caffelite import proto
from caffelite.backend import random
from caffelite.blob import Blob
from caffelite.errors import CaffeliteError, SolverError
from caffelite.net import TEST, TRAIN, Net
from caffelite.proto import weights as weight_files
from caffelite.solver import policies
from caffelite.solver.updates import RULES, Group, norm

log = logging.getLogger("caffelite")
MAX_ITER = 2**31 - 1  # what a .solverstate can hold


class Solver:
    """Trains a net as a SolverParameter says.

    `net` is the train net, `test_nets` share its weights, `iter` counts the updates done, `param` is the
    SolverParameter. Built from a solver prototxt or a SolverParameter, which errors say came from `file`. Raises
    PrototxtError, SolverError, NetError.
    """

    type: str | None = None  # a subclass for one rule names it; Solver itself takes the prototxt's

    def __init__(self, solver, random_seed: int | None = None, file: str | None = None):
        self.param = proto.message("SolverParameter")()
        if isinstance(solver, (str, os.PathLike)):
            self.file = os.fspath(solver)
            self.param.CopyFrom(proto.read_solver(self.file))
        else:
            self.file = file or "<SolverParameter>"
            self.param.CopyFrom(solver)
        if self.type:
            self.param.type = self.type
        p = self.param
        if p.type not in RULES:
            near = difflib.get_close_matches(p.type, RULES, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SolverError(f"{self.file}: unknown solver type {p.type!r}{hint} (known: {', '.join(RULES)})")
        self.rule = RULES[p.type](p, self.file)
        self._check()
        if random_seed is None and p.random_seed >= 0:
            random_seed = p.random_seed
        if random_seed is not None:
            random.set_random_seed(random_seed)

        self.iter = 0
        self.current_step = 0
        self.smoothed_loss = 0.0
        self.minimum_loss = p.minimum_loss if hasattr(p, "minimum_loss") else math.inf
        self.iter_last_event = 0
        self.last_rate = 0.0  # of the last update, before lr_mult; that of one left out if it was
        self.requested_early_exit = False
        self._callbacks: list[tuple] = []
        self._losses: deque[float] = deque()
        self._groups: list[Group] = []
        self._groups_of: tuple = ()
        self._action = None
        self._snapshot_at: int | None = None

        self.net = self._train_net()
        for weights in p.weights:
            for path in weights.split(","):
                self.net.copy_from(path.strip())
        self.test_nets = self._test_nets()
        shapes = [q.blob.shape for q in self.net.learnable_params]
        self.history = [Blob(*shape) for _ in range(self.rule.histories) for shape in shapes]
        for blob, shape in zip(self.history, shapes * self.rule.histories):
            blob.reshape(*shape)

    # -- training ---------------------------------------------------------------------------------------------------

    def step(self, iterations: int) -> float:
        """Do `iterations` updates; returns the smoothed loss of the last. Tests, displays and snapshots on the way.

        Raises SolverError, NetError.
        """
        p, stop = self.param, self.iter + iterations
        policies.check(p, self.file)
        if stop > MAX_ITER:
            raise SolverError(f"{self.file}: expected to stop at iteration {MAX_ITER} at the latest, actual {stop}")
        self._losses.clear()
        self.smoothed_loss = 0.0
        while self.iter < stop:
            self._clear_gradients()
            if p.test_interval and self.iter % p.test_interval == 0 and (self.iter > 0 or p.test_initialization):
                self.test_all()
                if self.requested_early_exit:
                    break
            for on_start, _, _ in self._callbacks:
                on_start()
            display = bool(p.display and self.iter % p.display == 0)
            self.net.debug_info = display and p.debug_info
            loss = 0.0
            for k in range(p.iter_size):
                # streams are keyed by the pass: set from the iteration, they need no saving
                self.net.pass_state.number = self.iter * p.iter_size + k
                objective = self.net.launch()
                self.net._backward(len(self.net.layers) - 1, 0)
                for _, _, on_pass in self._callbacks:
                    on_pass()
                loss += float(objective)  # last: until here a GPU has been given all its work
            loss /= p.iter_size
            self._smooth(loss)
            if display:
                log.info("Iteration %d, loss = %.6g", self.iter, self.smoothed_loss)
                self._log_outputs(self.net, [self.net.blobs[n].read().ravel() for n in self.net.outputs], "Train")
            answers = [on_gradients_ready() for _, on_gradients_ready, _ in self._callbacks]
            if any(isinstance(answer, str) and answer == "skip" for answer in answers):
                self.last_rate = self.lr
            else:
                self.apply_update()
            self.iter += 1
            if self._obey(snapshot_due=p.snapshot > 0 and self.iter % p.snapshot == 0):
                break
        return self.smoothed_loss

    def solve(self, resume_file=None) -> None:
        """Train up to max_iter, from a snapshot if one is given; snapshots at the end unless the solver says not to."""
        p = self.param
        log.info("Solving %s, learning rate policy: %s", self.net.name or self.file, p.lr_policy)
        self.requested_early_exit = False
        if resume_file:
            self.restore(resume_file)
        if p.snapshot_after_train:
            self._check_snapshot_prefix()
        self.step(p.max_iter - self.iter)
        if p.snapshot_after_train and self._snapshot_at != self.iter:
            self.snapshot()
        if self.requested_early_exit:
            log.info("Optimization stopped early, at iteration %d", self.iter)
            return
        if p.display and self.iter % p.display == 0:
            self._smooth(self.net._forward(0, len(self.net.layers) - 1))
            log.info("Iteration %d, loss = %.6g", self.iter, self.smoothed_loss)
        if p.test_interval and self.iter % p.test_interval == 0:
            self.test_all()
        log.info("Optimization done.")

    @property
    def lr(self) -> float:
        """The learning rate that the policy gives for the present iteration."""
        return policies.learning_rate(self.param, _Preview(self))

    def apply_update(self) -> None:
        """Change the weights from their diffs: rate, clipping, division by iter_size, decay, update, in that order."""
        p = self.param
        rate = self.last_rate = policies.learning_rate(p, self)
        if p.display and self.iter % p.display == 0:
            log.info("Iteration %d, lr = %g", self.iter, rate)
        scale = self._clip_scale() / p.iter_size
        l1 = p.regularization_type == "L1"
        for group in self._grouped():
            decay = p.weight_decay * group.decay_mult
            self.rule.update(group, scale, decay, l1, rate * group.lr_mult, self.iter)

    def find_bad(self, answer) -> None:
        """Make `answer`, an array of one number of the current backend, NaN if any gradient is infinite or NaN."""
        for group in self._grouped():
            group.run("find_bad", answer)

    def _clear_gradients(self) -> None:
        """Set the diffs of all parameters to zero (those never touched are zero without memory)."""
        for group in self._grouped():
            if any(blob.diff_memory.allocated for blob in group.blobs):
                group.run("clear")
        for q in self.net.learnable_params:
            if not q.lr_mult and q.blob.diff_memory.allocated:
                q.blob.gradient[...] = 0

    def _grouped(self) -> list[Group]:
        params = self.net.learnable_params
        of = [(q.lr_mult, q.decay_mult, q.blob) for q in params], list(self.history), self.rule
        if of != self._groups_of:  # also where someone has changed them since
            self._groups_of, self._groups = of, self.rule.groups(params, self.history)
        return self._groups

    def _clip_scale(self) -> float:
        limit = self.param.clip_gradients
        if limit < 0:
            return 1.0
        length = norm([q.blob for q in self.net.learnable_params if q.blob.diff_memory.allocated])
        if length <= limit:
            return 1.0
        log.info("Gradient clipping: scaling down gradients (L2 norm %.6g > %g) by %.6g", length, limit, limit / length)
        return limit / length

    def add_callback(self, on_start, on_gradients_ready, on_pass=lambda: None) -> None:
        """Call on_start() before each iteration, on_pass() after each forward and backward pass, of which an iteration
        has iter_size, and on_gradients_ready() before each update, which is left out if it answers "skip"."""
        self._callbacks.append((on_start, on_gradients_ready, on_pass))

    def set_action(self, action) -> None:
        """Ask action() after each iteration and before each pass of a test.

        It answers None, "snapshot", "stop" or "snapshot_stop".
        """
        self._action = action

    def _obey(self, snapshot_due: bool = False) -> bool:
        """Do what the action asks for; returns whether it asks to stop."""
        request = self._action() if self._action else None
        if snapshot_due or request in ("snapshot", "snapshot_stop"):
            try:
                self.snapshot()
            except CaffeliteError as e:
                log.error("No snapshot of iteration %d, training goes on: %s", self.iter, e)
        stop = request in ("stop", "snapshot_stop")
        self.requested_early_exit |= stop
        return stop

    def share_weights(self, net: Net) -> None:
        """Let `net` use the train net's parameters (pycaffe's name)."""
        net.share_with(self.net)

    # -- testing ----------------------------------------------------------------------------------------------------

    def test_all(self) -> list[dict[str, np.ndarray]]:
        """Run every test net for its test_iter passes; logs and returns the means of its outputs.

        A test that the action stops has none, and the nets behind it are not tested.
        """
        means = []
        for k in range(len(self.test_nets)):
            means.append(self._test(k))
            if self.requested_early_exit:
                break
        return means

    def _test(self, k: int) -> dict[str, np.ndarray]:
        p, net = self.param, self.test_nets[k]
        log.info("Iteration %d, testing net (#%d)", self.iter, k)
        net.share_with(self.net)
        sums, loss = [], 0.0
        for _ in range(p.test_iter[k]):
            if self._obey():
                log.info("Test interrupted.")
                return {}
            loss += net._forward(0, len(net.layers) - 1)
            values = [net.blobs[n].read().astype(np.float64) for n in net.outputs]
            sums = [a + b for a, b in zip(sums, values)] if sums else values
        means = [s / p.test_iter[k] for s in sums]
        if p.test_compute_loss:
            log.info("Test loss: %.6g", loss / p.test_iter[k])
        self._log_outputs(net, [m.ravel() for m in means], "Test")
        return dict(zip(net.outputs, means))

    # -- snapshots --------------------------------------------------------------------------------------------------

    def snapshot(self) -> tuple[str, str]:
        """Write <prefix>_iter_N.caffemodel and .solverstate (with .h5 for HDF5); returns the two names."""
        p = self.param
        hdf5 = p.snapshot_format == p.HDF5
        stem = f"{p.snapshot_prefix}_iter_{self.iter}"
        model, state = (f"{stem}{suffix}{'.h5' if hdf5 else ''}" for suffix in (".caffemodel", ".solverstate"))
        (self.net.save_hdf5 if hdf5 else self.net.save)(model, p.snapshot_diff)
        weight_files.write_solverstate(state, self.iter, model, self.current_step, [b.read() for b in self.history])
        self._snapshot_at = self.iter
        log.info("Snapshot: %s and %s", model, state)
        return model, state

    def restore(self, path) -> None:
        """Continue from a .solverstate(.h5) and the weights it names, those beside it if there are any of the name.

        Raises SolverError, WeightsError.
        """
        path = os.fspath(path)
        state = weight_files.read_solverstate(path)
        if len(state.history) != len(self.history):
            raise SolverError(
                f"{path}: {len(state.history)} history blobs, {self.file} ({self.param.type}) needs {len(self.history)}"
            )
        for k, (blob, values) in enumerate(zip(self.history, state.history)):
            if not weight_files.shapes_match(values.shape, blob.shape):
                raise SolverError(f"{path}: history blob {k} has shape {values.shape}, the net needs {blob.shape}")
        if state.learned_net:
            beside = Path(path).parent / Path(state.learned_net).name  # they may have been moved together
            self.net.copy_from(beside if os.path.exists(beside) else state.learned_net)
        for blob, values in zip(self.history, state.history):
            blob.assign(values.reshape(blob.shape))
        self.iter, self.current_step = state.iter, state.current_step
        self._snapshot_at = None

    # -- building ---------------------------------------------------------------------------------------------------

    def _train_net(self) -> Net:
        p = self.param
        given = [n for n in ("net", "net_param", "train_net", "train_net_param") if p.HasField(n)]
        fields = "net, net_param, train_net, train_net_param"
        if not given:
            raise SolverError(f"{self.file}: names no train net; give one of: {fields}")
        if len(given) > 1:
            raise SolverError(f"{self.file}: names {len(given)} train nets ({', '.join(given)}); give one of: {fields}")
        return self._net(getattr(p, given[0]), TRAIN, p.train_state)

    def _test_nets(self) -> list[Net]:
        p = self.param
        if p.HasField("net") and p.HasField("net_param"):
            raise SolverError(f"{self.file}: give either net or net_param, not both")
        generic = p.net_param if p.HasField("net_param") else p.net if p.HasField("net") else None
        sources = [*p.test_net_param, *p.test_net]
        if len(p.test_iter) < len(sources) or (generic is None and len(p.test_iter) > len(sources)):
            raise SolverError(
                f"{self.file}: test_iter must be given once per test net, "
                f"actual {len(p.test_iter)} for {len(sources)} net(s)"
            )
        sources += [generic] * (len(p.test_iter) - len(sources))
        if p.test_state and len(p.test_state) != len(sources):
            raise SolverError(
                f"{self.file}: test_state must be given once per test net or not at all, "
                f"actual {len(p.test_state)} for {len(sources)} net(s)"
            )
        if sources and p.test_interval <= 0:
            raise SolverError(
                f"{self.file}: test_interval must be over 0 where there are test nets, actual {p.test_interval}"
            )
        nets = [self._net(s, TEST, p.test_state[k] if p.test_state else None) for k, s in enumerate(sources)]
        for net in nets:
            net.debug_info = p.debug_info
        return nets

    def _net(self, source, phase: int, extra_state) -> Net:
        return Net(source, phase=phase, state=extra_state or proto.message("NetState")())

    def _check(self) -> None:
        p = self.param
        if p.lr_policy:  # without one Caffe makes a solver, too: some only want its net
            policies.check(p, self.file)
        if p.regularization_type not in ("L1", "L2"):
            raise SolverError(f"{self.file}: unknown regularization_type {p.regularization_type!r} (known: L1, L2)")
        if p.iter_size < 1:
            raise SolverError(f"{self.file}: iter_size must be at least 1, actual {p.iter_size}")
        if p.average_loss < 1:
            raise SolverError(f"{self.file}: average_loss must be at least 1, actual {p.average_loss}")
        if p.snapshot:
            self._check_snapshot_prefix()

    def _check_snapshot_prefix(self) -> None:
        prefix = self.param.snapshot_prefix
        folder = os.path.dirname(prefix) or "."
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as e:
            raise SolverError(
                f"{self.file}: cannot write to snapshot_prefix {prefix!r} ({e.strerror}): "
                f"make sure that the folder {folder!r} exists and is writable"
            ) from e

    # -- details ----------------------------------------------------------------------------------------------------

    def _smooth(self, loss: float) -> None:
        self._losses.append(loss)
        if len(self._losses) > self.param.average_loss:
            self._losses.popleft()
        self.smoothed_loss = sum(self._losses) / len(self._losses)

    def _log_outputs(self, net: Net, outputs: list[np.ndarray], kind: str) -> None:
        k = 0
        for name, values in zip(net.outputs, outputs):
            weight = net.blob_loss_weights[name]
            for value in values:
                note = f" (* {weight:g} = {weight * value:.6g} loss)" if weight else ""
                log.info("    %s net output #%d: %s = %.6g%s", kind, k, name, value, note)
                k += 1


class _Preview:
    """A solver's numbers for a rate policy that may count on them but must not change them."""

    def __init__(self, solver: Solver):
        for name in ("iter", "current_step", "smoothed_loss", "minimum_loss", "iter_last_event"):
            setattr(self, name, getattr(solver, name))


def _rule_class(rule: str) -> type[Solver]:
    return type(f"{rule}Solver", (Solver,), {"type": rule, "__doc__": f"A Solver with the {rule} rule."})


SGDSolver = _rule_class("SGD")
NesterovSolver = _rule_class("Nesterov")
AdaGradSolver = _rule_class("AdaGrad")
RMSPropSolver = _rule_class("RMSProp")
AdaDeltaSolver = _rule_class("AdaDelta")
AdamSolver = _rule_class("Adam")


def get_solver(solver, random_seed: int | None = None, file: str | None = None) -> Solver:
    """The solver that a solver prototxt describes (pycaffe's name), or a SolverParameter, which errors say to be of
    `file`."""
    return Solver(solver, random_seed, file)
