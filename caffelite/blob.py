"""A blob: a float32 array and its diff, on the host, on the GPU, or on both."""

from __future__ import annotations

import math

import numpy as np

from caffelite import backend
from caffelite.backend import transfer
from caffelite.errors import NetError

MAX_COUNT = 2**31 - 1


class Memory:
    """A run of float32 numbers, allocated when first touched and copied between host and GPU when needed.

    It starts as zeros, or as what `initial` (a function of the numpy array) writes into them.
    """

    __slots__ = ("_device", "_host", "_newest", "initial", "size")

    def __init__(self, size: int):
        self.size = size
        self.initial = None
        self._host = self._device = None
        self._newest = None  # "host", "device" or "both"

    @property
    def allocated(self) -> bool:
        """True once anything has touched the memory."""
        return self._newest is not None

    @property
    def at_hand(self) -> bool:
        """Whether the host's copy is as new as any."""
        return self._newest != "device"

    @property
    def untouched(self) -> bool:
        """True while it is zeros that need no memory."""
        return self._newest is None and self.initial is None

    def host(self) -> np.ndarray:
        """The numbers as a numpy array, which becomes the newest copy."""
        if self._host is None:
            self._host = transfer.host_zeros(self.size)
        if self._newest is None and self.initial:
            self.initial(self._host)
            self.initial = None
        if self._newest == "device":
            self._device.get(out=self._host)
        self._newest = "host"
        return self._host

    def array(self):
        """The numbers as an array of the current backend, which becomes the newest copy."""
        if not backend.on_gpu() or self.initial:
            self.host()
        if not backend.on_gpu():
            return self._host
        if self._device is None:
            self._device = backend.xp.zeros(self.size, np.float32)
        if self._newest == "host":
            transfer.upload(self._host, self._device)
        self._newest = "device"
        return self._device

    def read_array(self):
        """The numbers as an array of the current backend that is only read: a host's copy stays as new as it was."""
        kept = backend.on_gpu() and self._newest in ("host", "both")
        array = self.array()
        if kept:
            self._newest = "both"
        return array

    def read(self) -> np.ndarray:
        """The numbers as a numpy array that is only read: the newest copy stays where it is."""
        if self._newest == "both":
            return self._host
        return self._device.get() if self._newest == "device" else self.host()

    def overwrite(self) -> None:
        """Drop the numbers: the host is about to write others."""
        self.initial = None
        if self._newest == "device":
            self._newest = "host"
            if self._host is None:
                self._host = transfer.host_zeros(self.size)

    def put(self, values: np.ndarray, device) -> None:
        """Take the first numbers from a device array, of which `values` is a host's copy."""
        if self._device is None:
            self._device = backend.xp.zeros(self.size, np.float32)
        self._device[: device.size] = device.ravel()
        self.initial, self._newest = None, "device"
        if values.size < transfer.LARGE.start:  # it costs next to nothing, and who reads it need not wait for the GPU
            if self._host is None:
                self._host = transfer.host_zeros(self.size)
            self._host[: values.size] = values.ravel()
            self._newest = "both"


