"""What the commands share: finding the packages from a checkout, common options, logging, and errors in one line."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if find_spec("caffelite") is None or find_spec("detection") is None:
    sys.path[:0] = [str(ROOT), str(ROOT / "lib")]
try:
    import caffelite
    from caffelite.backend import kernels
    from caffelite.cli import output_closed
    from caffelite.errors import BackendError, CaffeliteError
    from caffelite.solver.signals import Stopped
    from detection import datasets
except ModuleNotFoundError as missing:
    python = ROOT / ".venv" / "bin" / "python"
    if python.exists() and Path(sys.prefix) != ROOT / ".venv":
        os.execv(python, [str(python), *sys.argv])  # the environment of `make`, though it is not activated
    sys.exit(f"error: the Python package {missing.name} is missing here; `make` sets up .venv, or: pip install -e .")


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints a module's docstring as it is."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def add_device(options: argparse.ArgumentParser) -> None:
    """--gpu, --tf32, --measure and --threads"""
    options.add_argument("--gpu", type=int, metavar="N", help="compute on GPU N (default: on the CPU)")
    options.add_argument("--tf32", action="store_true", help="let the GPU multiply in TF32: faster, 3 digits")
    options.add_argument(
        "--measure",
        action="store_true",
        help="let the GPU choose by trial how to convolve: faster, but runs may differ in the last bits",
    )
    options.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: all cores)")


def add_model(options: argparse.ArgumentParser) -> None:
    """--def and --net"""
    options.add_argument(
        "--def", dest="definition", default="prototxt/test.prototxt", metavar="FILE", help="default: %(default)s"
    )
    options.add_argument("--net", metavar="FILE", help="model (default: newest of the solver.prototxt beside --def)")


def add_config(options: argparse.ArgumentParser, beside: str) -> None:
    """--cfg and --set"""
    options.add_argument("--cfg", metavar="FILE", help=f"YAML options (default: config.yml beside {beside}, if there)")
    options.add_argument(
        "--set", nargs="+", default=[], metavar=("NAME", "VALUE"), help="more options, as TRAIN.SCALES 400 RNG_SEED 5"
    )


def add_python(options: argparse.ArgumentParser) -> None:
    """--allow-python"""
    options.add_argument(
        "--allow-python",
        action="append",
        default=[],
        metavar="MODULE",
        help="let the prototxt run Python layers of this module (may be given again)",
    )


def add_data(options: argparse.ArgumentParser, imdb: str) -> None:
    """--imdb, --proposals and --fit-classes"""
    options.add_argument("--imdb", default=imdb, metavar="NAME", help=f"data set: {datasets.NAMES} (default: {imdb})")
    options.add_argument("--proposals", metavar="FILE", help="the authors' .mat file (default: selective search)")
    options.add_argument(
        "--fit-classes", action="store_true", help="change the net's numbers of classes to those of the data set"
    )


def run(main: Callable[[argparse.Namespace], int | None], args: argparse.Namespace) -> int:
    """Select the device, if there are options for it, and call main(args).

    The exit status: main's or 0; 1 after an error, 2 for a device or a compiler that is not there, 130 after Ctrl-C,
    141 where nobody reads the output, 143 after SIGTERM.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("detection", "caffelite.kernels"):
        logging.getLogger(name).setLevel(logging.INFO)
    if "gpu" in args:
        try:
            _select_device(args)
        except BackendError as e:
            print(f"error: {e}", file=sys.stderr)
            return 2
    try:
        caffelite.allow_python(*getattr(args, "allow_python", ()))
        status = main(args) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except CaffeliteError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return output_closed()
    except OSError as e:
        print(f"error: {f'{e.filename}: ' if e.filename else ''}{e.strerror or e}", file=sys.stderr)
        return 1
    except MemoryError as e:
        print(f"error: out of memory ({e}): use smaller TRAIN.SCALES or TEST.SCALES, or fewer RoIs", file=sys.stderr)
        return 1
    except KeyboardInterrupt as e:
        print(e if e.args else "stopped", file=sys.stderr)
        return e.status if isinstance(e, Stopped) else 130


def _select_device(args: argparse.Namespace) -> None:
    caffelite.set_threads(args.threads)
    if args.gpu is None:
        kernels.compiler()  # a missing one is told now, not after minutes of work
        return
    caffelite.set_mode_gpu()
    caffelite.set_device(args.gpu)
    caffelite.allow_tf32(args.tf32)
    caffelite.set_deterministic(not args.measure)
