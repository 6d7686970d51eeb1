"""The tests that are for a GPU pass without one: on the stand-in for CuPy, and on CuPy itself over an emulated CUDA."""

import os
import re
import subprocess
import sys

from tests.stand_in.fixtures import CACHE, FOLDER, ROOT, cudnn_file, emulated_cuda  # noqa: F401

LEFT_OUT = (
    "test_golden.py::test_golden_values[parse]",  # these two compute nothing
    "test_golden.py::test_golden_values[errors]",
    "test_models.py::test_squeezenet_probabilities",  # too much for an emulation
)


def gpu_tests(environment: dict[str, str], *chosen: str) -> tuple[int, int]:
    """Run tests/gpu, or those chosen; how many passed, and were skipped."""
    left_out = [f"--deselect=tests/gpu/{name}" for name in LEFT_OUT]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *(chosen or ["tests/gpu"]), *left_out],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    passed, skipped = (re.search(rf"(\d+) {word}", run.stdout) for word in ("passed", "skipped"))
    assert run.returncode == 0 and passed, run.stdout[-5000:] + run.stderr[-2000:]
    return int(passed[1]), int(skipped[1]) if skipped else 0


def test_gpu_tests_pass_on_the_stand_in(cudnn_file):  # noqa: F811
    path = [FOLDER, ROOT, ROOT / "lib", *filter(None, [os.environ.get("PYTHONPATH")])]
    names = {"PYTHONPATH": os.pathsep.join(map(str, path)), "CAFFELITE_CACHE": str(CACHE)}
    passed, skipped = gpu_tests({**names, "CUDNN_LIBRARY": str(cudnn_file)})
    assert passed >= 320 and skipped <= 8  # where there are no golden values and models


def test_gpu_tests_pass_on_cupy_over_an_emulated_cuda(emulated_cuda, cudnn_file):  # noqa: F811
    passed, skipped = gpu_tests({**emulated_cuda, "CUDNN_LIBRARY": str(cudnn_file)})
    assert passed >= 320 and skipped <= 11  # also what only the stand-in can count


def test_kernels_keep_to_their_arrays(emulated_cuda, cudnn_file):  # noqa: F811
    """Without CuPy's pool every array is an allocation of its own, behind which no memory is."""
    environment = {**emulated_cuda, "CUDNN_LIBRARY": str(cudnn_file), "CAFFELITE_TEST_WITHOUT_POOL": "1"}
    passed, _ = gpu_tests(environment, "tests/gpu/test_layers.py", "tests/gpu/test_nms.py", "-k", "gpu_is_cpu or every")
    assert passed >= 200
