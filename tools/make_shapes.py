#!/usr/bin/env python3
"""Generate the data set of the default job: shapes on cluttered backgrounds, in the layout of PASCAL VOC.

The same options give the same files. A set that is there already is kept; other options, or --force, make it anew.
"""

import sys
import time

import _common

from detection import datasets
from detection.datasets.shapes import ShapesOptions, make


def main(args) -> None:
    start = time.perf_counter()
    if make(args.folder, ShapesOptions(train=args.train, test=args.test, seed=args.seed), args.force):
        seconds = time.perf_counter() - start
        print(f"{args.folder}: {args.train} training and {args.test} test images, made in {seconds:.1f} s")
    else:
        print(f"{args.folder}: is there already (--force makes it anew)")


if __name__ == "__main__":
    defaults = ShapesOptions()
    parser = _common.parser(__doc__)
    parser.add_argument("--folder", default=datasets.DATA / "shapes", help="where to (default: %(default)s)")
    parser.add_argument("--train", type=int, default=defaults.train, help="training images (default: %(default)s)")
    parser.add_argument("--test", type=int, default=defaults.test, help="test images (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=defaults.seed, help="another seed, other images (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="make it anew even if it is there")
    sys.exit(_common.run(main, parser.parse_args()))