class Blob:
    """An N-dimensional array of float32 with a diff of the same shape.

    `data` and `diff` are numpy views, as in pycaffe; asking for one makes the host's copy the newest.
    `array` and `gradient` are the same numbers on the current backend: what layers compute with.
    Memory is allocated when first asked for, so that a diff nobody needs costs nothing.
    """

    def __init__(self, *shape: int):
        self._shape: tuple[int, ...] = (0,)
        self.data_memory = Memory(0)
        self.diff_memory = Memory(0)
        self._views: dict[int, tuple] = {}  # {id of a device array: (the array, a view of this shape)}
        if shape:
            self.reshape(*shape)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self._shape)

    @property
    def ndim(self) -> int:
        return len(self._shape)

    def reshape(self, *shape: int) -> None:
        """Change the shape; the memory (and so the data) is kept if the new shape fits into it. Raises NetError."""
        shape = tuple(map(int, shape))
        if shape == self._shape:
            return
        if any(d < 0 for d in shape):
            raise NetError(f"blob shape {shape}: a dimension is negative")
        count = math.prod(shape)
        if max(count, *shape, 0) > MAX_COUNT:
            raise NetError(f"blob shape {shape}: {count} elements; dimensions and elements may be at most {MAX_COUNT}")
        self._shape = shape
        self._views.clear()
        if count > self.data_memory.size:
            self.data_memory = Memory(count)
        if count > self.diff_memory.size:
            self.diff_memory = Memory(count)

    @property
    def data(self) -> np.ndarray:
        return self._view(self.data_memory.host())

    @property
    def diff(self) -> np.ndarray:
        return self._view(self.diff_memory.host())

    def fill_later(self, fill) -> None:
        """Have `fill(numpy view of the data)` run when the data is first touched, unless it is assigned before."""
        shape, count = self._shape, self.count
        if count:
            self.data_memory.initial = lambda flat: fill(flat[:count].reshape(shape))

    def fill_diff(self, value: float) -> None:
        """Set the whole diff to `value`; memory that nobody has touched yet is filled when it is first touched."""
        if self.diff_memory.allocated:
            self.diff[...] = value
        else:
            self.diff_memory.initial = lambda flat: flat.fill(value)

    def assign(self, values: np.ndarray) -> None:
        """Set the data, broadcasting `values`; a fill that is still due is dropped, and what a GPU has computed."""
        self.data_memory.overwrite()
        self.data[...] = values

    def put(self, values: np.ndarray, device=None) -> None:
        """Take shape and numbers of a host array; `device` is a copy of it on the current device, if there is one."""
        self.reshape(*values.shape)
        if device is None:
            self.assign(values)
        else:
            self.data_memory.put(values, device)

    @property
    def array(self):
        """The data on the current backend (numpy or CuPy)."""
        return self._view(self.data_memory.array())

    def read_array(self):
        """The data on the current backend that is only read: reading it on the host, too, then costs no copy."""
        return self._view(self.data_memory.read_array())

    @property
    def gradient(self):
        """The diff on the current backend (numpy or CuPy)."""
        return self._view(self.diff_memory.array())

    def read(self) -> np.ndarray:
        """The data as a numpy array that is only read: without a copy unless a GPU has computed it."""
        return self._view(self.data_memory.read())

    def read_diff(self) -> np.ndarray:
        """The diff as a numpy array that is only read: without a copy unless a GPU has computed it."""
        return self._view(self.diff_memory.read())

    @property
    def at_hand(self) -> bool:
        """Whether reading the data costs nothing: no GPU has computed it since the host had it."""
        return self.data_memory.at_hand

    def _view(self, flat):
        if isinstance(flat, np.ndarray):
            return flat[: self.count].reshape(self._shape)
        view = self._views.get(id(flat))
        if view is None:  # CuPy takes its time for one
            view = self._views[id(flat)] = flat, flat[: self.count].reshape(self._shape)
        return view[1]

    def share_data(self, other: Blob) -> None:
        """Use the other blob's data memory. The counts must be equal."""
        self.data_memory = other.data_memory
        self._views.clear()

    def share_diff(self, other: Blob) -> None:
        """Use the other blob's diff memory. The counts must be equal."""
        self.diff_memory = other.diff_memory
        self._views.clear()

    def axis(self, index: int) -> int:
        """The axis as a number from 0, where a negative one counts from the end. Raises IndexError."""
        if not -self.ndim <= index < self.ndim:
            raise IndexError(f"axis {index} is out of range for a {self.ndim}-D blob of shape {self._shape}")
        return index % self.ndim if self.ndim else 0

    def count_from(self, start: int, end: int | None = None) -> int:
        """Number of elements of axes start..end-1."""
        return math.prod(self._shape[start:end])

    def _legacy(self, index: int) -> int:
        if self.ndim > 4:
            raise NetError(f"a blob of shape {self._shape} has no num, channels, height, width: it has over 4 axes")
        return self._shape[index] if index < self.ndim else 1

    num = property(lambda self: self._legacy(0))
    channels = property(lambda self: self._legacy(1))
    height = property(lambda self: self._legacy(2))
    width = property(lambda self: self._legacy(3))

    def __repr__(self) -> str:
        return f"<Blob {' x '.join(map(str, self._shape)) or 'scalar'}>"
