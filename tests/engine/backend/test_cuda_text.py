"""Every kernel text compiles to CUDA for the GPUs we promise, with NVRTC alone: no driver and no device needed."""

import ctypes
import sys
from pathlib import Path

import pytest

from caffelite.backend.kernels import CUDA_OPTIONS, SOURCES, families, signatures, source


def _nvrtc() -> ctypes.CDLL:
    for folder in map(Path, sys.path):
        for library in sorted(folder.glob("nvidia/*/lib/libnvrtc.so.*")):
            if "builtins" not in library.name and "alt" not in library.name:
                return ctypes.CDLL(str(library))
    try:
        return ctypes.CDLL("libnvrtc.so")
    except OSError:
        pytest.skip("needs NVRTC: pip install nvidia-cuda-nvrtc")


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    return _nvrtc()


def compile_cuda(nvrtc: ctypes.CDLL, text: str, architecture: str) -> tuple[str, bytes]:
    """The compiler's log and the cubin (empty if it failed)."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    options = [f"--gpu-architecture={architecture}", *CUDA_OPTIONS]
    failed = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    )
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    cubin = b""
    if not failed:
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, buffer)
        cubin = buffer.raw
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log.value.decode(), cubin


@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90"])
@pytest.mark.parametrize("family", families())
def test_compiles(nvrtc, family, architecture):
    log, cubin = compile_cuda(nvrtc, source(family), architecture)
    assert cubin, log
    for kernel in signatures((SOURCES / f"{family}.cu").read_text()):
        assert kernel.encode() in cubin


def test_a_broken_text_is_noticed(nvrtc):
    log, cubin = compile_cuda(nvrtc, source("update").replace("history[i] = h;", "history[i] = hh;"), "sm_90")
    assert not cubin and "hh" in log
