#!/usr/bin/env python3
"""Write the prototxt files of models/ and of the default job from the nets' definitions (lib/detection/models/nets.py).

With --check nothing is written: it tells which files are not as the definitions say, and fails if there are any.
"""

import sys

import _common

from detection.models import files


def main(args) -> int:
    paths = files.stale(_common.ROOT) if args.check else files.write(_common.ROOT)
    for path in paths:
        print(f"{path} {'is out of date' if args.check else 'written'}")
    return int(args.check and bool(paths))


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail if something would be written")
    sys.exit(_common.run(main, parser.parse_args()))
