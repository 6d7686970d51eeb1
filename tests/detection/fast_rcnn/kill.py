"""Kills trainings with SIGKILL at random moments, resumes them, and compares with one that nobody killed.

    python tests/detection/fast_rcnn/kill.py [--count 50] [--seed N]

Each run is a process of its own that trains a small net, with a snapshot after every iteration, so that many kills fall
into one; it is killed once to three times and resumed with --resume's code until it ends. The final weights and the log
must be the same, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
ITERATIONS = 12
FIXED = ("iter", "lr", "loss", "loss_cls", "loss_bbox")


def child(folder: Path) -> None:
    """Train to the end, from the newest snapshot if there is one."""
    from caffelite.solver.lock import locked
    from detection.config import cfg
    from detection.fast_rcnn import snapshots
    from tests.detection.fast_rcnn.tiny import OPTIONS, make_entries, solver_param, trainer_of

    cfg.merge(OPTIONS)
    cfg.merge({"TRAIN": {"SNAPSHOT_ITERS": 1, "SNAPSHOT_KEEP": 3}})
    prefix = folder / "out" / "tiny"
    prefix.parent.mkdir(exist_ok=True)
    with locked(prefix):
        trainer = trainer_of(solver_param(folder), make_entries(folder))
        state = snapshots.newest(prefix)
        if state:
            trainer.restore(state)
        trainer.solver.add_callback(lambda: print(trainer.solver.iter, flush=True), lambda: None)
        if trainer.solver.iter < ITERATIONS:
            trainer.train(ITERATIONS)


def start(folder: Path) -> subprocess.Popen:
    """A child, which says on stdout which iteration it begins."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "lib")])
    return subprocess.Popen(
        [sys.executable, __file__, "--child", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def finish(folder: Path) -> float:
    """Let a child end; returns the seconds that an iteration took."""
    process = start(folder)
    times = [time.perf_counter() for _ in process.stdout]
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(errors)
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0


def result(folder: Path) -> tuple[bytes, list]:
    """The final weights, and what each line of the log says of what was learned."""
    out = folder / "out"
    lines = [json.loads(line) for line in (out / "tiny_loss.jsonl").read_text().splitlines()]
    return (out / f"tiny_iter_{ITERATIONS}.caffemodel").read_bytes(), [[line[n] for n in FIXED] for line in lines]


def killed_run(folder: Path, seconds: float, dice: random.Random) -> tuple[int, int]:
    """Kill a run some times and let it end; returns the number of kills, and of those that fell into a snapshot."""
    kills = inside = 0
    for _ in range(dice.randint(1, 3)):
        process = start(folder)
        first = process.stdout.readline()
        if not first:  # the last kill came after the last snapshot: nothing is left to train
            _, errors = process.communicate()
            if process.returncode:
                raise RuntimeError(errors)
            break
        for _ in range(dice.randrange(ITERATIONS - int(first))):
            process.stdout.readline()
        time.sleep(dice.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        inside += any((folder / "out").glob(".*.tmp"))
        if process.returncode == 0:
            break
    finish(folder)
    return kills, inside


def compare(count: int, seed: int) -> tuple[int, int]:
    """Do `count` runs; returns the numbers of kills, and of those inside a snapshot. Raises AssertionError."""
    dice = random.Random(seed)
    total = total_inside = 0
    with tempfile.TemporaryDirectory() as work:
        whole = Path(work) / "whole"
        whole.mkdir()
        seconds = finish(whole)
        for n in range(count):
            folder = Path(work) / f"run{n}"
            folder.mkdir()
            kills, inside = killed_run(folder, seconds, dice)
            assert result(folder) == result(whole), f"run {n} of seed {seed} ended otherwise after {kills} kill(s)"
            assert not list((folder / "out").glob(".*.tmp")), f"run {n} of seed {seed} left temporary files"
            total, total_inside = total + kills, total_inside + inside
            print(f"run {n + 1} of {count}: {kills} kill(s), {inside} inside a snapshot, the same bytes", flush=True)
    return total, total_inside


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50, help="runs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, as far as these can be repeated")
    parser.add_argument("--child", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(Path(options.child))
    else:
        kills, inside = compare(options.count, options.seed)
        print(f"{options.count} runs, {kills} kills, {inside} of them inside a snapshot: all ended in the same bytes")
