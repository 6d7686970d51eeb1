#!/usr/bin/env python3
"""Draw the losses of a training, or compare those of several.

  tools/plot.py output/default/shapes_train/fast_rcnn_loss.jsonl
  tools/plot.py a/fast_rcnn_loss.jsonl b/fast_rcnn_loss.jsonl --output comparison.png

Each training writes such a log, <snapshot_prefix>_loss.jsonl, also while it runs; one log gives a curve for each of its
losses, several give one curve each. What is drawn is told in a line per log: losses at the end, time and memory.
"""

import sys

import _common

from detection.fast_rcnn import jobs


def main(args) -> None:
    for line in jobs.compare_logs(args.logs, args.output):
        print(line)


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    parser.add_argument("logs", nargs="+", metavar="LOG", help="loss logs of trainings, *_loss.jsonl")
    parser.add_argument("--output", metavar="FILE", help="picture to write (default: beside the first log)")
    sys.exit(_common.run(main, parser.parse_args()))
