"""Feeds damaged files to every reader, and reports what is not refused properly.

    python tests/fuzz/fuzz.py --count 50000

A fault is a crash, more than 10 s, more memory than small inputs need, or an exception that is no CaffeliteError. Every
input follows from --seed, its reader and its number: `--reader R --first N --count 1` repeats one, `--keep FOLDER`
leaves its files there.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ[variable] = "1"  # read at import; a fork must not inherit a pool of threads
os.environ["OPENCV_LOG_LEVEL"] = "OFF"
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "lib")]

from caffelite.errors import CaffeliteError  # noqa: E402
from tests.fuzz import harness  # noqa: E402
from tests.fuzz.readers import READERS, target_of, warm_up  # noqa: E402

SECONDS = 10


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="number of inputs for each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", choices=READERS, nargs="+", default=list(READERS), help="leave out all others")
    parser.add_argument("--keep", metavar="FOLDER", help="work in this folder and leave the files there")
    parser.add_argument("--megabytes", type=int, default=256, help="bound of memory; 0 for none, as sanitizers need it")
    parser.add_argument("--verbose", action="store_true", help="say what became of every input")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or temporary
        os.makedirs(folder, exist_ok=True)
        os.chdir(folder)
        warm_up(options.reader)
        if not options.verbose:
            silence()
        return sum(fuzz(reader, options) for reader in options.reader) > 0


def silence() -> None:
    """Send what libraries of images write to the standard error nowhere."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def fuzz(reader: str, options: argparse.Namespace) -> int:
    """Run a reader's inputs that the options name; prints faults and a table, returns the number of faults."""
    verdicts, details, faults, slowest, began = Counter(), Counter(), 0, (0.0, 0), time.monotonic()

    def task(number: int) -> str:
        target, random = target_of(reader, number, options.seed)
        return target(random)

    numbers = range(options.first, options.first + options.count)
    for outcome in harness.watch(task, numbers, CaffeliteError, SECONDS, options.megabytes):
        name = target_of(reader, outcome.number, options.seed)[0].__name__
        verdicts[name, outcome.verdict] += 1
        details[outcome.detail if outcome.verdict == harness.ACCEPTED else outcome.detail.partition(":")[0]] += 1
        slowest = max(slowest, (outcome.seconds, outcome.number))
        if outcome.verdict in harness.FAULTS:
            faults += 1
            print(f"{reader} {outcome.number} ({name}): {outcome.verdict}\n{outcome.detail}", flush=True)
        elif options.verbose:
            print(f"{reader} {outcome.number} ({name}): {outcome.verdict}: {outcome.detail}", flush=True)
    print(
        f"{reader}: {len(numbers)} inputs, {faults} faults, {time.monotonic() - began:.0f} s; the slowest, "
        f"{slowest[1]}, took {slowest[0]:.1f} s"
    )
    for target in READERS[reader]:
        counts = {verdict: count for (name, verdict), count in sorted(verdicts.items()) if name == target.__name__}
        print(f"  {target.__name__:20}", ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    print("  " + ", ".join(f"{count} {detail}" for detail, count in details.most_common(8)), flush=True)
    return faults


if __name__ == "__main__":
    sys.exit(main())
