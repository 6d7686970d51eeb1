"""Whether a training grows in memory: the default job's resident memory over some thousand iterations.

    python benchmarks/memory_growth.py [--iters 5000] [--threads 1] [--every 500]

Snapshots and the log are written as in any training, every `--every` iterations. The line fitted to the resident memory
of the second half is what counts: the first iterations meet the largest images and allocate what these need.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "lib")]

import numpy as np  # noqa: E402

import caffelite  # noqa: E402
from detection.config import cfg  # noqa: E402
from detection.fast_rcnn import jobs, memory  # noqa: E402
from detection.fast_rcnn.files import read_solver  # noqa: E402
from detection.fast_rcnn.train import Trainer  # noqa: E402
from detection.proposals.choice import dataset_proposals  # noqa: E402
from detection.roi_data.roidb import build_roidb  # noqa: E402


def resident_mib() -> float:
    """The process's resident memory, MiB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(iterations: int, every: int) -> list[tuple[int, float, float]]:
    """Train the default job; returns (iteration, resident MiB, seconds so far) every so many iterations."""
    jobs.configure(None, "prototxt/solver.prototxt", ["TRAIN.SNAPSHOT_ITERS", str(every), "TRAIN.SNAPSHOT_KEEP", "2"])
    dataset = jobs.get_dataset("shapes_train")
    samples, began = [], time.perf_counter()

    def sample() -> None:
        if trainer.solver.iter % every == 0 or trainer.solver.iter == 100:
            samples.append((trainer.solver.iter, resident_mib(), time.perf_counter() - began))
            print(f"{samples[-1][0]:>9} {samples[-1][1]:>12.1f} {samples[-1][2]:>9.0f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(read_solver("prototxt/solver.prototxt", dataset.name, folder), dataset.classes)
        trainer.set_data(build_roidb(dataset, dataset_proposals(dataset)))
        trainer.solver.add_callback(sample, lambda: None)
        trainer.train(iterations + 1)  # the sample of an iteration is taken when the next one begins
    return samples


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iters", type=int, default=5000, metavar="N", help="iterations (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    parser.add_argument("--every", type=int, default=500, metavar="N", help="iterations between two samples")
    options = parser.parse_args()
    if options.iters < 4 * options.every:
        parser.error(
            f"--iters {options.iters}: a line needs at least three samples in the second half: --every smaller"
        )
    os.chdir(ROOT)
    caffelite.set_threads(options.threads)
    print(f"{'iteration':>9} {'resident MiB':>12} {'seconds':>9}", flush=True)
    samples = measure(options.iters, options.every)
    half = [(i, mib) for i, mib, _ in samples if i >= options.iters / 2]
    slope = np.polyfit(*np.array(half).T, 1)[0] * 1000
    print(f"peak {memory.peak_mib():.1f} MiB; second half: {slope:+.2f} MiB per 1000 iterations; seed {cfg.RNG_SEED}")
