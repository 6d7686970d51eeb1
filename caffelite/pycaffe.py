"""What pycaffe has besides nets and solvers: its log, and solvers of several devices, of which this has one."""

from __future__ import annotations

import logging
import sys

from caffelite.errors import SolverError

_logger = logging.getLogger("caffelite")
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Show log lines from a level on, 0 (all) to 3 (fatal ones), as glog counts them, on the standard error."""
    _logger.setLevel(_LEVELS[level])
    if stderr and not _logger.handlers:
        _logger.addHandler(logging.StreamHandler(sys.stderr))


def log(message: str) -> None:
    """Write a line to the log."""
    _logger.info(message)


def has_nccl() -> bool:
    """Whether several GPUs can train one net: no."""
    return False


def solver_count() -> int:
    """How many solvers train one net: one."""
    return 1


def set_solver_count(count: int) -> None:
    """Accept the only number there is. Raises SolverError for another."""
    if count != 1:
        raise SolverError(f"set_solver_count: expected 1, a net is trained on one device, actual {count}")


def solver_rank() -> int:
    """Which of the solvers this is: 0, the first."""
    return 0


def set_solver_rank(rank: int) -> None:
    """Accept the only rank there is. Raises SolverError for another."""
    if rank != 0:
        raise SolverError(f"set_solver_rank: expected 0, a net is trained on one device, actual {rank}")


def set_multiprocess(multiprocess: bool) -> None:
    """Whether the solvers are processes of their own: for one solver both are the same."""
