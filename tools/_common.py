"""What the commands share: finding the packages in a checkout, options, logging, and errors in one line."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

if find_spec("caffelite") is None or find_spec("detection") is None:
    root = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(root), str(root / "lib")]

import caffelite
from caffelite.errors import BackendError, CaffeliteError


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints a module's docstring as it is."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_device(options: argparse.ArgumentParser) -> None:
    """--gpu and --threads"""
    options.add_argument("--gpu", type=int, metavar="N", help="compute on GPU N (default: on the CPU)")
    options.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: all cores)")


def add_config(options: argparse.ArgumentParser, beside: str) -> None:
    """--cfg and --set"""
    options.add_argument("--cfg", metavar="FILE", help=f"YAML options (default: config.yml beside {beside}, if there)")
    options.add_argument(
        "--set", nargs="+", default=[], metavar=("NAME", "VALUE"), help="more options, as TRAIN.SCALES 400 RNG_SEED 5"
    )


def run(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> int:
    """Select the device, call main(args); the exit status: 0, 1 after an error, 2 for a device that is not there."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        caffelite.set_threads(args.threads)
        if args.gpu is not None:
            caffelite.set_mode_gpu()
            caffelite.set_device(args.gpu)
    except BackendError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    try:
        main(args)
    except CaffeliteError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0
