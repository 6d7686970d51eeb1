"""A stand-in for CuPy on machines without a GPU: "device" memory is numpy memory, kernels are emulated.

It is stricter than convenient, as CuPy is: numpy arrays and device arrays do not mix, nothing becomes a numpy array
without get(), only what CuPy has is here (test_stand_in.py compares the names), new memory holds garbage. Put the
folder above on PYTHONPATH and set_mode_gpu() takes it for a card.
"""

from __future__ import annotations

import functools
import types

import numpy

from . import cuda
from .emulator import RawModule

__all__ = ["RawModule", "cuda", "ndarray"]
__version__ = "0 (stand-in)"

GARBAGE = 0xA5
OPERATORS = (
    "add sub mul truediv floordiv mod pow and or xor lt le gt ge eq ne radd rsub rmul rtruediv rfloordiv rpow rand ror "
    "neg abs invert"
)
IN_PLACE = "iadd isub imul itruediv iand ior ixor"
METHODS = "all any argmax argmin argsort astype copy max mean min prod ravel repeat reshape squeeze sum transpose"
ELEMENTWISE = (
    "abs absolute add ceil divide exp expm1 fabs floor isfinite isnan log log1p logical_and logical_not logical_or "
    "maximum minimum multiply negative not_equal power rint sign sqrt square subtract tanh trunc"
)
OTHERS = (
    "argmax argsort bincount clip concatenate count_nonzero cumsum flatnonzero nonzero sort split stack sum take where"
)
CREATION = "arange full ones ones_like zeros zeros_like full_like"
DTYPES = "bool_ float32 float64 int32 int64 intp uint8 uint32"
CONSTANTS = "inf nan newaxis pi"


