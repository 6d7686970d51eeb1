"""cupy.cuda of the stand-in: two devices, streams whose copies are late, scratch memory whose use behind its end is
noticed."""

from __future__ import annotations

import ctypes
import mmap
import threading
import types
from collections.abc import Callable

import numpy

DEVICES, MEMORY = 2, 8 * 2**30
_local = threading.local()  # every thread begins at device 0 and the null stream


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime."""


class OutOfMemoryError(MemoryError):
    """The device has no memory left."""


class Device:
    """A device."""

    def __init__(self, device: int | None = None):
        self.id = current_device() if device is None else device
        self.mem_info = MEMORY, MEMORY
        self._before: list[int] = []

    def use(self) -> None:
        """Make this the current device of this thread."""
        _local.device = self.id

    def __enter__(self) -> Device:
        self._before.append(current_device())
        self.use()
        return self

    def __exit__(self, *error) -> None:
        _local.device = self._before.pop()

    def synchronize(self) -> None:
        """All is done already."""


def current_device() -> int:
    """The number of this thread's device."""
    return getattr(_local, "device", 0)


class Stream:
    """The null stream does all at once. Copies of another are done as late as can be: when somebody waits for them."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False):
        assert null or non_blocking, "a stream that blocks would wait for the null stream, and make it wait"
        self.ptr = 0 if null else id(self)
        self._late: list[Callable[[], None]] = []
        self._before: list[Stream] = []

    def __enter__(self) -> Stream:
        self._before.append(get_current_stream())
        _local.stream = self
        return self

    def __exit__(self, *error) -> None:
        _local.stream = self._before.pop()

    def later(self, work: Callable[[], None]) -> None:
        """Do the work in this stream's order."""
        self._late.append(work) if self.ptr else work()

    def synchronize(self) -> None:
        """Wait until all is done."""
        while self._late:
            self._late.pop(0)()

    def record(self, event: Event) -> Event:
        """Let the event stand for what this stream has been given so far."""
        event._of, event._behind = self, list(self._late)
        return event

    def wait_event(self, event: Event) -> None:
        """What comes next in this stream comes after the event."""
        assert not self.ptr, "not emulated: a stream that copies and waits"
        event.synchronize()


class Event:
    """A point in a stream. `waits` counts who waited for it."""

    def __init__(self, block: bool = False, disable_timing: bool = False):
        self._of, self._behind, self.waits = None, [], 0

    def synchronize(self) -> None:
        """Wait for it; at once if it was never recorded."""
        self.waits += 1
        for work in self._behind:
            if work in self._of._late:
                self._of._late.remove(work)
                work()


class MemoryPointer:
    """Where an array's memory begins, and the stream that was current when it was allocated."""

    def __init__(self, memory: numpy.ndarray, stream: Stream):
        self._memory, self._stream = memory, stream
        self.ptr = memory.ctypes.data

    def copy_from_host_async(self, source: int, size: int, stream: Stream) -> None:
        """Copy bytes of page-locked memory, which is read when the copy is done."""
        assert size <= self._memory.nbytes
        assert self._stream is stream, "memory that work of another stream, which freed it, may still use"
        stream.later(lambda: ctypes.memmove(self.ptr, source, size))


Stream.null = Stream(null=True)


def get_current_stream() -> Stream:
    """This thread's stream."""
    return getattr(_local, "stream", Stream.null)


class Memory:
    """Scratch memory."""

    def __init__(self, size: int):
        self._memory = numpy.full(size, 0xA5, numpy.uint8)
        self.ptr = self._memory.ctypes.data


def alloc(size: int) -> Memory:
    """Scratch memory of so many bytes."""
    if size > MEMORY:
        raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes")
    return Memory(size)


def alloc_pinned_memory(size: int) -> bytearray:
    """Host memory of so many bytes, full of garbage."""
    return bytearray(b"\xa5" * size)


class _Cublas:
    def __init__(self):
        self.mode = 0

    def setMathMode(self, handle: int, mode: int) -> None:
        """Note the mode."""
        assert handle == device.get_cublas_handle()
        self.mode = mode

    def sgemm(self, handle, transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) -> None:
        """C = alpha op(A) op(B) + beta C of matrices that are stored by columns; alpha and beta on the host."""
        assert handle == device.get_cublas_handle() and min(m, n, k) > 0
        a = _columns(a, lda, *((k, m) if transpose_a else (m, k)))
        b = _columns(b, ldb, *((n, k) if transpose_b else (k, n)))
        c = _columns(c, ldc, m, n)
        alpha, beta = (ctypes.c_float.from_address(factor).value for factor in (alpha, beta))
        product = (a.T if transpose_a else a) @ (b.T if transpose_b else b)
        c[...] = product * numpy.float32(alpha) + (c * numpy.float32(beta) if beta else 0)

    def sgemmStridedBatched(
        self, handle, transpose_a, transpose_b, m, n, k, alpha, a, lda, step_a, b, ldb, step_b, beta, c, ldc, step_c,
        count,
    ) -> None:  # fmt: skip
        """The same for `count` matrices that begin so many numbers apart."""
        for i in range(count):
            a_i, b_i, c_i = (start + 4 * i * step for start, step in ((a, step_a), (b, step_b), (c, step_c)))
            self.sgemm(handle, transpose_a, transpose_b, m, n, k, alpha, a_i, lda, b_i, ldb, beta, c_i, ldc)


def _columns(address: int, stride: int, rows: int, columns: int) -> numpy.ndarray:
    """A matrix stored by columns that begin `stride` numbers apart."""
    assert stride >= rows
    numbers = (ctypes.c_float * (stride * (columns - 1) + rows)).from_address(address)
    flat = numpy.frombuffer(numbers, numpy.float32)
    return numpy.lib.stride_tricks.as_strided(flat, (rows, columns), (4, 4 * stride))


cublas = _Cublas()
device = types.SimpleNamespace(get_cublas_handle=lambda: 42 + current_device())
memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
_locked: set[int] = set()


def _host_register(pointer: int, size: int, flags: int) -> None:
    """Lock pages of the host."""
    if pointer % mmap.PAGESIZE or size <= 0 or flags not in (0, 1) or pointer in _locked:
        raise CUDARuntimeError(f"cudaHostRegister: {size} bytes at {pointer:#x}")
    _locked.add(pointer)


def _host_unregister(pointer: int) -> None:
    """Unlock them."""
    if pointer not in _locked:
        raise CUDARuntimeError(f"cudaHostUnregister: {pointer:#x}")
    _locked.remove(pointer)


runtime = types.SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: DEVICES,
    getDevice=current_device,
    runtimeGetVersion=lambda: 13000,
    driverGetVersion=lambda: 13000,
    hostRegister=_host_register,
    hostUnregister=_host_unregister,
    getDeviceProperties=lambda i: {
        "name": b"emulated card",
        "major": 9,
        "minor": 0,
        "totalGlobalMem": MEMORY,
        "multiProcessorCount": 2,
    },
)
