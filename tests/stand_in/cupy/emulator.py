"""RawModule of the stand-in: a CUDA text, compiled by the host's compiler as CUDA would, thread after thread."""

from __future__ import annotations

import ctypes

import numpy

from caffelite.backend.kernels import signatures
from tests.stand_in import threads

from .cuda import current_device


class RawModule:
    """The kernels of a CUDA text."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()):
        assert "--fmad=false" in options, "kernels are to round like the CPU's"
        self._signatures = {name: heads for name, heads in signatures(code).items() if name != "shim_set_threads"}
        library = threads.build(code, self._signatures, threads.AS_CUDA)
        self._library = ctypes.CDLL(str(library))

    def get_function(self, name: str):
        """The kernel as a function of grid, block and arguments, for the device that is current now."""
        run, signature, device = getattr(self._library, f"run_{name}"), self._signatures[name], current_device()

        def launch(grid, block, arguments):
            assert device == current_device(), "a function of another device's module"
            assert len(arguments) == len(signature) and 1 <= block[0] <= 1024 and grid[0] >= 1
            raw = [
                _raw(value, kind, pointer, f"{name}, {argument}")
                for value, (kind, pointer, _, argument) in zip(arguments, signature)
            ]
            places = (ctypes.c_void_p * len(raw))(*map(ctypes.addressof, raw))
            run(ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), places)

        return launch


def _raw(value, kind: str, pointer: bool, where: str):
    """The argument as C takes it: CuPy passes an array's pointer, and the bytes of a numpy number as they are."""
    if pointer:
        if isinstance(value, numpy.intp):
            return ctypes.c_void_p(int(value))
        assert value.device.id == current_device(), f"{where}: an array of another device"
        return ctypes.c_void_p(value.data.ptr)
    kinds = {"int": "int32", "unsigned": "uint32", "float": "float32", "double": "float64", "long long": "int64"}
    assert isinstance(value, numpy.generic) and value.dtype == kinds[kind], f"{where}: {type(value)} for {kind}"
    return numpy.ctypeslib.as_ctypes_type(value.dtype)(value.item())