def _host(value):
    """What numpy is to compute with: device arrays as their memory. Host arrays raise as in CuPy."""
    if isinstance(value, ndarray):
        assert value.device.id == cuda.current_device(), "an array of another device"
        return value._memory
    if isinstance(value, (list, tuple)):
        return type(value)(map(_host, value))
    if isinstance(value, slice):
        return slice(*map(_host, (value.start, value.stop, value.step)))
    if isinstance(value, numpy.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def _device(value):
    """numpy's result as a device array; also one number, which CuPy leaves on the device."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(_device, value))
    return ndarray(numpy.asarray(value)) if isinstance(value, (numpy.ndarray, numpy.generic)) else value


def _wrapped(function):
    @functools.wraps(function)
    def call(*arguments, **named):
        out = named.get("out")
        result = function(*map(_host, arguments), **{name: _host(value) for name, value in named.items()})
        return out if out is not None else _device(result)

    return call


class ndarray:
    """An array on the device."""

    __array_priority__ = 100

    def __init__(self, memory, of=None):
        self._memory = memory
        self.device = of.device if of is not None else cuda.Device()
        self._stream = of._stream if of is not None else cuda.get_current_stream()

    def __array__(self, dtype=None, copy=None):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc, method, *inputs, **named):
        own = globals().get(ufunc.__name__)
        if method != "__call__" or own is None:
            return NotImplemented
        if isinstance(named.get("out"), tuple):
            (named["out"],) = named["out"]
        return own(*inputs, **named)

    def __array_function__(self, function, kinds, arguments, named):
        raise TypeError(f"numpy.{function.__name__} on device arrays: use cupy.{function.__name__}")

    dtype = property(lambda self: self._memory.dtype)
    shape = property(lambda self: self._memory.shape)
    size = property(lambda self: self._memory.size)
    ndim = property(lambda self: self._memory.ndim)
    nbytes = property(lambda self: self._memory.nbytes)
    strides = property(lambda self: self._memory.strides)
    itemsize = property(lambda self: self._memory.itemsize)
    flags = property(lambda self: self._memory.flags)
    data = property(lambda self: cuda.MemoryPointer(self._memory, self._stream))
    T = property(lambda self: ndarray(self._memory.T))

    def get(self, stream=None, order="C", out=None):
        """The array as a numpy array."""
        if out is None:
            return self._memory.copy()
        assert out.shape == self.shape and out.dtype == self.dtype and out.flags.c_contiguous
        out[...] = self._memory
        return out

    def set(self, values, stream=None):
        """Copy from a numpy array of the same shape and dtype."""
        if not isinstance(values, numpy.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if values.dtype != self.dtype or values.shape != self.shape:
            raise ValueError(f"set: {values.dtype} {values.shape} into {self.dtype} {self.shape}")
        self._memory[...] = values

    def fill(self, value):
        """Set all elements."""
        self._memory.fill(_host(value))

    def item(self):
        """The only element as a Python number."""
        return self._memory.item()

    def __getitem__(self, key):
        # CuPy copies numpy indices to the device
        return ndarray(numpy.asarray(self._memory[key if isinstance(key, numpy.ndarray) else _index(key)]), self)

    def __setitem__(self, key, value):
        self._memory[key if isinstance(key, numpy.ndarray) else _index(key)] = _host(value)

    def __len__(self):
        return len(self._memory)

    def __iter__(self):
        return (_device(row) for row in self._memory)

    def __bool__(self):
        return bool(self._memory)

    def __int__(self):
        return int(self._memory)

    def __index__(self):
        return self._memory.__index__()

    def __float__(self):
        return float(self._memory)

    __hash__ = None


def _index(key):
    if isinstance(key, tuple):
        return tuple(part if isinstance(part, numpy.ndarray) else _host(part) for part in key)
    return _host(key)


def _operator(name):
    def operate(self, *others):
        return _device(getattr(self._memory, name)(*map(_host, others)))

    return operate


def _in_place(name):
    def operate(self, other):
        getattr(self._memory, name)(_host(other))
        return self

    return operate


def _method(name):
    def call(self, *arguments, **named):
        return _wrapped(getattr(numpy.ndarray, name))(self, *arguments, **named)

    return call


for _name in OPERATORS.split():
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in IN_PLACE.split():
    setattr(ndarray, f"__{_name}__", _in_place(f"__{_name}__"))
for _name in METHODS.split():
    setattr(ndarray, _name, _method(_name))
for _name in " ".join((ELEMENTWISE, OTHERS, CREATION)).split():
    globals()[_name] = _wrapped(getattr(numpy, _name))
for _name in " ".join((DTYPES, CONSTANTS)).split():
    globals()[_name] = getattr(numpy, _name)


def empty(shape, dtype=float, order="C"):
    """New memory full of garbage."""
    memory = numpy.empty(shape, dtype, order)
    memory.reshape(-1).view(numpy.uint8)[...] = GARBAGE
    return ndarray(memory)


def empty_like(prototype, dtype=None):
    """New memory of an array's shape, full of garbage."""
    return empty(_host(prototype).shape, dtype or prototype.dtype)


def array(values, dtype=None, copy=True, order="K", ndmin=0):
    """A device array with the values of a host array, a device array or numbers."""
    return ndarray(numpy.array(values._memory if isinstance(values, ndarray) else values, dtype, ndmin=ndmin))


def asarray(values, dtype=None, order=None):
    """As `array`, without a copy where the values are on the device already."""
    if isinstance(values, ndarray):
        return ndarray(numpy.asarray(values._memory, dtype))
    return array(values, dtype)


def ascontiguousarray(values, dtype=None):
    """A C-contiguous device array."""
    return ndarray(numpy.ascontiguousarray(asarray(values, dtype)._memory))


def asnumpy(values):
    """The values as a numpy array."""
    return values.get() if isinstance(values, ndarray) else numpy.asarray(values)


def matmul(a, b, out=None):
    """The matrix product."""
    return _wrapped(numpy.matmul)(a, b, out=out)


def get_default_memory_pool():
    """The pool of device memory."""
    return types.SimpleNamespace(free_all_blocks=lambda: None, used_bytes=lambda: 0, total_bytes=lambda: 0)
