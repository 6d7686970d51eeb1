"""RawModule of the stand-in: a CUDA text, compiled by the host's compiler as CUDA would, thread after thread.

Threads run in a scrambled order, so that one which waits for another's result gets caught. As CuPy passes -ftz=true to
every compilation, numbers too small for a normal float count as 0 here, too.
"""

from __future__ import annotations

import ctypes

import numpy

from caffelite.backend.kernels import build_cpu, signatures

HEAD = r"""
#include <algorithm>
#include <cmath>
#include <cstdint>
#ifdef __SSE__
#include <xmmintrin.h>
struct FlushSmall { /* sets flush-to-zero and denormals-are-zero while it lives */
  const unsigned before = _mm_getcsr();
  FlushSmall() { _mm_setcsr(before | 0x8040); }
  ~FlushSmall() { _mm_setcsr(before); }
};
#else
struct FlushSmall {};
#endif
#define __CUDACC__ 1
#define __global__
#define __device__
#define __forceinline__ inline
using std::max;
using std::min;
struct Index { unsigned x; };
static Index blockIdx, threadIdx, gridDim, blockDim;
"""
RUN = """
extern "C" void run_{name}(unsigned grid, unsigned block, {parameters}) {{
  FlushSmall flush;
  (void)flush;
  gridDim.x = grid;
  blockDim.x = block;
  const unsigned long long threads = (unsigned long long)grid * block;
  for (unsigned long long i = 0; i < threads; ++i) {{
    const unsigned long long at = (i * 1000003ull + 12345ull) % threads;
    blockIdx.x = at / block;
    threadIdx.x = at % block;
    {name}({names});
  }}
}}
"""


class RawModule:
    """The kernels of a CUDA text."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()):
        assert "--fmad=false" in options, "kernels are to round like the CPU's"
        self._signatures = {name: heads for name, heads in signatures(code).items() if name != "shim_set_threads"}
        runs = [
            RUN.format(
                name=name,
                parameters=", ".join(f"{kind} {'*' * pointer}{argument}" for kind, pointer, _, argument in signature),
                names=", ".join(argument for *_, argument in signature),
            )
            for name, signature in self._signatures.items()
        ]
        self._library = ctypes.CDLL(str(build_cpu(HEAD + code + "".join(runs), "emulated", ("-O1", "-fopenmp-simd"))))

    def get_function(self, name: str):
        """The kernel as a function of grid, block and arguments."""
        run, signature = getattr(self._library, f"run_{name}"), self._signatures[name]

        def launch(grid, block, arguments):
            assert len(arguments) == len(signature) and 1 <= block[0] <= 1024 and grid[0] >= 1
            raw = [ctypes.c_uint(grid[0]), ctypes.c_uint(block[0])]
            for value, (kind, pointer, _, argument) in zip(arguments, signature):
                raw.append(_raw(value, kind, pointer, f"{name}, {argument}"))
            run(*raw)

        return launch


def _raw(value, kind: str, pointer: bool, where: str):
    """The argument as C takes it: CuPy passes an array's pointer, and the bytes of a numpy number as they are."""
    if pointer:
        if isinstance(value, numpy.intp):
            return ctypes.c_void_p(int(value))
        return ctypes.c_void_p(value.data.ptr)
    kinds = {"int": "int32", "unsigned": "uint32", "float": "float32", "double": "float64", "long long": "int64"}
    assert isinstance(value, numpy.generic) and value.dtype == kinds[kind], f"{where}: {type(value)} for {kind}"
    return numpy.ctypeslib.as_ctypes_type(value.dtype)(value.item())
