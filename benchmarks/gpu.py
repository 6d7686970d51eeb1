"""Fast R-CNN on a GPU: the paper's nets beside PyTorch, single layers beside the card's copy bandwidth, idle time.

    python benchmarks/gpu.py [--gpu 0] [--net CaffeNet VGG_CNN_M_1024 VGG16] [--json FILE] [--no-torch] [--small]

Everything is measured in one run on random weights. Training: 2 images of 600x1000, 128 RoIs, in float32 and TF32, and
the same with images read from JPEG files of 500x375 by the data layer; the GPU's idle time there is what an iteration
takes longer than the same one for which no data come. Testing: one image of 600x1000 with 2000 RoIs, from and to the
host's memory, the next one brought to the GPU in the meantime as the tester does; also with fc6 and fc7 cut to 1024 and
256 singular values as in the paper. PyTorch runs twice: as it comes, and with cudnn.benchmark, which measures cuDNN's
algorithms, of which it may take those whose sums differ from run to run. --small shrinks all sizes: to try the program,
not to measure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import fast_rcnn
import numpy as np

import caffelite as caffe
from caffelite import backend, proto
from caffelite.backend import xp
from caffelite.backend.gemm import gemm
from caffelite.backend.transfer import Staging
from caffelite.blob import Blob
from caffelite.errors import BackendError
from caffelite.layer import layer_class
from caffelite.operations import net_multiply_adds
from caffelite.solver.updates import Group
from detection.fast_rcnn import test as detection
from detection.fast_rcnn.svd import RANKS, compress_definition

PAPER_HOURS = {"CaffeNet": 1.2, "VGG_CNN_M_1024": 2.0, "VGG16": 9.5}  # table 4, 40,000 iterations on a K40
PAPER_SECONDS = {"CaffeNet": 0.10, "VGG_CNN_M_1024": 0.15, "VGG16": 0.32}  # per image, without proposals
ITERATIONS = 40_000
JPEG_WIDTH, JPEG_HEIGHT, PROPOSALS = 500, 375, 2000


class Sizes:
    """How much is measured; `small` is for trying the program out."""

    def __init__(self, small: bool):
        self.height, self.width, self.rois = (64, 80, 20) if small else (600, 1000, 2000)
        self.matrix, self.copy, self.weights = (64, 2**12, 10**4) if small else (8192, 2**28, 10**8)
        self.train, self.test, self.rounds = (2, 1, 1) if small else (20, 10, 5)
        self.data_iterations, self.images = (2, 4) if small else (200, 64)
        self.sides = (100, 75) if small else (JPEG_WIDTH, JPEG_HEIGHT)


def start(gpu: int, small: bool) -> Sizes | None:
    """Select a GPU and tell what it is; None with a line where there is none."""
    try:
        caffe.set_mode_gpu()
        caffe.set_device(gpu)
    except BackendError as e:
        print(f"no benchmark: {e}")
        return None
    for line in backend.describe_gpus():
        print(line)
    sizes = Sizes(small)
    fast_rcnn.HEIGHT, fast_rcnn.WIDTH = sizes.height, sizes.width
    return sizes


def seconds(run, repeats: int, rounds: int, wait=backend.synchronize) -> float:
    """Median over rounds of the time of one of `repeats` runs, or as many of them as take a second, after two runs and
    one round to warm up."""
    run()
    wait()
    start = time.perf_counter()
    run()
    wait()
    repeats = max(1, min(repeats, int(1 / max(time.perf_counter() - start, 1e-6))))
    times = []
    for _ in range(rounds + 1):
        wait()
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        wait()
        times.append((time.perf_counter() - start) / repeats)
    return statistics.median(times[1:])


@contextlib.contextmanager
def tf32(allowed: bool):
    """TF32 allowed, or not, in caffelite and in PyTorch if that is loaded."""
    torch = sys.modules.get("torch")
    backend.allow_tf32(allowed)
    if torch:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    yield
    backend.allow_tf32(False)


def ceilings(sizes: Sizes) -> dict:
    """The card's copy bandwidth (bytes read and written per second) and matrix rates (operations per second)."""
    a, b = xp.zeros(sizes.copy, np.float32), xp.ones(sizes.copy, np.float32)
    copy = 8 * sizes.copy / seconds(lambda: a.__setitem__(..., b), 5, sizes.rounds)
    del a, b
    n = sizes.matrix
    rng = np.random.default_rng(0)
    a, b = (xp.asarray(rng.standard_normal((n, n), np.float32)) for _ in range(2))
    out = xp.empty((n, n), np.float32)
    rates = {}
    for allowed in (False, True):
        with tf32(allowed):
            rates[allowed] = 2 * n**3 / seconds(lambda: gemm(a, b, out), 3, sizes.rounds)
    return {"copy": copy, "float32": rates[False], "tf32": rates[True]}


