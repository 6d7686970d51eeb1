"""Truncated SVD on the fully connected layers of the paper's nets: milliseconds before and after, A B A B, medians.

python benchmarks/svd.py [--rois 2000] [--net VGG16 CaffeNet] [--threads 2] [--repeats 5]

The layers run as caffelite's InnerProduct on random weights and inputs: the numbers do not change their time.
`operations` is the ratio of the multiplications. The paper's milliseconds (Figure 2, VGG16 on a K40 GPU) stand beside.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rois", type=int, default=2000)
parser.add_argument("--net", nargs="+", default=["VGG16", "CaffeNet"])
parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
parser.add_argument("--repeats", type=int, default=5)
parser.add_argument("--factorise", action="store_true", help="also time the SVD of fc6 and fc7 themselves")
arguments = parser.parse_args()
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # read when numpy is imported
    os.environ[variable] = str(arguments.threads)

import time  # noqa: E402

import machine  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "lib")]

import numpy as np  # noqa: E402

from caffelite import TEST, Net, proto  # noqa: E402
from caffelite.backend import kernels  # noqa: E402
from detection.fast_rcnn.svd import RANKS, compress_definition, truncated_svd  # noqa: E402

PAPER = {("VGG16", "fc6"): (122, 37), ("VGG16", "fc7"): (20, 4)}
"""Milliseconds before and after, where the paper says."""


def shape(name: str, layer: str) -> tuple[int, int]:
    """Outputs and inputs of a layer of models/<name>."""
    return Net(str(ROOT / "models" / name / "test.prototxt"), phase=TEST).params[layer][0].shape


def lone(layer: str, outputs: int, inputs: int):
    """A net definition of one InnerProduct that works on all RoIs."""
    text = (
        f'input: "x" input_shape {{ dim: {arguments.rois} dim: {inputs} }} '
        f'layer {{ name: "{layer}" type: "InnerProduct" bottom: "x" top: "{layer}" '
        f"inner_product_param {{ num_output: {outputs} }} }}"
    )
    definition = proto.parse_text(text, "NetParameter", layer)
    proto.upgrade_net(definition, layer)
    return definition


def ready(definition, rng: np.random.Generator):
    """A function that runs a net once, its weights and input filled."""
    net = Net(definition, phase=TEST)
    for blobs in (*net.params.values(), [net.blobs["x"]]):
        for blob in blobs:
            blob.data[...] = rng.random(blob.shape, np.float32) - 0.5
    return lambda: net.forward()


def main() -> None:
    """Print the table."""
    kernels.set_threads(arguments.threads)
    print(machine.describe(arguments.threads))
    print(f"sgemm of numpy, 1536 x 1536: {machine.sgemm_rate() / 1e9:.0f} GFLOP/s; {arguments.rois} RoIs\n")
    print("| net | layer | shape | rank | before, ms | after, ms | ratio | operations | paper, ms | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in arguments.net:
        for layer, rank in RANKS.items():
            n, k = shape(name, layer)
            rng = np.random.default_rng(0)
            whole = lone(layer, n, k)
            runs = {"before": ready(whole, rng), "after": ready(compress_definition(whole, {layer: rank}, name), rng)}
            before, after = machine.interleaved(runs, arguments.repeats).values()
            paper = PAPER.get((name, layer))
            said = f"{paper[0]} -> {paper[1]} | {paper[0] / paper[1]:.1f}" if paper else "- | -"
            print(
                f"| {name} | {layer} | {n} x {k} | {rank} | {before * 1e3:.0f} | {after * 1e3:.0f} | "
                f"{before / after:.1f} | {n * k / rank / (n + k):.1f} | {said} |",
                flush=True,
            )
            del runs
            if arguments.factorise:
                weights, began = rng.standard_normal((n, k), np.float32), time.perf_counter()
                truncated_svd(weights, rank)
                print(f"(its SVD took {time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()
