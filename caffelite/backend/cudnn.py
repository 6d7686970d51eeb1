"""cuDNN's C interface by ctypes, as far as convolution needs it: versions 8.9 and 9, with any CuPy.

`library()` finds and opens it, or says once why there is none. Functions are called by their own names
(`library().cudnnCreate(...)`); one that fails raises CudnnError.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_int, c_size_t, c_void_p
from pathlib import Path

from caffelite.errors import BackendError

OLDEST = 8900
FLOAT = NCHW = 0
CROSS_CORRELATION = 1
DEFAULT_MATH, FMA_MATH = 0, 3  # the default may use TF32 from Ampere on, FMA never does
MATH_OF_HALVES = 2  # converts float32 to half precision: never wanted
DETERMINISTIC = 1
log = logging.getLogger("caffelite")


class Performance(ctypes.Structure):
    """cudnnConvolution{Fwd,BwdData,BwdFilter}AlgoPerf_t: what cuDNN says of one algorithm; time in milliseconds."""

    _fields_ = [
        ("algorithm", c_int),
        ("status", c_int),
        ("time", ctypes.c_float),
        ("memory", c_size_t),
        ("determinism", c_int),
        ("math", c_int),
        ("reserved", c_int * 3),
    ]


_handle, _integers, _sizes, _perf = POINTER(c_void_p), POINTER(c_int), POINTER(c_size_t), POINTER(Performance)
_create, _destroy = [_handle], [c_void_p]
_heuristics = [c_void_p] * 5 + [c_int, _integers, _perf]
_measured = [c_void_p] * 8 + [c_int, _integers, _perf, c_void_p, c_size_t]
_workspace = [c_void_p] * 5 + [c_int, _sizes]
_product = [c_void_p] * 7 + [c_int, c_void_p, c_size_t] + [c_void_p] * 3

# {function: types of its arguments}; all of these return a cudnnStatus_t
FUNCTIONS = {
    "cudnnCreate": _create,
    "cudnnSetStream": [c_void_p, c_void_p],
    "cudnnCreateTensorDescriptor": _create,
    "cudnnDestroyTensorDescriptor": _destroy,
    "cudnnSetTensorNdDescriptor": [c_void_p, c_int, c_int, _integers, _integers],
    "cudnnCreateFilterDescriptor": _create,
    "cudnnDestroyFilterDescriptor": _destroy,
    "cudnnSetFilterNdDescriptor": [c_void_p, c_int, c_int, c_int, _integers],
    "cudnnCreateConvolutionDescriptor": _create,
    "cudnnDestroyConvolutionDescriptor": _destroy,
    "cudnnSetConvolutionNdDescriptor": [c_void_p, c_int, _integers, _integers, _integers, c_int, c_int],
    "cudnnSetConvolutionGroupCount": [c_void_p, c_int],
    "cudnnSetConvolutionMathType": [c_void_p, c_int],
    "cudnnGetConvolutionNdForwardOutputDim": [c_void_p, c_void_p, c_void_p, c_int, _integers],
    "cudnnGetConvolutionForwardAlgorithm_v7": _heuristics,
    "cudnnGetConvolutionBackwardDataAlgorithm_v7": _heuristics,
    "cudnnGetConvolutionBackwardFilterAlgorithm_v7": _heuristics,
    "cudnnFindConvolutionForwardAlgorithmEx": _measured,
    "cudnnFindConvolutionBackwardDataAlgorithmEx": _measured,
    "cudnnFindConvolutionBackwardFilterAlgorithmEx": _measured,
    "cudnnGetConvolutionForwardWorkspaceSize": _workspace,
    "cudnnGetConvolutionBackwardDataWorkspaceSize": _workspace,
    "cudnnGetConvolutionBackwardFilterWorkspaceSize": _workspace,
    "cudnnConvolutionForward": _product,
    "cudnnConvolutionBackwardData": _product,
    "cudnnConvolutionBackwardFilter": _product,
    "cudnnConvolutionBackwardBias": [c_void_p] * 7,
}


class CudnnError(BackendError):
    """A function of cuDNN failed; `status` is its cudnnStatus_t."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status

    @property
    def unsupported(self) -> bool:
        """True where this algorithm cannot do that, but another may."""
        return self.status == 9 or 3000 <= self.status < 4000  # cuDNN 8's one number, cuDNN 9's range


