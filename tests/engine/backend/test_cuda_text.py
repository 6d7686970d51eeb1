"""Every kernel text compiles to CUDA for the GPUs we promise, with NVRTC alone: no driver and no device needed."""

import ctypes
import sys
from pathlib import Path

import pytest

from caffelite.backend.kernels import CUDA_OPTIONS, SOURCES, build_cpu, families, signatures, source
from tests.stand_in import threads


def _nvrtc() -> ctypes.CDLL:
    for folder in map(Path, sys.path):
        for library in sorted(folder.glob("nvidia/*/lib/libnvrtc.so.*")):
            if "builtins" not in library.name and "alt" not in library.name:
                return ctypes.CDLL(str(library))
    try:
        return ctypes.CDLL("libnvrtc.so")
    except OSError:
        if sys.platform == "darwin":
            pytest.skip("NVRTC is not made for this system")
        raise  # it comes with the dev dependencies: pip install -e '.[dev]'


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
    log, cubin = compile_cuda(nvrtc, source("update").replace("history[k] = h;", "history[k] = hh;"), "sm_90")
    assert not cubin and "hh" in log


ONE_THREAD = """
KERNEL(visit)(const int n, const int planes, long long* count) {
  count[0] = count[1] = 0;
  KERNEL_LOOP(i, n) if (++count[0], i < 0) break;
  PLANE_LOOP(p, k, planes, n / planes) if (++count[1], p < 0 || k < 0) break;
}
extern "C" void one(unsigned thread, int n, int planes, long long* count) {
  gridDim.x = 1 << 20, blockDim.x = 256, blockIdx.x = thread / blockDim.x, threadIdx.x = thread % blockDim.x;
  visit(n, planes, count);
}
"""


@pytest.mark.parametrize("thread", [0, 1, 2**28 - 1])
@pytest.mark.parametrize("n", [2**31 - 1, 2**31 - 2**20, 2**31 - 2**28, 2**28, 2**28 - 1, 5])
def test_loops_of_a_gpu_end_before_an_int_does(n, thread):
    """A thread of the largest grid: a step beyond 2^31 would go on at negative numbers."""
    planes = next(planes for planes in (7, 4, 1) if n % planes == 0)
    text = threads.HEADER.read_text() + threads.AS_CUDA + (SOURCES / "shim.h").read_text() + ONE_THREAD
    library = ctypes.CDLL(str(build_cpu(text, "loops", ("-std=c++17", "-fwrapv"))))
    count = (ctypes.c_longlong * 2)()
    library.one(thread, n, planes, count)
    assert list(count) == [len(range(thread, n, 2**28))] * 2
