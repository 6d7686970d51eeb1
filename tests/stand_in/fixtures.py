"""Fixtures that let a test run the GPU's code without a GPU."""

import ctypes
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import pytest

from caffelite import backend
from caffelite.backend import cudnn, cudnn_convolution, kernels, nms

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
CACHE = ROOT / ".pytest_cache" / "emulated"
"""For kernels compiled to be emulated: nothing of a user's."""


def build_cudnn(target: Path, *options: str) -> Path:
    """Compile the stand-in for libcudnn."""
    command = [*kernels.compiler(), "-std=c++11", "-O1", "-shared", "-fPIC", *options]
    subprocess.run([*command, str(FOLDER / "cudnn.cc"), "-o", str(target)], check=True)
    return target


@pytest.fixture(scope="session")
def cudnn_file(tmp_path_factory) -> Path:
    """The stand-in for libcudnn, compiled."""
    return build_cudnn(tmp_path_factory.mktemp("cudnn") / "libcudnn.so.9")


@pytest.fixture(scope="session")
def emulated_cuda(tmp_path_factory) -> dict[str, str]:
    """The environment in which CuPy itself runs on an emulated CUDA, see driver/sitecustomize.py."""
    found = [d.version for d in distributions() if d.metadata["Name"] == "cupy-cuda13x"]
    headers = [path.parent for path in wheels("cu13/include/driver_types.h") if (path.parent / "crt").is_dir()]
    if not found or not found[0].startswith("14.") or not headers:
        pytest.skip("needs CuPy 14 and CUDA's headers: pip install 'cupy-cuda13x==14.*' nvidia-cuda-{runtime,crt}")
    if (sys.platform, platform.machine()) != ("linux", "x86_64") or shutil.which("nm") is None:
        pytest.skip("needs Linux on x86-64, and nm: apt install binutils")
    folder = tmp_path_factory.mktemp("cuda")
    (cupy,) = find_spec("cupy_backends").submodule_search_locations
    (binding,) = Path(cupy, "cuda", "libs").glob("cublas.*.so")
    listed = subprocess.run(["nm", "-D", str(binding)], capture_output=True, text=True, check=True).stdout
    versioned = re.findall(r" U (cublas\w+)@(\S+)", listed)
    (soname,) = {name for _, name in versioned}
    own = (FOLDER / "driver" / "cublas.cc").read_text()
    stubs = [f'extern "C" int {name}() {{ return 15; }}\n' for name, _ in versioned if f"int {name}(" not in own]
    (folder / "cublas.cc").write_text(own + "".join(stubs))
    (folder / "version").write_text(f"{soname} {{ global: *; }};\n")
    (folder / "nothing.cc").write_text("")
    for name, source, *options in (
        (soname, folder / "cublas.cc", "-O3", "-march=native", f"-Wl,--version-script={folder / 'version'}"),
        (soname.replace("cublas", "cublasLt"), folder / "nothing.cc"),  # CuPy asks whether it is there
        ("libcuda.so.1", FOLDER / "driver" / "driver.cc", *(f"-I{header}" for header in headers)),
    ):
        command = [*kernels.compiler(), "-std=c++17", "-shared", "-fPIC", *options, str(source), "-ldl"]
        subprocess.run([*command, f"-Wl,-soname,{name}", "-o", str(folder / name)], check=True)
    path = os.pathsep.join(map(str, (FOLDER / "driver", ROOT, ROOT / "lib")))
    return {"PYTHONPATH": path, "CAFFELITE_EMULATED_CUDA": str(folder), "CAFFELITE_CACHE": str(CACHE)}


def wheels(pattern: str) -> list[Path]:
    """Files of NVIDIA's packages."""
    return [path for folder in map(Path, sys.path) for path in sorted(folder.glob(f"nvidia/{pattern}"))]


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
    monkeypatch.setenv("CAFFELITE_CACHE", str(CACHE))
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
