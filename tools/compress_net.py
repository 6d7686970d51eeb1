#!/usr/bin/env python3
"""Compress the fully connected layers of a test net by truncated SVD (section 3.1 of the paper).

The paper's ranks are the default: fc6 1024, fc7 256. Each layer becomes two, fc6_L without a bias and fc6_U:

  tools/compress_net.py --def models/VGG16/test.prototxt \\
      --net data/fast_rcnn_models/vgg16_fast_rcnn_iter_40000.caffemodel
  tools/compress_net.py --rank fc6=64 fc7=64            # the default job: its layers are smaller

writes <model>_svd.caffemodel and <model>_svd.prototxt beside the model and says how to test them.
"""

import argparse
import sys
from pathlib import Path

import _common

from caffelite import proto
from caffelite.errors import CaffeliteError
from detection.fast_rcnn.classes import num_classes
from detection.fast_rcnn.files import newest_model
from detection.fast_rcnn.svd import RANKS, compress


def rank(text: str) -> tuple[str, int]:
    """NAME=RANK as a pair."""
    name, sign, number = text.rpartition("=")
    if not name or not sign or not number.isdigit():
        raise argparse.ArgumentTypeError(f"expected NAME=RANK, as fc6=1024, actual {text!r}")
    return name, int(number)


def main(args) -> None:
    if args.net is None:
        classes = num_classes(proto.read_net(args.definition)[0], args.definition)
        args.net = newest_model(args.definition, lambda names: len(names) == classes)
    model = Path(args.net)
    if not model.is_file():
        raise CaffeliteError(f"--net {model}: there is no such file")
    weights = Path(args.out or model.with_name(f"{model.stem}_svd.caffemodel"))
    definition = Path(args.out_def or weights.with_suffix(".prototxt"))
    for layer in compress(args.definition, str(model), dict(args.rank or RANKS), str(definition), str(weights)):
        print(layer)
    print(f"to test it: tools/test_net.py --def {definition} --net {weights}")


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    _common.add_python(parser)
    _common.add_model(parser)
    default = " ".join(f"{name}={value}" for name, value in RANKS.items())
    parser.add_argument(
        "--rank", nargs="+", type=rank, metavar="NAME=RANK", help=f"layers and their ranks (default: {default})"
    )
    parser.add_argument("--out", metavar="FILE", help="compressed weights (default: <model>_svd.caffemodel)")
    parser.add_argument("--out-def", metavar="FILE", help="compressed net (default: named after the weights)")
    sys.exit(_common.run(main, parser.parse_args()))
