"""Where arrays live and how work is launched: numpy and compiled C++ on a CPU, CuPy and CUDA on a GPU.

`xp` is the array module of the current mode (numpy or CuPy); layers use it and never ask which one it is.
CuPy is imported by `set_mode_gpu` and nowhere else.
"""

from __future__ import annotations

import numpy as np

from caffelite.errors import BackendError


class _ArrayModule:
    """Forwards every attribute to the array module of the current mode."""

    def __getattr__(self, name: str):
        return getattr(_module, name)

    def __repr__(self) -> str:
        return f"<xp: {_module.__name__}>"


_module = np
_tf32 = False
_deterministic = True
xp = _ArrayModule()


def set_mode_cpu() -> None:
    """Compute on the CPU with numpy and compiled kernels (the default)."""
    global _module
    _module = np


def set_mode_gpu() -> None:
    """Compute on the GPU with CuPy. Raises BackendError where CuPy, a driver or a GPU is missing."""
    global _module
    _module = _import_cupy()


def set_device(index: int) -> None:
    """Select GPU `index` for all that follows in this thread (pycaffe's name; does not change the mode)."""
    cupy = _import_cupy()
    count = cupy.cuda.runtime.getDeviceCount()
    if not 0 <= index < count:
        raise BackendError(f"GPU {index} does not exist: this machine has {count}, numbered from 0")
    cupy.cuda.Device(index).use()


def on_gpu() -> bool:
    """True while the mode is GPU."""
    return _module is not np


def allow_tf32(allowed: bool = True) -> None:
    """Let a GPU multiply float32 numbers cut to 10 bits behind the point (TF32), which is faster; not so at first."""
    global _tf32
    _tf32 = allowed


def tf32_allowed() -> bool:
    """Whether matrix products and convolutions on a GPU may use TF32."""
    return _tf32


def set_deterministic(wanted: bool) -> None:
    """Whether the same run must give the same bits on a GPU (so at first); else its algorithms are chosen by trial."""
    global _deterministic
    _deterministic = wanted


def deterministic() -> bool:
    """Whether the same run must give the same bits on a GPU."""
    return _deterministic


def synchronize() -> None:
    """Wait until the GPU has done all that was launched; nothing on a CPU."""
    if on_gpu():
        _module.cuda.get_current_stream().synchronize()


def device_memory() -> tuple[int, int] | None:
    """Bytes that the current GPU has free, and has; None on a CPU."""
    return tuple(_module.cuda.Device().mem_info) if on_gpu() else None


def scratch_limit() -> int:
    """Bytes of the current GPU's memory that one convolution may take: 4 GiB, but no more than an eighth of it."""
    return min(2**32, _module.cuda.Device().mem_info[1] // 8)


def memory_taken() -> int | None:
    """Bytes of the current GPU that CuPy's pool holds, most of what the process has taken of it; None on a CPU."""
    return _module.get_default_memory_pool().total_bytes() if on_gpu() else None


def describe_gpus() -> list[str]:
    """Lines that tell what was found of CUDA: cards, driver, CUDA, CuPy, cuDNN; or why a GPU cannot be used."""
    from caffelite.backend import cudnn

    try:
        cupy = _import_cupy()
    except BackendError as e:
        return [f"GPU: none usable: {e}"]
    runtime = cupy.cuda.runtime
    lines = [
        f"CuPy {cupy.__version__}, CUDA runtime {runtime.runtimeGetVersion()}, driver {runtime.driverGetVersion()}"
    ]
    for i in range(runtime.getDeviceCount()):
        p = runtime.getDeviceProperties(i)
        lines.append(
            f"GPU {i}: {p['name'].decode()}, compute capability {p['major']}.{p['minor']}, "
            f"{p['totalGlobalMem'] / 2**30:.1f} GiB"
        )
    found = cudnn.library()
    lines.append(f"cuDNN {found.version_name}: {found.path}" if found else "cuDNN: none; convolutions use im2col")
    return lines


def to_host(array) -> np.ndarray:
    """The array as a numpy array (itself, if it is one)."""
    return array if isinstance(array, np.ndarray) else array.get()


def _import_cupy():
    on_cpu = "compute on the CPU: leave out --gpu, or the call of set_mode_gpu()"
    way_out = (
        "install it with: pip install 'cupy-cuda13x[ctk]' nvidia-cudnn-cu13 (for a driver of CUDA 12: "
        f"'cupy-cuda12x[ctk]' nvidia-cudnn-cu12), or {on_cpu}"
    )
    try:
        import cupy
    except (ImportError, OSError) as e:  # it also makes a folder for its kernels ($CUPY_CACHE_DIR)
        raise BackendError(f"a GPU was asked for, but CuPy cannot be imported ({e}); {way_out}") from e
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as e:
        raise BackendError(f"a GPU was asked for, but CUDA finds none ({e}); {on_cpu}") from e
    if not count:
        raise BackendError(f"a GPU was asked for, but this machine has none; {on_cpu}")
    return cupy
