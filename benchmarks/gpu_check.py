"""Everything that is to be proved on a GPU, in one command that needs nothing installed but what GPU images have.

    make gpu-check PYTHON=python3        or        python3 benchmarks/gpu_check.py [--minutes 9] [--logs FOLDER]

In order: every layer forward and backward on GPU and CPU, trainings, resume; the values of the original Caffe; the
default job; benchmarks/gpu.py and gpu_details.py; every layer under NVIDIA's memory checker, if that is there. Exit
status: 0 all passed, 1 something failed, 2 no GPU, 3 nothing failed but time was up.

It needs numpy, CuPy, protobuf, OpenCV, scipy, tqdm, h5py, PyYAML, matplotlib, pytest and a C++ compiler; PyTorch and
torchvision for the comparison. What an image may lack is brought along: on a machine that has all,

    python benchmarks/gpu_check.py --prepare

puts the default job's data set, its proposals (selective search is in OpenCV's contrib modules only), the original's
values and published models into output/gpu-check; copy that folder to the machine with the GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = ROOT / "output" / "gpu-check"
SHARED = ROOT.parent / "shared"
MODELS = ("real/models", "real/imagenet")
NEEDED = {
    "numpy": "numpy",
    "google.protobuf": "protobuf",
    "cv2": "opencv-python-headless",
    "scipy": "scipy",
    "tqdm": "tqdm",
    "h5py": "h5py",
    "yaml": "pyyaml",
    "matplotlib": "matplotlib",
    "pytest": "pytest",
}
DEVICE = """
import sys
from caffelite import backend
try:
    backend.set_mode_gpu()
    backend.set_device(int(sys.argv[1]))
except backend.BackendError as e:
    print(f"gpu-check: nothing was checked: {e}")
    sys.exit(2)
for line in backend.describe_gpus():
    print(line)
"""
LEAST_AP = 0.5
SANITIZER = "compute-sanitizer"
TAIL = 3000  # characters of a step's output that are shown if it fails


@dataclass
class Step:
    """What was done: `state` is passed, failed, unfinished or skipped, `note` says why."""

    name: str
    state: str
    seconds: float
    note: str = ""


class Check:
    """Runs steps in order until the time is up."""

    def __init__(self, minutes: float, logs: Path, gpu: int):
        self.end = time.monotonic() + 60 * minutes
        self.logs, self.gpu = logs, gpu
        self.steps: list[Step] = []
        path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "lib"), os.environ.get("PYTHONPATH")]))
        caches = {"CUPY_CACHE_DIR": str(PACK / "cache" / "cupy"), "CAFFELITE_CACHE": str(PACK / "cache")}
        self.environment = {**caches, **os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}

    def run(self, name: str, *command: str, under: tuple[str, ...] = (), **environment: str) -> str | None:
        """Run Python with these arguments, `under` another program if need be; its output if it succeeded."""
        start, left = time.monotonic(), self.end - time.monotonic()
        if left < 5:
            self.steps.append(Step(name, "unfinished", 0, "no time left"))
            return None
        print(f"\n== {name}", flush=True)
        lines, log = [], self.logs / f"{name.replace(' ', '_')}.log"
        with open(log, "w") as file:
            process = subprocess.Popen(
                ["timeout", "-k", "5", str(int(left)), *under, sys.executable, *command],
                cwd=ROOT, env={**self.environment, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True,
            )  # fmt: skip
            for line in process.stdout:
                file.write(line)
                lines.append(line)
        output, status = "".join(lines), process.wait()
        state, note = {
            0: ("passed", ""), 124: ("unfinished", "time was up"), -9: ("unfinished", "time was up"),
        }.get(status, ("failed", f"exit status {status}"))  # fmt: skip
        self.steps.append(Step(name, state, time.monotonic() - start, note))
        print(output[-TAIL // 2 if status == 0 else -TAIL :], flush=True)
        return None if status else output

    def skip(self, name: str, reason: str) -> None:
        """Note that a step was left out."""
        self.steps.append(Step(name, "skipped", 0, reason))

    def fail(self, note: str) -> None:
        """Make the last step a failure."""
        self.steps[-1].state, self.steps[-1].note = "failed", note


def first_existing(*paths: Path) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def golden() -> Path | None:
    """The values of the original Caffe."""
    return first_existing(SHARED / "golden", PACK / "shared" / "golden")


def check_tests(check: Check) -> None:
    """Layers, nets and the binding of cuDNN."""
    tests = ["tests/gpu", "tests/engine/backend/test_cudnn.py"]
    options = ["-q", "-p", "no:cacheprovider", "--deselect", "tests/gpu/test_golden.py"]
    check.run("layers and trainings", "-m", "pytest", *options, *tests)


def check_golden(check: Check) -> None:
    """The original's values, replayed on the GPU."""
    folder = golden()
    if folder is None:
        check.skip("original values", "they are not here: benchmarks/gpu_check.py --prepare brings them")
        return
    # what two builds of the original do differently is left out
    arguments = ["--module", "caffelite", "--gpu", "--oracle", "mainline"]
    output = check.run("original values", str(folder / "check.py"), *arguments)
    if output:
        check.steps[-1].note = output.strip().splitlines()[-1]


