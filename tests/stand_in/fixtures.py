"""Fixtures that let a test run the GPU's code without a GPU."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from caffelite import backend
from caffelite.backend import cudnn, cudnn_convolution, kernels, nms

FOLDER = Path(__file__).resolve().parent


def build_cudnn(target: Path, *options: str) -> Path:
    """Compile the stand-in for libcudnn."""
    command = [*kernels.compiler(), "-std=c++11", "-O1", "-shared", "-fPIC", *options]
    subprocess.run([*command, str(FOLDER / "cudnn.cc"), "-o", str(target)], check=True)
    return target


@pytest.fixture(scope="session")
def cudnn_file(tmp_path_factory) -> Path:
    """The stand-in for libcudnn, compiled."""
    return build_cudnn(tmp_path_factory.mktemp("cudnn") / "libcudnn.so.9")


def forget() -> None:
    """Drop what was compiled, opened and planned for a GPU."""
    for cached in (
        kernels.kernels,
        cudnn.library,
        cudnn_convolution._cached_plan,
        cudnn_convolution._tensor,
        nms._stream,
    ):
        cached.cache_clear()
    cudnn_convolution._local.__dict__.clear()


@pytest.fixture
def stand_in_gpu(monkeypatch, cudnn_file):
    """GPU mode on the stand-in for CuPy, with the stand-in for libcudnn; gives the emulated `cupy`."""
    saved = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "cupy"}
    for name in saved:
        del sys.modules[name]
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("CUDNN_LIBRARY", str(cudnn_file))
    forget()
    backend.set_mode_gpu()
    yield sys.modules["cupy"]
    backend.set_mode_cpu()
    backend.allow_tf32(False)
    backend.set_deterministic(True)
    backend._import_cupy().cuda.Device(0).use()
    forget()
    for name in [name for name in sys.modules if name.split(".")[0] == "cupy"]:
        del sys.modules[name]
    sys.modules.update(saved)


@pytest.fixture
def cudnn_notes(stand_in_gpu, cudnn_file):
    """A function that gives the stand-in's calls since it was called last, a line each."""
    library = ctypes.CDLL(str(cudnn_file))
    library.stand_in_notes.restype = ctypes.c_char_p
    library.stand_in_refuse(0)

    def notes() -> list[str]:
        lines = library.stand_in_notes().decode().splitlines()
        library.stand_in_clear()
        return lines

    notes()
    notes.refuse_all = lambda: library.stand_in_refuse(1)
    yield notes
    library.stand_in_refuse(0)
