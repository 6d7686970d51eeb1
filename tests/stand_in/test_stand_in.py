"""The stand-in for CuPy offers nothing that CuPy lacks, and is as strict."""

import ast
import os
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import pytest

from caffelite.backend.kernels import kernels
from tests.stand_in.fixtures import FOLDER, cudnn_file, stand_in_gpu  # noqa: F401

SOURCES = Path(__file__).resolve().parents[2]
FUNCTIONS = """array asarray ascontiguousarray asnumpy empty empty_like matmul get_default_memory_pool RawModule
    cuda.Device.use cuda.Device.synchronize cuda.Device.mem_info cuda.Device.id cuda.Device.__enter__
    cuda.Stream.synchronize cuda.Stream.__enter__ cuda.Stream.record cuda.Stream.wait_event cuda.Stream.null
    cuda.Event.synchronize cuda.MemoryPointer.ptr cuda.MemoryPointer.copy_from_host_async cuda.alloc
    cuda.alloc_pinned_memory cuda.get_current_stream cuda.cublas.setMathMode cuda.cublas.sgemm
    cuda.cublas.sgemmStridedBatched cuda.device.get_cublas_handle cuda.memory.OutOfMemoryError"""
ATTRIBUTES = "dtype shape size ndim nbytes strides itemsize flags data device T get set fill item"


