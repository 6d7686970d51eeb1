"""cupy.cuda of the stand-in: two devices, one stream, and scratch memory whose use behind its end is noticed."""

from __future__ import annotations

import types

import numpy

DEVICES, MEMORY = 2, 8 * 2**30
_current = 0


class CUDARuntimeError(RuntimeError):
    """An error of the CUDA runtime."""


class OutOfMemoryError(MemoryError):
    """The device has no memory left."""


class Device:
    """A device."""

    def __init__(self, device: int | None = None):
        self.id = _current if device is None else device
        self.mem_info = MEMORY, MEMORY

    def use(self) -> None:
        """Make this the current device."""
        global _current
        _current = self.id

    def synchronize(self) -> None:
        """All is done already."""


class Stream:
    """A stream in which all is done at once."""

    ptr = 0

    def synchronize(self) -> None:
        """All is done already."""


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


def get_current_stream() -> Stream:
    """The one stream."""
    return Stream()


class _MathModes:
    def __init__(self):
        self.mode = 0

    def setMathMode(self, handle: int, mode: int) -> None:
        """Note the mode."""
        assert handle == device.get_cublas_handle()
        self.mode = mode


cublas = _MathModes()
device = types.SimpleNamespace(get_cublas_handle=lambda: 42 + _current)
memory = types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
runtime = types.SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: DEVICES,
    getDevice=lambda: _current,
    runtimeGetVersion=lambda: 13000,
    driverGetVersion=lambda: 13000,
    getDeviceProperties=lambda i: {
        "name": b"emulated card",
        "major": 9,
        "minor": 0,
        "totalGlobalMem": MEMORY,
        "multiProcessorCount": 2,
    },
)
