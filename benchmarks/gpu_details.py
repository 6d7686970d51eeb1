"""Where a GPU's time goes: the layers of a training iteration, every way to convolve, suppression, the host's share.

    python benchmarks/gpu_details.py [--gpu 0] [--net VGG16] [--small]

Layers: milliseconds of each, alone. Convolutions: every algorithm of cuDNN that takes the shape, our own minimal
filtering (`own`), and which of them is chosen (`*`); those whose sums come in another order in every run are marked
`~`, they are never chosen by default. The host: how long it takes to launch an iteration, which a GPU should never wait
for, and to plan a new image size.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

import fast_rcnn
import gpu
import numpy as np

from caffelite import backend
from caffelite.backend import cudnn, gpu_winograd, nms, xp
from caffelite.backend import cudnn_convolution as cc
from caffelite.cli import print_layer_times
from caffelite.layers.convolution import Convolution
from caffelite.operations import multiply_adds
from detection.boxes import nms_groups

ALGORITHMS = {cc.FORWARD: range(8), cc.DATA: range(6), cc.FILTER: range(7)}
UNSTEADY = {cc.FORWARD: (), cc.DATA: (0,), cc.FILTER: (0, 3)}  # cuDNN's numbers of what adds atomically


def convolutions(net, tf32: bool, repeats: int) -> None:
    """A line for each convolution and product: milliseconds of every algorithm."""
    print(f"\n{'convolution':12} {'product':15} {'TFLOP/s':>8} {'chosen/best':>11}  ms of the algorithms")
    for i, layer in enumerate(net.layers):
        if not isinstance(layer, Convolution):
            continue
        x, w, y = (blob.array for blob in (net.bottom_blobs[i][0], layer.blobs[0], net.top_blobs[i][0]))
        dx, dw, dy = xp.empty_like(x), xp.zeros_like(w), xp.ones_like(y)
        flops = 2 * multiply_adds(layer, net.bottom_blobs[i], net.top_blobs[i])
        products = {cc.FORWARD: (x, w, y)}
        if net.layer_need_backward[i]:
            products |= {cc.DATA: (w, dy, dx), cc.FILTER: (x, dy, dw)}
        plan = cc._plan(layer.engine, x, w, y)
        for kind, arguments in products.items():
            times, chosen = algorithms(plan, kind, arguments, tf32, repeats)
            if kind != cc.FILTER and gpu_winograd.worth(layer.engine, x.shape, w.shape):
                own = {
                    cc.FORWARD: lambda: layer.engine.forward(x, w, None, y),  # noqa: B023 called at once
                    cc.DATA: lambda: layer.engine.backward_data(dy, w, dx),  # noqa: B023
                }
                chosen, times["own"] = "own", gpu.seconds(own[kind], repeats, 1)
            steady = [taken for number, taken in times.items() if number not in UNSTEADY[kind]]
            if chosen not in times or not steady:
                print(f"{layer.name:12} {kind:15} no algorithm")
                continue
            each = "  ".join(
                f"{number}{'*' * (number == chosen)}{'~' * (number in UNSTEADY[kind])} {taken * 1e3:.2f}"
                for number, taken in sorted(times.items(), key=lambda item: item[1])
            )
            rate = flops / times[chosen] / 1e12
            print(f"{layer.name:12} {kind:15} {rate:8.1f} {times[chosen] / min(steady):11.2f}  {each}", flush=True)


def algorithms(plan, kind: str, arguments: tuple, tf32: bool, repeats: int) -> tuple[dict, int | None]:
    """The seconds that each of cuDNN's algorithms takes for a product, and which of them is chosen."""
    math = cudnn.DEFAULT_MATH if tf32 else cudnn.FMA_MATH
    run = lambda: plan.run(kind, *arguments, cc.ONE if kind == cc.FILTER else cc.ZERO)  # noqa: E731
    run()
    key = kind, tf32, True
    kept, times = plan.algorithms[key], {}
    for number in ALGORITHMS[kind]:
        plan.algorithms[key] = cc.Candidates(plan, kind, [(number, math)])
        with contextlib.suppress(cudnn.CudnnError):
            if run():
                times[number] = gpu.seconds(run, repeats, 1)
    plan.algorithms[key] = kept
    return times, kept.first and kept.first.number


def host(net, solver, repeats: int) -> None:
    """What an iteration costs the host alone, and what a new image size does."""

    def launched(run) -> float:
        backend.synchronize()
        start = time.perf_counter()
        run()
        taken = time.perf_counter() - start
        backend.synchronize()
        return taken

    def passes() -> None:
        net.launch()
        net._backward(len(net.layers) - 1, 0)

    passes()
    times = [launched(passes) for _ in range(repeats)]
    updates = [launched(solver.apply_update) for _ in range(repeats)]
    print(f"\nthe host launches both passes in {min(times) * 1e3:.2f} ms, the update in {min(updates) * 1e3:.2f} ms")
    height, width = net.blobs["data"].shape[2:]
    new = []
    for smaller in (16, 32, 48):
        net.blobs["data"].reshape(2, 3, height - smaller, width - smaller)
        new.append(launched(passes))
    net.blobs["data"].reshape(2, 3, height, width)
    print(
        f"at an image size that is new: {min(new) * 1e3:.2f} ms, of which the plans {(min(new) - min(times)) * 1e3:.2f}"
    )


def suppression(count: int) -> None:
    """Non-maximum suppression of 20 classes, with the way to the GPU and back, and on the CPU."""
    boxes = fast_rcnn.rois(1, count, np.random.default_rng(5))
    scores = np.random.default_rng(6).random((20, count, 1), np.float32)
    groups = [np.hstack((boxes[:, 1:], of_class)) for of_class in scores]
    nms.WORTH_PAIRS, usual = 0, nms.WORTH_PAIRS
    on_gpu = gpu.seconds(lambda: nms_groups(groups, 0.3), 2, 3)
    nms.WORTH_PAIRS = 2**62
    on_cpu = gpu.seconds(lambda: nms_groups(groups, 0.3), 2, 3)
    nms.WORTH_PAIRS = usual
    print(f"suppression, 20 x {count} boxes: {on_gpu * 1e3:.2f} ms on the GPU, {on_cpu * 1e3:.2f} ms on the CPU")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="device (default: 0)")
    parser.add_argument("--net", default="VGG16", help="models/<NET> (default: VGG16)")
    parser.add_argument("--small", action="store_true", help="tiny sizes: to try the program, not to measure")
    options = parser.parse_args()
    sizes = gpu.start(options.gpu, options.small)
    if sizes is None:
        return 2
    _, solver = fast_rcnn.training(options.net, np.random.default_rng(0))
    for tf32 in (False, True):
        with gpu.tf32(tf32):
            print(f"\n{options.net}, a training iteration, {'TF32' if tf32 else 'float32'}")
            print_layer_times(solver.net, sizes.rounds)
            if cudnn.library():
                convolutions(solver.net, tf32, sizes.rounds)
            host(solver.net, solver, sizes.rounds)
    print()
    for count in (100, sizes.rois):
        suppression(count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
