"""Learning-rate policies: the rate of an iteration from a SolverParameter. Source: SGDSolver::GetLearningRate."""

from __future__ import annotations

import difflib
import math

from caffelite.errors import SolverError


def fixed(p, state) -> float:
    return p.base_lr


def step(p, state) -> float:
    """base_lr * gamma ^ floor(iter / stepsize)"""
    state.current_step = state.iter // p.stepsize
    return p.base_lr * p.gamma**state.current_step


def exp(p, state) -> float:
    """base_lr * gamma ^ iter"""
    return p.base_lr * p.gamma**state.iter


def inv(p, state) -> float:
    """base_lr * (1 + gamma * iter) ^ -power"""
    return p.base_lr * (1 + p.gamma * state.iter) ** -p.power


def multistep(p, state) -> float:
    """base_lr * gamma ^ current_step, where current_step grows by one at every stepvalue."""
    if state.current_step < len(p.stepvalue) and state.iter >= p.stepvalue[state.current_step]:
        state.current_step += 1
    return p.base_lr * p.gamma**state.current_step


def poly(p, state) -> float:
    """base_lr * (1 - iter / max_iter) ^ power"""
    return p.base_lr * max(0.0, 1 - state.iter / p.max_iter) ** p.power


def sigmoid(p, state) -> float:
    """base_lr / (1 + exp(-gamma * (iter - stepsize)))"""
    exponent = -p.gamma * (state.iter - p.stepsize)
    return p.base_lr / (1 + math.exp(exponent)) if exponent < 700 else 0.0


def plateau(p, state) -> float:
    """base_lr * gamma ^ current_step, which grows when the loss stops falling (SSD fork)."""
    if state.smoothed_loss < state.minimum_loss:
        state.minimum_loss, state.iter_last_event = state.smoothed_loss, state.iter
    windows = p.plateau_winsize
    if state.current_step < len(windows) and state.iter - state.iter_last_event >= windows[state.current_step]:
        state.current_step += 1
        state.iter_last_event = state.iter
    return p.base_lr * p.gamma**state.current_step


POLICIES = {f.__name__: f for f in (fixed, step, exp, inv, multistep, poly, sigmoid, plateau)}


def learning_rate(p, state) -> float:
    """The rate of iteration `state.iter`; may advance `state.current_step`. Raises SolverError where it is infinite."""
    policy = _policy(p, "solver")
    try:
        rate = policy(p, state)
    except (OverflowError, ZeroDivisionError):
        rate = math.inf
    if not math.isfinite(rate):
        raise SolverError(
            f"iteration {state.iter}: lr_policy {p.lr_policy!r} gives no finite rate with base_lr {p.base_lr:g}, gamma "
            f"{p.gamma:g}, power {p.power:g}: choose smaller ones"
        )
    return rate


def _policy(p, where: str):
    if p.lr_policy not in POLICIES:
        near = difflib.get_close_matches(p.lr_policy, POLICIES, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SolverError(f"{where}: unknown lr_policy {p.lr_policy!r}{hint} (known: {', '.join(POLICIES)})")
    return POLICIES[p.lr_policy]


def check(p, where: str) -> None:
    """Raise SolverError where the policy is unknown or lacks what it needs."""
    _policy(p, where)
    needs = {
        "step": (("gamma", p.gamma >= 0), ("stepsize", p.stepsize > 0)),
        "exp": (("gamma", p.gamma >= 0),),
        "inv": (("gamma", p.gamma >= 0),),
        "multistep": (("gamma", p.gamma >= 0),),
        "poly": (("max_iter", p.max_iter > 0),),
        "sigmoid": (("stepsize", p.stepsize > 0),),  # a negative gamma lets the rate fall; only Caffe's last checks it
        "plateau": (("gamma", p.gamma >= 0), ("plateau_winsize", len(p.plateau_winsize) > 0)),
    }
    for name, good in needs.get(p.lr_policy, ()):
        if not good:
            raise SolverError(f"{where}: lr_policy {p.lr_policy!r} cannot use {name} {getattr(p, name)}")
