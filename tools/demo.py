#!/usr/bin/env python3
"""Detect objects in images of your own with a trained Fast R-CNN net.

  tools/demo.py photo.jpg another.jpg
  tools/demo.py --def models/VGG16/test.prototxt photo.jpg \\
      --net data/fast_rcnn_models/vgg16_fast_rcnn_iter_40000.caffemodel

writes photo.jpg_detections.png beside photo.jpg: boxes, class names and scores. Proposals are made by selective search.
A net finds what it has learned: that of the default job drawn shapes, and nothing in photographs.
"""

import sys

import _common

from detection.fast_rcnn import jobs


def main(args) -> None:
    jobs.configure(args.cfg, args.definition, args.set)
    for picture, detections in jobs.demo(args.images, args.definition, args.net, args.threshold, args.output):
        print(f"{picture}: {len(detections)} detection(s)")
        for line in detections:
            print(f"  {line}")


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    _common.add_device(parser)
    parser.add_argument("--cpu", dest="gpu", action="store_const", const=None, help="compute on the CPU (the default)")
    _common.add_model(parser)
    _common.add_config(parser, "--def")
    _common.add_python(parser)
    parser.add_argument("--output", metavar="DIR", help="folder for the pictures (default: beside each image)")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="S", help="least score (default: %(default)s)")
    sys.exit(_common.run(main, parser.parse_args()))
