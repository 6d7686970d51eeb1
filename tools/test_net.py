#!/usr/bin/env python3
"""Test a Fast R-CNN net: average precision on a data set, VOC's result files, and pictures of its detections.

Without options: the newest model of the default job on the test images of `shapes`. Other jobs:

  tools/test_net.py --def models/VGG16/test.prototxt --imdb voc_2007_test --gpu 0 \\
      --net data/fast_rcnn_models/vgg16_fast_rcnn_iter_40000.caffemodel
"""

import sys
import time
from pathlib import Path

import _common

from detection.evaluation import report
from detection.fast_rcnn import jobs


def main(args) -> None:
    jobs.configure(args.cfg, args.definition, args.set)
    while args.wait and args.net and not Path(args.net).exists():
        print(f"waiting for {args.net}", file=sys.stderr)
        time.sleep(10)
    evaluations = jobs.test(
        args.definition, args.imdb, args.net, args.proposals, args.output, args.fit_classes, args.comp, args.compare
    )
    if not evaluations:
        print("no annotations to measure by")
        return
    print(report.table(evaluations["trained"]))
    print()
    for name, evaluation in evaluations.items():
        print(f"mAP {evaluation.mean_ap:.4f} {name}")


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    _common.add_device(parser)
    _common.add_model(parser)
    _common.add_config(parser, "--def")
    _common.add_python(parser)
    _common.add_data(parser, "shapes_test")
    parser.add_argument("--wait", action="store_true", help="wait until the file of --net exists")
    parser.add_argument("--comp", action="store_true", help="competition mode: result files beside the others")
    parser.add_argument("--compare", action="store_true", help="also without box regression, and an untrained net")
    parser.add_argument(
        "--output", metavar="DIR",
        help="folder for what is written (default: named after model and data set); files of an earlier test in it, "
        "with other options too, are replaced",
    )  # fmt: skip
    sys.exit(_common.run(main, parser.parse_args()))