def layer_of(text: str, *bottoms: np.ndarray, phase: int = caffe.TRAIN):
    """A layer on its own: (layer, bottoms, tops)."""
    param = proto.parse_text(f"layer {{ {text} }}", "NetParameter", "benchmark").layer[0]
    bottom, top = [], [Blob()]
    for values in bottoms:
        blob = Blob(*values.shape)
        blob.data[...] = values
        bottom.append(blob)
    layer = layer_class(param.type)(param, phase)
    layer.setup(bottom, top)
    layer.reshape(bottom, top)
    return layer, bottom, top


def layers(sizes: Sizes) -> list[tuple[str, float, int]]:
    """(what, seconds, the fewest bytes it must move) of layers that memory limits."""
    rng = np.random.default_rng(1)
    h, w = sizes.height, sizes.width
    rows = []

    def add(name: str, text: str, *bottoms: np.ndarray, phase: int = caffe.TRAIN) -> None:
        layer, bottom, top = layer_of(text, *bottoms, phase=phase)
        x, y = bottom[0].count, top[0].count
        rows.append((f"{name} forward", seconds(lambda: layer.forward(bottom, top), 5, sizes.rounds), 4 * (x + y)))
        if phase == caffe.TRAIN:
            top[0].diff[...] = rng.standard_normal(top[0].shape, np.float32)
            down = [True] + [False] * (len(bottom) - 1)
            run = lambda: layer.backward(top, down, bottom)  # noqa: E731
            # it reads the gradient and what the forward pass kept (as large), and writes the other gradient
            rows.append((f"{name} backward", seconds(run, 5, sizes.rounds), 4 * (x + 2 * y)))

    pool = 'type: "Pooling" pooling_param { kernel_size: 2 stride: 2 }'
    roi = 'type: "ROIPooling" roi_pooling_param { pooled_h: 7 pooled_w: 7 spatial_scale: 0.0625 }'
    maps = lambda *shape: np.maximum(rng.standard_normal(shape, np.float32), 0)  # noqa: E731
    add("max pooling 64 channels", pool, maps(1, 64, h, w))
    add("LRN 96 channels, 16 images", 'type: "LRN"', maps(16, 96, h // 4, w // 4))
    add("ReLU 64 channels", 'type: "ReLU"', maps(1, 64, h, w))
    add("RoI pooling 128 RoIs", roi, maps(2, 512, h // 16, w // 16), fast_rcnn.rois(2, 64, rng))
    many = maps(1, 512, h // 16, w // 16), fast_rcnn.rois(1, sizes.rois, rng)
    add(f"RoI pooling {sizes.rois} RoIs, in a test", roi, *many, phase=caffe.TEST)
    add(f"RoI pooling {sizes.rois} RoIs", roi, *many)
    n = sizes.weights
    rows.append((f"SGD of {n:.0e} weights", seconds(update_of(n), 5, sizes.rounds), 4 * 5 * n))
    return rows


def update_of(count: int):
    """A function that does SGD's update of so many weights."""
    weights, history = Blob(count), Blob(count)
    group = Group(1.0, 1.0, [weights], [[history]])
    return lambda: group.run("sgd", 1.0, 5e-4, 0, 1e-3, 0.9)


def test_net(name: str, sizes: Sizes, svd: bool):
    """(a function that tests one image, its floating-point operations)"""
    file = str(fast_rcnn.ROOT / "models" / name / "test.prototxt")
    definition = compress_definition(proto.read_net(file)[0], RANKS, file) if svd else file
    net = caffe.Net(definition, caffe.TEST, seed=1)
    fast_rcnn.fill(net)
    rng = np.random.default_rng(2)
    boxes = fast_rcnn.rois(1, sizes.rois, rng)
    image = rng.standard_normal((1, 3, sizes.height, sizes.width)).astype(np.float32) * 50
    staging = Staging()
    staged = [staging.stage([image, boxes])]

    def run() -> None:
        with staged.pop() as batch:
            detection.feed(net, batch)
        net.launch()
        staged.append(staging.stage([image, boxes]))
        for output in ("cls_prob", "bbox_pred"):
            net.blobs[output].read()

    run()
    return run, 2 * net_multiply_adds(net, False)


def from_files(name: str, sizes: Sizes, folder: Path):
    """A function that trains one iteration of models/<name> on JPEG files, through the data layer."""
    from detection.config import cfg
    from detection.datasets import VocDataset, shapes
    from detection.fast_rcnn.train import Trainer
    from detection.roi_data.roidb import build_roidb

    cfg.reset()
    cfg.merge({"TRAIN": {"SCALES": [sizes.height], "MAX_SIZE": sizes.width}})
    width, height = sizes.sides
    if not folder.is_dir():
        options = shapes.ShapesOptions(sizes.images, 1, width=(width, width), height=(height, height))
        shapes.make(folder, options)
    dataset = VocDataset(folder, "train", shapes.CLASSES, "benchmark")
    rng = np.random.default_rng(3)
    boxes = []
    for _ in range(len(dataset)):
        corners = np.sort(rng.integers(0, (width, height), (min(PROPOSALS, width * height // 4), 2, 2)), axis=1)
        boxes.append(corners.reshape(-1, 4).astype(np.int32))
    param = proto.read_solver(str(fast_rcnn.ROOT / "models" / name / "solver.prototxt"))
    param.base_lr = 1e-6  # from random weights, on which nothing is to be learned
    param.snapshot_prefix = str(folder / "benchmark")
    trainer = Trainer(param, dataset.classes, fit=True)
    trainer.set_data(build_roidb(dataset, boxes))
    fast_rcnn.fill(trainer.net)

    def step() -> None:
        trainer.solver.step(1)
        trainer.watch.losses()

    return step, trainer


def pipeline(name: str, sizes: Sizes, folder: Path) -> tuple[float, float, float, str]:
    """Seconds of an iteration from JPEG files, what of them the host spends in the data layer, seconds of an iteration
    on a batch that stays on the GPU, and what reads the files."""
    step, trainer = from_files(name, sizes, folder)
    forward, spent = trainer.data_layer.forward, []

    def timed(bottom, top) -> None:
        start = time.perf_counter()
        forward(bottom, top)
        spent.append(time.perf_counter() - start)

    trainer.data_layer.forward = timed
    for _ in range(sizes.train):
        step()
    backend.synchronize()
    start = time.perf_counter()
    for _ in range(sizes.data_iterations):
        step()
    backend.synchronize()
    with_files = (time.perf_counter() - start) / sizes.data_iterations
    trainer.data_layer.forward = lambda bottom, top: None
    without = seconds(step, sizes.train, sizes.rounds)
    readers = trainer.data_layer.readers
    trainer.data_layer.close()
    return with_files, statistics.mean(spent[-sizes.data_iterations :]), without, readers


def load_torch(wanted: bool):
    """PyTorch with a GPU, or None with a line that says why."""
    if not wanted:
        return None
    try:
        import torch
        import torchvision  # noqa: F401
    except ImportError as e:
        print(f"no comparison with PyTorch: {e}")
        return None
    if not torch.cuda.is_available():
        print("no comparison with PyTorch: it finds no GPU")
        return None
    return torch


def torch_seconds(name: str, sizes: Sizes, device: str, measured: bool) -> dict[tuple[bool, bool], float]:
    """{(training or testing, TF32 or not): seconds of PyTorch}, for a process of its own: PyTorch remembers for every
    shape the first algorithm that it has chosen, with or without measuring."""
    import torch

    fast_rcnn.HEIGHT, fast_rcnn.WIDTH = sizes.height, sizes.width
    torch.backends.cudnn.benchmark = measured
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    times = {}
    for train in (True, False):
        rng = np.random.default_rng(0)
        run = fast_rcnn.torch_training(name, rng, device) if train else fast_rcnn.torch_testing(
            name, sizes.rois, rng, device
        )  # fmt: skip
        for allowed in (False, True):
            with tf32(allowed):
                times[train, allowed] = seconds(run, sizes.train if train else sizes.test, sizes.rounds, wait)
    return times


def report_net(name: str, sizes: Sizes, torch, rates: dict, folder: Path, device: int) -> dict:
    """Measure one net, and print its lines."""
    found: dict[str, dict] = {}
    rng = lambda: np.random.default_rng(0)  # noqa: E731
    others = []
    if torch:
        for measured in (False, True):
            with multiprocessing.get_context("spawn").Pool(1) as process:
                others.append(process.apply(torch_seconds, (name, sizes, f"cuda:{device}", measured)))
    works = [("train, 128 RoIs", None), (f"test, {sizes.rois} RoIs", False), (f"test, {sizes.rois} RoIs, SVD", True)]
    for work, svd in works:
        if svd is None:
            run, solver = fast_rcnn.training(name, rng())
            flops, repeats = 2 * net_multiply_adds(solver.net, True), sizes.train
            del solver
        else:
            (run, flops), repeats = test_net(name, sizes, svd), sizes.test
        for allowed in (False, True):
            kind = "tf32" if allowed else "float32"
            with tf32(allowed):
                ours = seconds(run, repeats, sizes.rounds)
            theirs = [times[svd is None, allowed] for times in others] if not svd else []
            found[f"{work}, {kind}"] = {"seconds": ours, "torch": theirs, "flops": flops}
            share = flops / ours / rates[kind]
            beside = "".join(f"{taken * 1e3:9.2f} {taken / ours:6.2f}" for taken in theirs) or " " * 32
            print(f"{name:16} {work:22} {kind:8} {ours * 1e3:9.2f} {beside} {share:7.1%}", flush=True)
        del run
        xp.get_default_memory_pool().free_all_blocks()
    for allowed in (False, True):
        with tf32(allowed):
            files, data, resident, readers = pipeline(name, sizes, folder)
        kind = "tf32" if allowed else "float32"
        found[f"files, {kind}"] = {"seconds": files, "data layer": data, "resident": resident, "readers": readers}
        print(
            f"{name:16} {'train from JPEG files':22} {kind:8} {files * 1e3:9.2f} {'':32} "
            f"GPU idle {max(0.0, 1 - resident / files):.1%}, data layer {data * 1e3:.2f} ms, {readers}, "
            f"40,000 iterations {files * ITERATIONS / 3600:.2f} h (paper {PAPER_HOURS.get(name, float('nan'))} h)",
            flush=True,
        )
        xp.get_default_memory_pool().free_all_blocks()
    each = [found[f"test, {sizes.rois} RoIs, {kind}"]["seconds"] for kind in ("float32", "tf32")]
    paper = PAPER_SECONDS.get(name, float("nan"))
    print(f"{name:16} seconds per image {each[0]:.4f}, TF32 {each[1]:.4f} (paper {paper})")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="device (default: 0)")
    parser.add_argument("--net", nargs="+", default=["VGG16", "VGG_CNN_M_1024", "CaffeNet"], help="models/<NET>")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there, too")
    parser.add_argument("--no-torch", action="store_true", help="without the comparison")
    parser.add_argument("--small", action="store_true", help="tiny sizes: to try the program, not to measure")
    options = parser.parse_args()
    sizes = start(options.gpu, options.small)
    if sizes is None:
        return 2
    torch = load_torch(not options.no_torch)
    rates = ceilings(sizes)
    print(
        f"copy {rates['copy'] / 1e12:.2f} TB/s, matrix product float32 {rates['float32'] / 1e12:.1f} and TF32 "
        f"{rates['tf32'] / 1e12:.1f} TFLOP/s" + (f", PyTorch {torch.__version__}" if torch else "")
    )
    results: dict = {"gpu": backend.describe_gpus(), "rates": rates, "layers": {}, "nets": {}}
    print(f"\n{'layer':34} {'ms':>8} {'of copy bandwidth':>18}")
    for name, time_taken, size in layers(sizes):
        results["layers"][name] = {"seconds": time_taken, "bytes": size}
        print(f"{name:34} {time_taken * 1e3:8.3f} {size / time_taken / rates['copy']:18.1%}", flush=True)
    torch_heads = f"{'torch ms':>9} {'ratio':>6}{'measured':>9} {'ratio':>6}"
    print(f"\n{'net':16} {'work':22} {'kind':8} {'ms':>9} {torch_heads} {'of rate':>7}")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.net:
            results["nets"][name] = report_net(name, sizes, torch, rates, Path(folder) / "images", options.gpu)
            if options.json:
                Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
