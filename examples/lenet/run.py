#!/usr/bin/env python3
"""Train LeNet on generated digits: draw them, make LMDBs of them with `caffelite convert_imageset`, train, test.

Run it in the repository's root; everything is written to data/digits. Takes less than two minutes on two cores.
"""

import argparse
import logging
import shutil
import sys
import time
from pathlib import Path

from digits import write_digits

import caffelite
from caffelite import cli

FOLDER = Path("data/digits")
SETS = {"train": (8000, 1), "test": (2000, 2)}  # images, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solver", default="models/LeNet/solver.prototxt", help="(default: %(default)s)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    start = time.perf_counter()
    for name, (count, seed) in SETS.items():
        database = FOLDER / f"{name}_lmdb"
        shutil.rmtree(database, ignore_errors=True)
        listed = write_digits(FOLDER, name, count, seed)
        if cli.main(["convert_imageset", "--gray", f"{FOLDER / name}/", str(listed), str(database)]):
            sys.exit(1)
    drawn = time.perf_counter()
    solver = caffelite.get_solver(args.solver)
    solver.solve()
    (means,) = solver.test_all()
    end = time.perf_counter()
    print(f"test accuracy {float(means['accuracy']):.4f}, loss {float(means['loss']):.4f}")
    print(f"digits drawn and stored in {drawn - start:.1f} s, {solver.iter} iterations in {end - drawn:.1f} s")


if __name__ == "__main__":
    main()
