"""The command `caffelite`: train, test, time and more, with the options of the `caffe` binary, -name or --name."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import re
import signal
import sys
from contextlib import nullcontext

import numpy as np

import caffelite
from caffelite import backend, data_tools, draw, proto
from caffelite.backend import kernels
from caffelite.errors import BackendError, CaffeliteError
from caffelite.layers.python import allow_python
from caffelite.net import TEST, TRAIN, Net
from caffelite.operations import multiply_adds
from caffelite.solver import get_solver
from caffelite.solver.lock import locked
from caffelite.solver.signals import Signals, Stopped
from caffelite.timer import layer_times

PHASES = {"TRAIN": TRAIN, "TEST": TEST}
FEW = 100


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for an error (one line on stderr), 2 for options that do not exist
    or a device that is not there, 130 after Ctrl-C, 141 where nobody reads the output, 143 after SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args([_two_dashes(argument) for argument in arguments])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        kernels.set_threads(getattr(options, "threads", 0))
        allow_python(*getattr(options, "allow_python", ()))
        try:
            _select_device(options)
        except BackendError as e:
            print(f"caffelite: {e}", file=sys.stderr)
            return 2
        status = options.run(options) or 0
        if sys.stdout is not None:
            sys.stdout.flush()
        return status
    except CaffeliteError as e:
        print(f"caffelite: {e}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        if options.command == "train":
            print("caffelite: stopped: nobody reads the output any more", file=sys.stderr)
        return output_closed()
    except OSError as e:
        print(f"caffelite: {e.filename or ''}: {e.strerror or e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as e:
        print("caffelite: stopped", file=sys.stderr)
        return e.status if isinstance(e, Stopped) else 130
    except MemoryError as e:
        print(f"caffelite: out of memory ({e}): use smaller images or a smaller batch", file=sys.stderr)
        return 1


def output_closed() -> int:
    """Who read the output wants no more: write nothing else there; returns the exit status for it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _two_dashes(argument: str) -> str:
    """`-solver` as `--solver`: Caffe's options take one dash or two."""
    return f"-{argument}" if re.match(r"-[a-z]\w+(=|$)", argument) else argument


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="caffelite", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run, text: str, *groups: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        if "device" in groups:
            sub.add_argument("--gpu", metavar="N", help="compute on GPU N (default: on the CPU)")
            sub.add_argument("--tf32", action="store_true", help="let the GPU multiply in TF32: faster, 3 digits")
            sub.add_argument(
                "--measure",
                action="store_true",
                help="let the GPU choose by trial how to convolve: faster, but runs may differ in the last bits",
            )
            sub.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: all cores)")
        if "net" in groups:
            sub.add_argument("--model", required=True, metavar="FILE", help="net prototxt")
            sub.add_argument("--phase", choices=PHASES, default=None, help="default: TRAIN for time, else TEST")
            sub.add_argument("--level", type=int, default=0, metavar="N", help="level of the net's state")
            sub.add_argument("--stage", default="", metavar="A,B", help="stages of the net's state")
        if "python" in groups:
            sub.add_argument(
                "--allow-python",
                action="append",
                default=[],
                metavar="MODULE",
                help="let the prototxt run Python layers of this module (may be given again)",
            )
        if "weights" in groups:
            sub.add_argument("--weights", default="", metavar="FILE", help=".caffemodel, or several with commas")
            sub.add_argument(
                "--skip-mismatched",
                action="store_true",
                help="leave layers as they are whose shapes are not the file's",
            )
        return sub

    sub = command(
        "train",
        train,
        "Train, or fine-tune from --weights, or continue from --snapshot.",
        "device",
        "weights",
        "python",
    )
    sub.add_argument("--solver", required=True, metavar="FILE", help="solver prototxt")
    sub.add_argument("--snapshot", default="", metavar="FILE", help="continue from this .solverstate")
    sub.add_argument("--level", type=int, default=0, metavar="N", help="level of the train net's state")
    sub.add_argument("--stage", default="", metavar="A,B", help="stages of the train net's state")
    effects = ("snapshot", "stop", "none")
    sub.add_argument("--sigint_effect", choices=effects, default="stop", help="what Ctrl-C does (default: stop)")
    sub.add_argument(
        "--sighup_effect", choices=effects, default="snapshot", help="what SIGHUP does (default: snapshot)"
    )

    sub = command(
        "test",
        test,
        "Score a net: the mean of its outputs over --iterations passes.",
        "device",
        "net",
        "weights",
        "python",
    )
    sub.add_argument("--iterations", type=_at_least_1, default=50, metavar="N", help="passes to average (default: 50)")

    about = "Time every layer forward and backward, each on its own."
    sub = command("time", time_net, about, "device", "net", "weights", "python")
    sub.add_argument("--iterations", type=_at_least_1, default=50, metavar="N", help="passes to time (default: 50)")

    command("summary", summary, "Print layers, shapes, parameters, multiply-adds and memory.", "net", "python")

    sub = command("draw", draw_net, "Draw a net as a picture (needs graphviz) or a .dot file.", "net")
    sub.add_argument("output", metavar="OUTPUT", help="picture to write: .png, .svg, .pdf or .dot")
    sub.add_argument("--rankdir", default="LR", choices=("LR", "TB", "BT", "RL"), help="direction (default: LR)")

    command("device_query", device_query, "Print the CPU and the GPU stack: what was found and what would be used.")
    data_tools.add_commands(command)
    return parser


