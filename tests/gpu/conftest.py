"""What runs on a GPU (or, to test these tests, on an emulated one, tests/stand_in): skipped where there is none."""

import os
from collections import Counter
from pathlib import Path

import pytest

from caffelite import backend
from caffelite.backend.kernels import KernelFamily
from caffelite.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]


def pytest_report_header() -> list[str]:
    return backend.describe_gpus()


@pytest.fixture(autouse=True)
def gpu():
    """GPU mode, or a skip that says why there is none; each test starts exact and deterministic on GPU 0."""
    try:
        backend.set_mode_gpu()
    except BackendError as e:
        pytest.skip(str(e))
    if os.environ.get("CAFFELITE_TEST_WITHOUT_POOL"):  # so that a checker of memory sees where each array ends
        backend.xp.cuda.set_allocator(None)
    yield
    backend.set_mode_gpu()
    backend.set_device(0)
    backend.allow_tf32(False)
    backend.set_deterministic(True)
    backend.set_mode_cpu()


@pytest.fixture
def launches(monkeypatch) -> Counter:
    """How often each kernel has been launched on the GPU, by name."""
    count = Counter()
    launcher = KernelFamily._on_gpu
    monkeypatch.setattr(KernelFamily, "_on_gpu", lambda self, name: (count.update([name]), launcher(self, name))[1])
    return count


@pytest.fixture
def emulated() -> bool:
    """Whether there is no GPU: the stand-in for CuPy, or CuPy itself over an emulated CUDA."""
    return backend.xp.cuda.runtime.getDeviceProperties(0)["name"] == b"emulated card"


@pytest.fixture
def stand_in() -> bool:
    """Whether CuPy is the stand-in, whose arrays and events can be watched."""
    return "stand-in" in backend.xp.__version__


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder beside the checkout, or what benchmarks/gpu_check.py --prepare has taken of it to another machine."""
    folder = next(filter(Path.is_dir, (ROOT.parent / "shared", ROOT / "output" / "gpu-check" / "shared")), None)
    if folder is None:
        pytest.skip("needs the folder `shared` beside the checkout, or benchmarks/gpu_check.py --prepare")
    return folder


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """The environment for programs that a test starts."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
