#!/usr/bin/env python3
"""Train SVMs in the place of a model's softmax, as R-CNN does (section 4.6 of the paper).

  tools/train_svms.py                                   # the newest model of the default job, on shapes_train
  tools/train_svms.py --def models/VGG16/test.prototxt --imdb voc_2007_trainval --gpu 0 \\
      --net data/fast_rcnn_models/vgg16_fast_rcnn_iter_40000.caffemodel

writes <model>_svm.caffemodel beside the model, with the SVMs in cls_score. To test it:

  tools/test_net.py --net <model>_svm.caffemodel --set TEST.SVM True
"""

import sys

import _common

from detection.fast_rcnn import jobs


def main(args) -> None:
    jobs.configure(args.cfg, args.definition, args.set)
    model = jobs.train_svms(args.definition, args.imdb, args.net, args.proposals, args.out, args.fit_classes)
    print(f"model with SVMs: {model}")
    print(f"to test it: tools/test_net.py --def {args.definition} --net {model} --set TEST.SVM True")


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    _common.add_device(parser)
    _common.add_model(parser)
    _common.add_config(parser, "--def")
    _common.add_python(parser)
    _common.add_data(parser, "shapes_train")
    parser.add_argument("--out", metavar="FILE", help="what is written (default: <model>_svm.caffemodel)")
    sys.exit(_common.run(main, parser.parse_args()))
