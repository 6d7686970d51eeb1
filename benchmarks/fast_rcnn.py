"""Fast R-CNN on random weights and 600x1000 images: training and testing, beside PyTorch if installed.

    python benchmarks/fast_rcnn.py [--net CaffeNet VGG16] [--train] [--rois 2000] [--repeats 5] [--no-torch]
    python benchmarks/fast_rcnn.py --layers

Both run in one process, A B A B, and the medians are printed with the ratio; peak memory is that of caffelite alone,
measured in a process of its own. PyTorch has no RoI pooling of its own: adaptive_max_pool2d per RoI stands in (on a
GPU, which benchmarks/gpu.py uses, torchvision's roi_pool), so the ratio is also given without that stand-in's forward
pass. GFLOP/s counts convolutions and fully connected layers as if none were computed by Winograd's way, which needs
fewer operations; its share is of what numpy's product of two 1536 x 1536 matrices reaches in between.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "lib")]

import numpy as np  # noqa: E402

import caffelite as caffe  # noqa: E402
from caffelite import proto  # noqa: E402
from caffelite.backend import kernels  # noqa: E402
from caffelite.cli import print_layer_times  # noqa: E402
from caffelite.operations import net_multiply_adds  # noqa: E402

HEIGHT, WIDTH = 600, 1000


def rois(images: int, per_image: int, rng: np.random.Generator) -> np.ndarray:
    """Random boxes of selective search's usual sizes: (images * per_image, 5)."""
    n = images * per_image
    w, h = (rng.uniform(0.05, 0.6, n) * size for size in (WIDTH, HEIGHT))
    x, y = rng.uniform(0, 1, n) * (WIDTH - w), rng.uniform(0, 1, n) * (HEIGHT - h)
    index = np.repeat(np.arange(images), per_image)
    return np.stack([index, x, y, x + w, y + h], axis=1).astype(np.float32)


def fill(net) -> None:
    """Small random weights: the models start from published ones and have no fillers."""
    rng = np.random.default_rng(1)
    for blobs in net.params.values():
        blobs[0].data[...] = rng.standard_normal(blobs[0].shape, np.float32) * 0.01


