"""SSD300's own layers on a batch: MultiBoxLoss forward and backward, DetectionOutput.

    python benchmarks/ssd.py [--images 32] [--repeats 7]

8732 priors of the paper's six maps, 21 classes, 1 to 7 objects per image, random predictions.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "lib")]

import numpy as np  # noqa: E402

from caffelite.backend import kernels  # noqa: E402
from tests.engine.gradient_check import LayerRun  # noqa: E402

CLASSES = 21
MAPS = ((38, 0.1, 4), (19, 0.2, 6), (10, 0.37, 6), (5, 0.54, 6), (3, 0.71, 4), (1, 0.88, 4))  # cells, size, boxes
RATIOS = (1, 1.2, 2**0.5, 0.5**0.5, 3**0.5, 3**-0.5)  # of the sides to the size


def priors() -> np.ndarray:
    """(1, 2, 4 * 8732): corners, and variances."""
    boxes = []
    for cells, size, count in MAPS:
        centers = (np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), -1).reshape(-1, 2) + 0.5) / cells
        for ratio in RATIOS[:count]:
            half = np.array([size * ratio, size / ratio]) / 2
            boxes.append(np.hstack([centers - half, centers + half]))
    corners = np.concatenate(boxes)
    return np.stack([corners.ravel(), np.tile([0.1, 0.1, 0.2, 0.2], len(corners))])[None]


def objects(images: int, rng: np.random.Generator) -> np.ndarray:
    """Ground truth (1, 1, G, 8)."""
    rows = []
    for image in range(images):
        for _ in range(rng.integers(1, 8)):
            corner, size = rng.uniform(0, 0.6, 2), rng.uniform(0.1, 0.4, 2)
            rows.append([image, rng.integers(1, CLASSES), 0, *corner, *(corner + size), 0])
    return np.array(rows).reshape(1, 1, -1, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="images of the training batch (default: 32)")
    parser.add_argument("--repeats", type=int, default=7, help="measured runs of each (default: 7)")
    parser.add_argument("--threads", type=int, default=0, help="threads (default: all cores)")
    options = parser.parse_args()
    kernels.set_threads(options.threads)
    rng, prior = np.random.default_rng(0), priors()
    count = prior.shape[2] // 4
    location = 0.1 * rng.standard_normal((options.images, 4 * count))
    loss = LayerRun(
        f'type: "MultiBoxLoss" multibox_loss_param {{ num_classes: {CLASSES} code_type: CENTER_SIZE }}',
        [location, rng.standard_normal((options.images, CLASSES * count)), prior, objects(options.images, rng)],
    )
    loss.forward()
    loss.top[0].diff[...] = 1
    scores = 1.5 * rng.standard_normal((1, count, CLASSES))
    scores[..., 0] += 3
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    output = LayerRun(
        f'type: "DetectionOutput" detection_output_param {{ num_classes: {CLASSES} code_type: CENTER_SIZE '
        "confidence_threshold: 0.01 keep_top_k: 200 nms_param { nms_threshold: 0.45 top_k: 400 } }",
        [location[:1], probabilities.reshape(1, -1), prior],
        phase=1,
    )
    down = [True, True, False, False]
    seconds = machine.interleaved(
        {
            f"MultiBoxLoss forward, {options.images} images": lambda: loss.layer.forward(loss.bottom, loss.top),
            "MultiBoxLoss backward": lambda: loss.layer.backward(loss.top, down, loss.bottom),
            "DetectionOutput, 1 image": lambda: output.layer.forward(output.bottom, output.top),
        },
        options.repeats,
    )
    print(machine.describe(kernels.threads()))
    for name, taken in seconds.items():
        print(f"{name:34} {taken * 1e3:8.2f} ms")


if __name__ == "__main__":
    main()