class Library:
    """An opened libcudnn. Raises BackendError where it is too old or lacks a function."""

    def __init__(self, path: str):
        self.path = path
        try:
            self._library = ctypes.CDLL(path)
            self.version = self._function("cudnnGetVersion", [], c_size_t)()
            self._name_of_status = self._function("cudnnGetErrorString", [c_int], ctypes.c_char_p)
            if self.version < OLDEST:
                raise BackendError(f"{path} is cuDNN {self.version_name}: expected at least 8.9")
            for name, arguments in FUNCTIONS.items():
                setattr(self, name, self._checked(self._function(name, arguments, c_int), name))
        except (OSError, AttributeError) as e:
            raise BackendError(f"{path} cannot be used: {e}") from e

    @property
    def version_name(self) -> str:
        """The version as people write it: 8.9.7, 9.10.2."""
        unit = 10000 if self.version >= 90000 else 1000
        return f"{self.version // unit}.{self.version % unit // 100}.{self.version % 100}"

    def _function(self, name: str, arguments: list, result):
        function = getattr(self._library, name)
        function.argtypes, function.restype = arguments, result
        return function

    def _checked(self, function, name: str):
        def call(*arguments):
            status = function(*arguments)
            if status:
                raise CudnnError(f"{name}: {self._name_of_status(status).decode()} ({status}){self._details()}", status)

        return call

    def _details(self) -> str:
        """What cuDNN 9 says of the last error, behind a colon."""
        if self.version < 90000:
            return ""
        text = ctypes.create_string_buffer(1000)
        self._function("cudnnGetLastErrorString", [ctypes.c_char_p, c_size_t], None)(text, len(text))
        return f": {text.value.decode(errors='replace')}" if text.value else ""


class Descriptor:
    """One of cuDNN's descriptors, made by `create`, freed with this object."""

    def __init__(self, library: Library, kind: str):
        self.value = c_void_p()
        self._destroy = getattr(library, f"cudnnDestroy{kind}Descriptor")
        getattr(library, f"cudnnCreate{kind}Descriptor")(ctypes.byref(self.value))

    def __del__(self):
        if self.value:
            self._destroy(self.value)


def tensor(library: Library, shape: Sequence[int]) -> Descriptor:
    """The descriptor of a C-contiguous float32 array of 4 or 5 axes."""
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    descriptor = Descriptor(library, "Tensor")
    library.cudnnSetTensorNdDescriptor(descriptor.value, FLOAT, len(shape), integers(shape), integers(strides))
    return descriptor


def filters(library: Library, shape: Sequence[int]) -> Descriptor:
    """The descriptor of float32 weights (O, C / groups, *kernel)."""
    descriptor = Descriptor(library, "Filter")
    library.cudnnSetFilterNdDescriptor(descriptor.value, FLOAT, NCHW, len(shape), integers(shape))
    return descriptor


def integers(values: Sequence[int]):
    """The values as a C array of ints."""
    return (c_int * len(values))(*values)


@functools.cache
def library() -> Library | None:
    """The cuDNN of this machine, or None, which is said once in the log together with what happens instead."""
    reasons = []
    for path in candidates():
        try:
            return Library(path)
        except BackendError as e:
            if os.path.isabs(path) or path == os.environ.get("CUDNN_LIBRARY"):
                reasons.append(str(e))
    log.warning(
        "no cuDNN: convolutions run as im2col and matrix products, which is slower; install it with pip install "
        "nvidia-cudnn-cu13 (for CUDA 12: nvidia-cudnn-cu12), or name its file in CUDNN_LIBRARY%s",
        f" ({'; '.join(reasons)})" if reasons else "",
    )
    return None


def candidates() -> Iterator[str]:
    """Where libcudnn may be, best first: $CUDNN_LIBRARY alone if it is set; what this process has opened already;
    pip's wheels; a toolkit or conda environment; the system's loader."""
    named = os.environ.get("CUDNN_LIBRARY")
    if named:
        yield named
        return
    yield from _opened(Path("/proc/self/maps"))
    files = ("lib/libcudnn.so.[0-9]*", "lib64/libcudnn.so.[0-9]*", "bin/cudnn64_*.dll")
    roots = [Path(folder) / "nvidia" / "cudnn" for folder in sys.path]
    roots += [Path(os.environ[name]) for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    for root in [*roots, Path(sys.prefix)]:
        for pattern in files:
            yield from map(str, sorted(root.glob(pattern), key=_version_in_name, reverse=True))
    yield from ("cudnn64_9.dll", "cudnn64_8.dll") if os.name == "nt" else ("libcudnn.so.9", "libcudnn.so.8")


def _opened(maps: Path) -> list[str]:
    """Files of libcudnn that this process has mapped: a second version beside them would clash."""
    if not maps.exists():
        return []
    return sorted(set(re.findall(r"(/\S*/libcudnn\.so[.\d]*)$", maps.read_text(), re.M)))


def _version_in_name(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]
