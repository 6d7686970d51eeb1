"""Convolutions of the detection nets on 600x1000 images: caffelite beside PyTorch if installed, A B A B, medians.

python benchmarks/convolution.py [--threads 2] [--repeats 5] [--images 1] [--no-torch] [name ...]

Rates count the operations of the plain sum (2 * outputs * taps), whatever the way of computing needs of them: more
than the sgemm rate is possible.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("names", nargs="*", help="only layers whose name contains one of these")
parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--images", type=int, default=1)
parser.add_argument("--no-torch", action="store_true")
arguments = parser.parse_args()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read when numpy is imported
    os.environ[variable] = str(arguments.threads)

import machine  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np  # noqa: E402

from caffelite.backend import kernels  # noqa: E402
from caffelite.backend.convolution import Convolution, implementation  # noqa: E402

try:
    import torch
except ImportError:
    torch = None

# name: channels, outputs, height, width, kernel, stride, pad, dilation, groups
LAYERS = {
    "VGG16 conv1_1": (3, 64, 600, 1000, 3, 1, 1, 1, 1),
    "VGG16 conv1_2": (64, 64, 600, 1000, 3, 1, 1, 1, 1),
    "VGG16 conv2_2": (128, 128, 300, 500, 3, 1, 1, 1, 1),
    "VGG16 conv3_2": (256, 256, 150, 250, 3, 1, 1, 1, 1),
    "VGG16 conv4_2": (512, 512, 75, 125, 3, 1, 1, 1, 1),
    "VGG16 conv5_1": (512, 512, 38, 63, 3, 1, 1, 1, 1),
    "CaffeNet conv1": (3, 96, 600, 1000, 11, 4, 5, 1, 1),
    "CaffeNet conv2": (96, 256, 75, 125, 5, 1, 2, 1, 2),
    "CaffeNet conv3": (256, 384, 37, 62, 3, 1, 1, 1, 1),
    "CaffeNet conv4": (384, 384, 37, 62, 3, 1, 1, 1, 2),
    "SSD fc6": (512, 1024, 19, 19, 3, 1, 6, 6, 1),
    "SSD conv4_3 conf": (512, 84, 38, 38, 3, 1, 1, 1, 1),
    "ResNet conv1": (3, 64, 600, 1000, 7, 2, 3, 1, 1),
    "ResNet 1x1": (256, 64, 150, 250, 1, 1, 0, 1, 1),
    "ResNet 1x1, stride 2": (256, 512, 150, 250, 1, 2, 0, 1, 1),
    "3x3, stride 2": (256, 256, 75, 125, 3, 2, 1, 1, 1),
    "depthwise 3x3": (512, 512, 38, 63, 3, 1, 1, 1, 512),
    "depthwise 3x3, stride 2": (128, 128, 150, 250, 3, 2, 1, 1, 128),
}


def passes(c: int, o: int, height: int, width: int, kernel: int, stride: int, pad: int, dilation: int, groups: int):
    """The way that is taken, the operations of one pass, and {pass: {who: function}}."""
    rng = np.random.default_rng(0)
    convolution = Convolution((pad,) * 2, (stride,) * 2, (dilation,) * 2, groups)
    x = rng.standard_normal((arguments.images, c, height, width), np.float32)
    w = rng.standard_normal((o, c // groups, kernel, kernel), np.float32) * 0.05
    bias = np.zeros(o, np.float32)
    dy = rng.standard_normal(convolution.output_shape(x.shape, w.shape), np.float32)
    y, dx, dw = np.zeros_like(dy), np.zeros_like(x), np.zeros_like(w)
    table = {
        "forward": {"caffelite": lambda: convolution.forward(x, w, bias, y)},
        "gradient to x": {"caffelite": lambda: convolution.backward_data(dy, w, dx)},
        "gradient to w": {"caffelite": lambda: convolution.backward_weight(x, dy, dw)},
    }
    if torch and not arguments.no_torch:
        tx, tw, tbias, tdy = map(torch.from_numpy, (x, w, bias, dy))

        def gradient(*mask: bool):
            return torch.ops.aten.convolution_backward(
                tdy, tx, tw, None, (stride,) * 2, (pad,) * 2, (dilation,) * 2, False, (0, 0), groups, mask
            )

        table["forward"]["torch"] = lambda: torch.nn.functional.conv2d(tx, tw, tbias, stride, pad, dilation, groups)
        table["gradient to x"]["torch"] = lambda: gradient(True, False, False)
        table["gradient to w"]["torch"] = lambda: gradient(False, True, False)
    return implementation(convolution, x, w).__name__, 2 * w.size * dy[0, 0].size * arguments.images, table


def main() -> None:
    """Print the table."""
    kernels.set_threads(arguments.threads)
    print(machine.describe(arguments.threads))
    if torch:
        torch.set_num_threads(arguments.threads)
        print(f"torch {torch.__version__}")
    print(f"sgemm of numpy, 1536 x 1536: {machine.sgemm_rate() / 1e9:.0f} GFLOP/s")
    print(f"{arguments.images} image(s), medians, GFLOP/s: caffelite, torch (ratio)\n")
    print(f"| {'layer':24} | {'way':12} | GFLOP |{'forward':^21}|{'gradient to x':^21}|{'gradient to w':^21}|")
    print(f"|{'-' * 26}|{'-' * 14}|{'-' * 7}|{'-' * 21}|{'-' * 21}|{'-' * 21}|")
    for name, sizes in LAYERS.items():
        if arguments.names and not any(part in name for part in arguments.names):
            continue
        way, operations, table = passes(*sizes)
        cells = []
        for runs in table.values():
            seconds = machine.interleaved(runs, arguments.repeats)
            rates = [f"{operations / s / 1e9:6.0f}" for s in seconds.values()]
            ratio = f" ({seconds['torch'] / seconds['caffelite']:5.2f})" if "torch" in seconds else ""
            cells.append(f"{''.join(rates)}{ratio}")
        cells = "".join(f" {cell:>19} |" for cell in cells)
        print(f"| {name:24} | {way:12} | {operations / 1e9:5.2f} |{cells}", flush=True)


if __name__ == "__main__":
    main()
