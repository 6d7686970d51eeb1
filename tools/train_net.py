#!/usr/bin/env python3
"""Train a Fast R-CNN net.

Without options: the default job, a small net on the generated data set `shapes`, in some minutes on a CPU. Other jobs:

  tools/train_net.py --solver models/SqueezeNet/solver.prototxt --weights squeezenet_v1.0.caffemodel \\
      --imdb my/folder:trainval --fit-classes
  tools/train_net.py --solver models/VGG16/solver.prototxt --weights data/imagenet_models/VGG16.v2.caffemodel \\
      --imdb voc_2007_trainval --gpu 0

The model, its snapshots, the loss of every iteration and a training curve go where the solver's snapshot_prefix says.
Ctrl-C and SIGTERM end the training after the iteration under way, with a snapshot from which --resume goes on, bit for
bit, as it does after a crash; SIGHUP makes a snapshot. tools/plot.py draws and compares the losses, tools/test_net.py
tests the newest model.
"""

import secrets
import sys

import _common

from detection.fast_rcnn import jobs


def main(args) -> None:
    jobs.configure(args.cfg, args.solver, args.set)
    seed = secrets.randbits(31) if args.rand else None
    model = jobs.train(
        args.solver, args.imdb, args.iters, args.weights, args.snapshot, args.proposals, args.output, args.strict,
        args.fit_classes, seed, args.resume, args.force_resume, args.skip_mismatched,
    )  # fmt: skip
    print(f"trained model: {model}")


if __name__ == "__main__":
    parser = _common.parser(__doc__)
    _common.add_device(parser)
    parser.add_argument("--solver", default="prototxt/solver.prototxt", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--iters", type=int, metavar="N", help="iterations (default: the solver's max_iter)")
    parser.add_argument("--weights", metavar="FILE", help="start from these weights (several with commas)")
    parser.add_argument("--snapshot", metavar="FILE", help="continue exactly from this .solverstate")
    parser.add_argument(
        "--resume", action="store_true", help="continue exactly from the newest intact snapshot, if there is one"
    )
    parser.add_argument(
        "--force-resume", action="store_true", help="continue even if options, net or data differ from the snapshot's"
    )
    _common.add_config(parser, "the solver")
    _common.add_python(parser)
    _common.add_data(parser, "shapes_train")
    parser.add_argument("--rand", action="store_true", help="another seed at every call instead of RNG_SEED")
    parser.add_argument("--strict", action="store_true", help="refuse weights that miss a layer or have one too many")
    parser.add_argument(
        "--skip-mismatched", action="store_true", help="start layers afresh that --weights has in other shapes"
    )
    parser.add_argument("--output", metavar="DIR", help="folder for what is written (default: the solver's prefix)")
    sys.exit(_common.run(main, parser.parse_args()))