def _at_least_1(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, actual {text!r}")
    return int(text)


def train(options) -> int:
    """caffelite train"""
    if options.weights and options.snapshot:
        raise CaffeliteError("give either --weights (to fine-tune) or --snapshot (to continue), not both")
    param = proto.read_solver(options.solver)
    param.train_state.level = options.level
    param.train_state.stage.extend(_stages(options))
    solver = get_solver(param, file=options.solver)
    if param.HasField("solver_mode") and param.solver_mode == param.GPU and not backend.on_gpu():
        logging.warning("%s: solver_mode: GPU is not followed: computing on the CPU; say --gpu 0", options.solver)
    for path in filter(None, options.weights.split(",")):
        _load(solver.net, path, options)
        for net in solver.test_nets:
            net.copy_from(path, skip_mismatched=options.skip_mismatched)
    prefix = param.snapshot_prefix
    writes = param.snapshot or param.snapshot_after_train
    with locked(prefix) if writes else nullcontext(), Signals(options.sigint_effect, options.sighup_effect) as signals:
        solver.set_action(signals)
        solver.solve(options.snapshot or None)
    # Ctrl-C is a way to end a training as good as others, as for `caffe`; who sends SIGTERM wants to know
    return 128 + signal.SIGTERM if signals.stopped_by == signal.SIGTERM else 0


def test(options) -> None:
    """caffelite test"""
    net = _net(options, "TEST")
    if net.params and not options.weights:
        raise CaffeliteError(
            f"{options.model}: expected --weights FILE, the weights to be scored; else they are random"
        )
    sums: dict[str, np.ndarray] = {}
    total = 0.0
    for i in range(options.iterations):
        total += net._forward(0, len(net.layers) - 1)
        for name in net.outputs:
            values = net.blobs[name].read().astype(np.float64)
            print(f"Batch {i}, {name} = {_numbers(values)}")
            sums[name] = sums.get(name, 0) + values
    print(f"Loss: {total / options.iterations:.6g}")
    for name, value in sums.items():
        weight = net.blob_loss_weights[name]
        mean = value / options.iterations
        note = f" (* {weight:g} = {_numbers(weight * mean)} loss)" if weight else ""
        print(f"{name} = {_numbers(mean)}{note}")


def _numbers(values: np.ndarray) -> str:
    """Values for people: all of them where there are few."""
    values = np.ravel(values)
    text = " ".join(f"{v:.6g}" for v in values[:FEW])
    if len(values) > FEW:
        text += f" ... ({len(values)} values, the largest {values.max():.6g} at {values.argmax()})"
    return text


def time_net(options) -> None:
    """caffelite time: per layer, the median over the passes after one to warm up."""
    net = _net(options, "TRAIN")
    print_layer_times(net, options.iterations)
    print(f"median of {options.iterations} passes on {_machine()}")


def print_layer_times(net: Net, passes: int) -> None:
    """A table of `layer_times`, with each layer's share of the whole."""
    forward, backward = layer_times(net, passes)
    whole = max(sum(forward) + sum(backward), 1e-9)
    print(f"{'layer':32} {'type':20} {'forward ms':>11} {'backward ms':>12} {'share':>6}")
    for layer, f, b in zip(net.layers, forward, backward):
        print(f"{layer.name:32.32} {layer.type:20.20} {f:11.3f} {b:12.3f} {(f + b) / whole:6.1%}")
    print(f"{'all layers':53} {sum(forward):11.3f} {sum(backward):12.3f}")


def summary(options) -> None:
    """caffelite summary"""
    net = _net(options, "TEST")
    print(f"{'layer':32} {'type':20} {'top shapes':32} {'parameters':>12} {'multiply-adds':>14}")
    parameters = operations = 0
    owned = {id(p.blob) for p in net.learnable_params}
    for i, layer in enumerate(net.layers):
        count = sum(b.count for b in layer.blobs if id(b) in owned)
        work = multiply_adds(layer, net.bottom_blobs[i], net.top_blobs[i])
        shapes = ", ".join("x".join(map(str, b.shape)) or "1" for b in net.top_blobs[i])
        print(f"{layer.name:32.32} {layer.type:20.20} {shapes:32} {count:12,} {work:14,}")
        parameters += count
        operations += work
    memories = {id(b.data_memory): b.data_memory.size for b in net._blobs}
    print(
        f"{len(net.layers)} layers, {parameters:,} parameters ({parameters * 4 / 2**20:,.1f} MiB), "
        f"{operations / 1e9:,.3f} G multiply-adds, {sum(memories.values()) * 4 / 2**20:,.1f} MiB of blobs"
    )


def draw_net(options) -> None:
    """caffelite draw"""
    net, _ = proto.read_net(options.model)
    draw.draw_net_to_file(net, options.output, options.rankdir, PHASES.get(options.phase))
    print(f"wrote {options.output}")


def device_query(options) -> None:
    """caffelite device_query"""
    print(f"caffelite {caffelite.__version__}, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"CPU: {_machine()}")
    try:
        print(f"C++ compiler: {' '.join(kernels.compiler())}; compiled kernels in {kernels.cache_folder()}")
    except CaffeliteError as e:
        print(f"C++ compiler: {e}")
    for line in backend.describe_gpus():
        print(line)


def _net(options, phase: str) -> Net:
    net = Net(options.model, PHASES[options.phase or phase], level=options.level, stages=_stages(options))
    for path in filter(None, getattr(options, "weights", "").split(",")):
        _load(net, path, options)
    return net


def _load(net, path: str, options) -> None:
    report = net.copy_from(path, skip_mismatched=options.skip_mismatched)
    print(report)
    if report.is_of_another_net:
        raise CaffeliteError(f"--weights {path}: has no layer of {net.file}: weights of another net?")


def _stages(options) -> list[str]:
    return [s for s in options.stage.split(",") if s]


def _select_device(options) -> None:
    gpu = getattr(options, "gpu", None)
    if gpu is None:
        backend.set_mode_cpu()
        if options.command == "train":
            kernels.tell_if_busy()
        return
    if not gpu.isdigit():
        raise CaffeliteError(f"--gpu expected the number of one GPU, actual {gpu!r}")
    backend.set_mode_gpu()
    backend.set_device(int(gpu))
    backend.allow_tf32(options.tf32)
    backend.set_deterministic(not options.measure)


def _machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as f:
            name = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {kernels.threads()} thread(s)"


if __name__ == "__main__":
    sys.exit(main())