def names_on(module: str) -> set[str]:
    """Attributes that the engine takes from a module by this name, with their dots."""
    found = set()
    for path in [*SOURCES.glob("caffelite/**/*.py"), *SOURCES.glob("lib/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            parts, inner = [], node
            while isinstance(inner, ast.Attribute):
                parts.insert(0, inner.attr)
                inner = inner.value
            if parts and isinstance(inner, ast.Name) and inner.id == module:
                found.add(".".join(parts))
    return found


def reached(root, name: str) -> bool:
    for part in name.split("."):
        if not hasattr(root, part):
            return False
        root = getattr(root, part)
    return True


def test_what_the_engine_uses_is_offered(stand_in_gpu):  # noqa: F811
    used = names_on("xp") | names_on("cupy")
    assert len(used) > 20
    assert [name for name in sorted(used) if not reached(stand_in_gpu, name)] == []


def test_cupy_has_all_that_is_offered(stand_in_gpu):  # noqa: F811
    path = [folder for folder in sys.path if "stand_in" not in folder]
    if PathFinder.find_spec("cupy", path) is None:
        pytest.skip("needs CuPy, but no GPU: pip install cupy-cuda13x")
    text = stand_in_gpu
    lists = (text.ELEMENTWISE, text.OTHERS, text.CREATION, text.DTYPES, text.CONSTANTS, FUNCTIONS)
    names = [*" ".join(lists).split(), *(f"cuda.runtime.{name}" for name in vars(text.cuda.runtime))]
    operators = " ".join((text.OPERATORS, text.IN_PLACE)).split()
    methods = [*" ".join((text.METHODS, ATTRIBUTES)).split(), *(f"__{name}__" for name in operators)]
    script = f"""
import cupy
names = {names!r}
try:
    import cupy.cublas
except ImportError:  # it is a library of its own
    names = [name for name in names if "cublas" not in name]
def lacks(root, name):
    for part in name.split("."):
        if not hasattr(root, part): return True
        root = getattr(root, part)
for name in names:
    if lacks(cupy, name): print(name)
for name in {methods!r}:
    if lacks(cupy.ndarray, name): print("ndarray." + name)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONPATH": ":".join(path)}
    )
    assert (run.stdout, run.returncode) == ("", 0), run.stderr


@pytest.mark.parametrize(
    "mix",
    [
        lambda host, device: host + device,
        lambda host, device: device * host,
        lambda host, device: np.asarray(device),
        lambda host, device: np.sum(device),
        lambda host, device: np.copyto(host, device),
        lambda host, device: host.__setitem__(slice(None), device),
        lambda host, device: device.__setitem__(slice(None), host),
        lambda host, device: device.__iadd__(host),
        lambda host, device: device.set(host.astype(np.float64)),
    ],
)
def test_host_and_device_do_not_mix(stand_in_gpu, mix):  # noqa: F811
    with pytest.raises((TypeError, ValueError)):
        mix(np.ones(3, np.float32), stand_in_gpu.ones(3, np.float32))


def test_reductions_stay_on_the_device(stand_in_gpu):  # noqa: F811
    total = stand_in_gpu.ones(3, np.float32).sum(dtype=np.float64)
    assert isinstance(total, stand_in_gpu.ndarray) and total.dtype == np.float64 and float(total) == 3


def test_new_memory_is_garbage(stand_in_gpu):  # noqa: F811
    assert stand_in_gpu.empty(3, np.uint8).get().tolist() == [stand_in_gpu.GARBAGE] * 3


WARPS = """
KERNEL(exchanged)(const int n, const int* x, int* same, int* from_five, int* odd, int* sum) {
  WARP_LOOP(w, lane, n / WARP) {
    const int i = w * WARP + lane;
    same[i] = __match_any_sync(ALL_LANES, x[i]);
    from_five[i] = __shfl_sync(ALL_LANES, x[i], 5);
    odd[i] = __ballot_sync(ALL_LANES, x[i] & 1);
    sum[i] = 0;
    for (int turn = 0; turn < WARP; ++turn) {
      if (turn == lane) sum[w * WARP] += x[i];
      __syncwarp(ALL_LANES);
    }
  }
}
KERNEL(uneven)(const int n, int* next) {
  WARP_LOOP(w, lane, n / WARP) {
    if (lane < 16) __shfl_sync(0xffffu, lane, 3);
    next[w * WARP + lane] = __shfl_sync(ALL_LANES, 100 + lane, (lane + 1) % WARP);
  }
}
KERNEL(deserted)(const int n, int* x) {
  if (threadIdx.x % WARP) __syncwarp(ALL_LANES);
  x[0] = 1;
}
"""


def test_lanes_of_a_warp_exchange_values(stand_in_gpu, tmp_path):  # noqa: F811
    (tmp_path / "warps.cu").write_text(WARPS)
    x = np.random.default_rng(0).integers(0, 9, 96).astype(np.int32)
    results = [stand_in_gpu.empty(96, np.int32) for _ in range(4)]
    kernels(tmp_path / "warps.cu").exchanged(96, stand_in_gpu.asarray(x), *results)
    same, from_five, odd, total = (array.get() for array in results)
    warps = x.reshape(3, 32)
    bits = np.int64(1) << np.arange(32)
    expected = ((warps[:, :, None] == warps[:, None]) * bits).sum(axis=2)
    np.testing.assert_array_equal(same.view(np.uint32), expected.ravel())
    np.testing.assert_array_equal(from_five, np.repeat(warps[:, 5], 32))
    np.testing.assert_array_equal(odd.view(np.uint32), np.repeat((warps % 2 * bits).sum(axis=1), 32))
    np.testing.assert_array_equal(total[::32], warps.sum(axis=1))
    kernels(tmp_path / "warps.cu").uneven(32, next_ := stand_in_gpu.empty(32, np.int32))
    np.testing.assert_array_equal(next_.get(), 100 + (np.arange(32) + 1) % 32)


def test_a_barrier_that_a_lane_never_reaches_is_noticed(cudnn_file, tmp_path):  # noqa: F811
    (tmp_path / "warps.cu").write_text(WARPS)
    script = f"""
from caffelite import backend
from caffelite.backend.kernels import kernels
backend.set_mode_gpu()
kernels({str(tmp_path / "warps.cu")!r}).deserted(32, backend.xp.zeros(1, int).astype("int32"))
"""
    environment = {**os.environ, "PYTHONPATH": f"{FOLDER}:{SOURCES}", "CUDNN_LIBRARY": str(cudnn_file)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert run.returncode < 0 and "not all of its threads reach" in run.stderr
