#!/usr/bin/env python3
"""Evaluate detections that a test has saved, by other rules: no net runs.

  tools/reval.py output/default/shapes_train/fast_rcnn_iter_4000/shapes_test --imdb shapes_test --metric area
  tools/reval.py detections.npz --imdb voc_2012_test --server results.tgz --competition comp3

Written to --output: the evaluation (JSON) with the band of chance, precision-recall curves, pictures of the worst and
the best images, result files. Saved detections are those that non-maximum suppression has left.
"""

import sys

import _common

from detection.evaluation import report
from detection.evaluation.measure import evaluation_folder, reevaluate
from detection.fast_rcnn.jobs import get_dataset


def main(args) -> None:
    dataset = get_dataset(args.imdb)
    use_07_metric = {"07": True, "area": False}.get(args.metric)
    evaluation = reevaluate(
        dataset, args.detections, args.output, args.server, overlap=args.iou, use_07_metric=use_07_metric,
        count_difficult=args.difficult, competition=args.competition,
    )  # fmt: skip
    if evaluation is None:
        print(f"{dataset.name} has no annotations to measure by")
    else:
        print(report.table(evaluation))
    if evaluation is not None or args.server:
        print(f"\nwritten to {evaluation_folder(args.detections, args.output)}{f'; {args.server}' * bool(args.server)}")


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    parser.add_argument("detections", help="detections.npz of tools/test_net.py, or the folder it is in")
    parser.add_argument("--imdb", required=True, metavar="NAME", help="the data set they were made on")
    parser.add_argument(
        "--metric", choices=["07", "area"], help="11 points or the area under the curve (default: by the set's year)"
    )
    parser.add_argument("--difficult", action="store_true", help="difficult objects count like others")
    parser.add_argument(
        "--iou", type=float, default=0.5, metavar="T", help="least IoU, exclusive (default: %(default)s)"
    )
    parser.add_argument(
        "--competition", default="comp4", choices=["comp3", "comp4"],
        help="names the result files: comp3 for nets trained on VOC's images only (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--server", metavar="FILE", help="also an archive for the server: VOC's .tgz, COCO's .zip")
    parser.add_argument("--output", metavar="DIR", help="folder for what is written (default: reval beside the file)")
    sys.exit(_common.run(main, parser.parse_args()))