def training(name: str, rng: np.random.Generator):
    """(a function that does one training iteration of models/<name>: 2 images, 128 RoIs; its solver)"""
    net, _ = proto.read_net(str(ROOT / "models" / name / "train.prototxt"))
    box = next(layer for layer in net.layer if layer.name == "bbox_pred").inner_product_param.num_output
    data = {
        "data": rng.standard_normal((2, 3, HEIGHT, WIDTH)).astype(np.float32) * 50,
        "rois": rois(2, 64, rng),
        "labels": rng.integers(0, box // 4, 128).astype(np.float32),
        "bbox_targets": rng.standard_normal((128, box)).astype(np.float32),
        "bbox_loss_weights": (rng.random((128, box)) < 0.02).astype(np.float32),
    }
    source = net.layer[0]
    source.ClearField("python_param")
    source.type = "Input"
    for top in source.top:
        source.input_param.shape.add().dim.extend(data[top].shape)
    param = proto.read_solver(str(ROOT / "models" / name / "solver.prototxt"))
    param.ClearField("train_net")
    param.net_param.CopyFrom(net)
    param.display = 0
    solver = caffe.get_solver(param, random_seed=1)
    fill(solver.net)
    for top, values in data.items():
        solver.net.blobs[top].data[...] = values
    return lambda: solver.step(1), solver


def testing(name: str, count: int, rng: np.random.Generator):
    """(a function that runs one image with `count` RoIs through models/<name>; its net)"""
    net = caffe.Net(str(ROOT / "models" / name / "test.prototxt"), caffe.TEST, seed=1)
    fill(net)
    boxes = rois(1, count, rng)
    image = rng.standard_normal((1, 3, HEIGHT, WIDTH)).astype(np.float32) * 50
    net.blobs["data"].reshape(*image.shape)
    net.blobs["rois"].reshape(*boxes.shape)
    net.reshape()
    return lambda: net.forward(data=image, rois=boxes), net


roi_seconds: list[float] = []
"""What RoI pooling forward took PyTorch on the CPU, pass by pass."""


def torch_model(name: str, train: bool, device: str = "cpu"):
    """The same net in PyTorch, built from the prototxt: (module, function of image and RoIs)."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    net, _ = proto.read_net(str(ROOT / "models" / name / f"{'train' if train else 'test'}.prototxt"))
    layers, modules = list(net.layer), nn.ModuleDict()
    channels = {"data": 3}
    for layer in layers:
        bottom, top = (layer.bottom[0] if layer.bottom else ""), (layer.top[0] if layer.top else "")
        if layer.type == "Convolution":
            p = layer.convolution_param
            modules[layer.name] = nn.Conv2d(
                channels[bottom],
                p.num_output,
                p.kernel_size[0],
                p.stride[0] if p.stride else 1,
                p.pad[0] if p.pad else 0,
                groups=p.group,
            )
            channels[top] = p.num_output
        elif layer.type == "InnerProduct":
            modules[layer.name] = nn.Linear(channels[bottom], layer.inner_product_param.num_output)
            channels[top] = layer.inner_product_param.num_output
        elif layer.type == "ROIPooling":
            channels[top] = channels[bottom] * layer.roi_pooling_param.pooled_h * layer.roi_pooling_param.pooled_w
        elif bottom in channels:
            channels[top] = channels[bottom]
        frozen = layer.param and layer.param[0].lr_mult == 0
        if frozen and layer.name in modules:
            modules[layer.name].requires_grad_(False)

    modules.to(device)

    def pool_rois(x, boxes, p):
        if device != "cpu":
            from torchvision.ops import roi_pool

            return roi_pool(x, boxes, (p.pooled_h, p.pooled_w), p.spatial_scale)
        start = time.perf_counter()
        spots = torch.round(boxes[:, 1:] * p.spatial_scale).long()
        out = []
        for image, (x0, y0, x1, y1) in zip(boxes[:, 0].long().tolist(), spots.tolist()):
            region = x[image, :, y0 : max(y1, y0) + 1, x0 : max(x1, x0) + 1]
            out.append(F.adaptive_max_pool2d(region, (p.pooled_h, p.pooled_w)))
        pooled = torch.stack(out)
        roi_seconds.append(time.perf_counter() - start)
        return pooled

    def run(image, boxes):
        blobs = {"data": image, "rois": boxes}
        for layer in layers:
            bottom = blobs.get(layer.bottom[0]) if layer.bottom else None
            if layer.name in modules:
                y = modules[layer.name](bottom.flatten(1) if layer.type == "InnerProduct" else bottom)
            elif layer.type == "ReLU":
                y = F.relu_(bottom)
            elif layer.type == "Pooling":
                p = layer.pooling_param
                y = F.max_pool2d(bottom, p.kernel_size, p.stride, p.pad, ceil_mode=True)
            elif layer.type == "LRN":
                p = layer.lrn_param
                y = F.local_response_norm(bottom, p.local_size, p.alpha, p.beta, p.k)
            elif layer.type == "ROIPooling":
                y = pool_rois(bottom, boxes, layer.roi_pooling_param)
            elif layer.type == "Dropout":
                y = F.dropout(bottom, layer.dropout_param.dropout_ratio, train)
            elif layer.type == "Softmax":
                y = F.softmax(bottom, 1)
            else:
                continue
            blobs[layer.top[0]] = y
        return blobs

    return modules, run


def torch_training(name: str, rng: np.random.Generator, device: str = "cpu"):
    import torch
    from torch.nn import functional as F

    modules, run = torch_model(name, True, device)
    optimizer = torch.optim.SGD([p for p in modules.parameters() if p.requires_grad], 0.001, 0.9, weight_decay=0.0005)
    arrays = [
        rng.standard_normal((2, 3, HEIGHT, WIDTH)).astype(np.float32) * 50,
        rois(2, 64, rng),
        rng.integers(0, 21, 128),
        rng.standard_normal((128, 84)).astype(np.float32),
        (rng.random((128, 84)) < 0.02).astype(np.float32),
    ]
    image, boxes, labels, targets, weights = (torch.from_numpy(array).to(device) for array in arrays)

    def step():
        optimizer.zero_grad()
        blobs = run(image, boxes)
        box_loss = F.smooth_l1_loss(weights * blobs["bbox_pred"], weights * targets, reduction="sum") / 128
        loss = F.cross_entropy(blobs["cls_score"], labels) + box_loss
        loss.backward()
        optimizer.step()
        loss.item()  # as a training reads it

    return step


def torch_testing(name: str, count: int, rng: np.random.Generator, device: str = "cpu"):
    import torch

    _, run = torch_model(name, False, device)
    image = torch.from_numpy(rng.standard_normal((1, 3, HEIGHT, WIDTH)).astype(np.float32) * 50)
    boxes = torch.from_numpy(rois(1, count, rng))

    def forward():
        with torch.inference_mode():
            blobs = run(image.to(device), boxes.to(device))
            return [blobs[name].to("cpu") for name in ("cls_prob", "bbox_pred")]

    return forward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--net", nargs="+", default=["CaffeNet", "VGG16"], help="models/<NET> (default: CaffeNet VGG16)"
    )
    parser.add_argument("--train", action="store_true", help="only training iterations")
    parser.add_argument("--rois", type=int, default=0, help="only test images, with this many RoIs")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each (default: 5)")
    parser.add_argument("--threads", type=int, default=0, help="threads (default: all cores)")
    parser.add_argument("--no-torch", action="store_true", help="without the comparison")
    parser.add_argument(
        "--memory", action="store_true", help="one run, print the peak memory in GiB and stop (used by itself)"
    )
    parser.add_argument(
        "--layers", action="store_true", help="print the times of a training iteration's layers and stop"
    )
    options = parser.parse_args()
    kernels.set_threads(options.threads)
    rng = np.random.default_rng(0)
    if options.layers:
        print(machine.describe(kernels.threads()))
        for name in options.net:
            print(f"\n{name}: a training iteration")
            print_layer_times(training(name, rng)[1].net, options.repeats)
        return
    works = []
    for name in options.net:
        if not options.rois:
            works.append((name, "train", 128))
        if not options.train:
            works += [(name, "test", n) for n in ([options.rois] if options.rois else [300, 2000])]
    if options.memory:
        name, kind, count = works[0]
        run, _ = training(name, rng) if kind == "train" else testing(name, count, rng)
        run(), run()
        print(machine.peak_memory())
        return
    torch = None
    if not options.no_torch:
        try:
            import torch

            torch.set_num_threads(kernels.threads())
        except ImportError:
            print("PyTorch is not installed: no comparison")
    multiply, products = machine.sgemm()
    print(machine.describe(kernels.threads()))
    print(
        f"{'net':9} {'work':16} {'caffelite ms':>12} {'GFLOP/s':>8} {'sgemm':>6} {'share':>6} {'peak GiB':>8} "
        f"{'torch ms':>9} {'ratio':>6} {'RoI pooling ms':>15} {'ratio without':>14}"
    )
    for name, kind, count in works:
        run, built = training(name, rng) if kind == "train" else testing(name, count, rng)
        runs = {"ours": run, "sgemm": multiply}
        if torch:
            runs["torch"] = torch_training(name, rng) if kind == "train" else torch_testing(name, count, rng)
        roi_seconds.clear()
        seconds = machine.interleaved(runs, options.repeats)
        flags = ["--train"] if kind == "train" else ["--rois", str(count)]
        command = [sys.executable, __file__, "--net", name, "--memory", "--threads", str(kernels.threads()), *flags]
        memory = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        rate = 2 * net_multiply_adds(built.net if kind == "train" else built, kind == "train") / seconds["ours"]
        sgemm = products / seconds["sgemm"]
        line = (
            f"{name:9} {f'{kind}, {count} RoIs':16} {seconds['ours'] * 1e3:12.0f} {rate / 1e9:8.0f} "
            f"{sgemm / 1e9:6.0f} {rate / sgemm:6.0%} {memory:8.2f}"
        )
        if torch:
            pooling = statistics.median(roi_seconds[1:])
            line += (
                f" {seconds['torch'] * 1e3:9.0f} {seconds['torch'] / seconds['ours']:6.2f} {pooling * 1e3:15.0f} "
                f"{(seconds['torch'] - pooling) / seconds['ours']:14.2f}"
            )
        print(line, flush=True)


if __name__ == "__main__":
    main()
