#!/usr/bin/env python3
"""How many objects of a data set proposals find, by the number of proposals per image (red line of Figure 3).

  tools/proposal_recall.py --imdb shapes_test
  tools/proposal_recall.py --imdb voc_2007_test --proposals data/selective_search_data/voc_2007_test.mat
  tools/proposal_recall.py --imdb voc_2007_test --set PROPOSALS.METHOD dense PROPOSALS.MAX_PROPOSALS 45000

Difficult objects are left out. Average recall is that over IoU 0.5 to 1.
"""

import sys

import _common

from detection import datasets
from detection.fast_rcnn import jobs
from detection.proposals.choice import dataset_proposals
from detection.proposals.recall import recall_curve

COUNTS = [10, 30, 100, 300, *range(1000, 10001, 1000)]


def main(args) -> None:
    jobs.configure(args.cfg, args.definition, args.set)
    dataset = jobs.get_dataset(args.imdb)
    boxes = dataset_proposals(dataset, args.proposals)
    most = max(map(len, boxes))
    counts = args.counts or [*COUNTS, most]
    print(f"{dataset.name}, {len(dataset)} images\n\n{'first':>7} {'boxes':>8} {'AR':>7} {'at 0.5':>7} {'at 0.7':>7}")
    for point in recall_curve(dataset, boxes, sorted({min(count, most) for count in counts})):
        print(f"{point.count:>7} {point.boxes:>8.1f} {point.average:>7.4f} {point.at_50:>7.4f} {point.at_70:>7.4f}")


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    parser.add_argument(
        "--imdb", default="shapes_test", metavar="NAME", help=f"{datasets.NAMES} (default: %(default)s)"
    )
    parser.add_argument("--proposals", metavar="FILE", help="the authors' .mat file (default: cfg.PROPOSALS)")
    parser.add_argument("--counts", type=int, nargs="+", metavar="N", help="how many proposals of an image to count")
    parser.add_argument(
        "--def", dest="definition", default="prototxt/test.prototxt", metavar="FILE", help="default: %(default)s"
    )
    _common.add_config(parser, "--def")
    sys.exit(_common.run(main, parser.parse_args()))