def check_job(check: Check) -> None:
    """The default job: trained and tested, with its average precision."""
    proposals = {split: PACK / f"proposals_{split}.mat" for split in ("train", "test")}
    brought = all(path.exists() for path in proposals.values()) and (PACK / "shapes").is_dir()
    if not brought and not _selective_search():
        check.skip("default job", "no selective search in this OpenCV, and no proposals brought along (--prepare)")
        return
    data = {split: [] for split in proposals}
    if brought:
        for split, file in proposals.items():
            data[split] = ["--imdb", f"{PACK / 'shapes'}:{split}", "--proposals", str(file)]
    folder = str(PACK / "default_job")
    gpu = ["--gpu", str(check.gpu), "--output", folder]
    if check.run("default job training", "tools/train_net.py", *gpu, *data["train"]) is None:
        return
    model = max(Path(folder).glob("*.caffemodel"), key=lambda path: path.stat().st_mtime, default=None)
    if model is None:
        check.fail("no model was written")
        return
    output = check.run("default job test", "tools/test_net.py", *gpu, "--net", str(model), *data["test"])
    if output is None:
        return
    lines = (line.split() for line in output.splitlines() if line.startswith("mAP ") and "trained" in line)
    ap = float(next(lines, ["", "nan"])[1])
    check.steps[-1].note = f"mAP {ap:.4f}"
    if not ap >= LEAST_AP:
        check.fail(f"mAP {ap:.4f}, expected at least {LEAST_AP}")


def check_benchmark(check: Check) -> None:
    """Speed, beside PyTorch where it is installed."""
    arguments = ["--gpu", str(check.gpu), "--json", str(check.logs / "benchmark.json")]
    output = check.run("benchmark", "benchmarks/gpu.py", *arguments)
    if output:
        print(output)


def check_details(check: Check) -> None:
    """Where the time goes."""
    output = check.run("details", "benchmarks/gpu_details.py", "--gpu", str(check.gpu))
    if output:
        print(output)


def check_memory(check: Check) -> None:
    """Whether a kernel reads or writes where it should not: every layer under NVIDIA's memory checker."""
    if shutil.which(SANITIZER) is None:
        check.skip("memory of kernels", f"{SANITIZER} is not installed")
        return
    tests = ["tests/gpu/test_layers.py", "tests/gpu/test_nms.py", "-k", "gpu_is_cpu or every_group"]
    checker = (SANITIZER, "--tool", "memcheck", "--report-api-errors", "no", "--error-exitcode", "9")
    check.run(
        "memory of kernels", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, under=checker,
        CAFFELITE_TEST_WITHOUT_POOL="1",
    )  # fmt: skip


def _selective_search() -> bool:
    import cv2

    return hasattr(getattr(cv2, "ximgproc", None), "segmentation")


def prepare() -> None:
    """Fill output/gpu-check with what a bare machine lacks."""
    sys.path[:0] = [str(ROOT), str(ROOT / "lib")]
    import numpy as np
    import scipy.io

    from detection.config import cfg
    from detection.datasets import VocDataset, shapes
    from detection.fast_rcnn.jobs import configure, dataset_proposals

    PACK.mkdir(parents=True, exist_ok=True)
    shapes.make(PACK / "shapes")
    cfg.reset()
    configure(None, str(ROOT / "prototxt" / "solver.prototxt"), [])
    for split in ("train", "test"):
        dataset = VocDataset(PACK / "shapes", split, shapes.CLASSES, f"shapes_{split}")
        cells = np.empty((1, len(dataset)), object)
        for i, boxes in enumerate(dataset_proposals(dataset)):
            cells[0, i] = np.float64(boxes[:, [1, 0, 3, 2]] + 1)  # y1 x1 y2 x2 from 1, as the authors' files
        scipy.io.savemat(PACK / f"proposals_{split}.mat", {"boxes": cells}, do_compression=True)
    for name in ("golden", *MODELS):
        if (SHARED / name).is_dir():
            shutil.copytree(SHARED / name, PACK / "shared" / name, dirs_exist_ok=True)
    for expected in (PACK / "shared").glob("real/imagenet/*/expected.npz"):
        for name in np.load(expected, allow_pickle=False)["names"]:
            photograph = Path("real", "images", "VOC2012_100", "JPEGImages", f"{name}.jpg")
            (PACK / "shared" / photograph).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SHARED / photograph, PACK / "shared" / photograph)
    size = sum(path.stat().st_size for path in PACK.rglob("*") if path.is_file())
    print(f"{PACK}: {size / 2**20:.1f} MiB to take along")


def missing() -> list[str]:
    """Packages that are needed and not installed."""
    return [package for module, package in NEEDED.items() if not _installed(module)]


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", action="store_true", help="gather what a bare machine lacks; needs no GPU")
    parser.add_argument("--minutes", type=float, default=9, help="time for all (default: 9)")
    parser.add_argument("--gpu", type=int, default=0, metavar="N", help="device (default: 0)")
    parser.add_argument("--logs", type=Path, default=PACK / "logs", metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--no-benchmark", action="store_true", help="without the measurements")
    options = parser.parse_args()
    if options.prepare:
        prepare()
        return 0
    lacking = missing()
    if lacking:
        print(f"gpu-check: these packages are missing: {', '.join(lacking)} (docs/gpu.md)")
        return 1
    options.logs.mkdir(parents=True, exist_ok=True)
    check = Check(options.minutes, options.logs.resolve(), options.gpu)
    # in a process of its own: this one shall not hold the GPU
    there = subprocess.run([sys.executable, "-c", DEVICE, str(options.gpu)], cwd=ROOT, env=check.environment)
    if there.returncode:
        return there.returncode
    check_tests(check)
    check_golden(check)
    check_job(check)
    if not options.no_benchmark:
        check_benchmark(check)
        check_details(check)
    check_memory(check)
    print()
    for step in check.steps:
        print(f"{step.state:8} {step.seconds:6.0f} s  {step.name:24} {step.note}")
    states = {step.state for step in check.steps}
    return 1 if "failed" in states else 3 if "unfinished" in states else 0


if __name__ == "__main__":
    sys.exit(main())
