"""RawModule of the stand-in: a CUDA text, compiled by the host's compiler as CUDA would, thread after thread.

Threads run in a scrambled order, so that one which waits for another's result gets caught. A kernel whose text names
intrinsics of warps or barriers runs block after block with a stack for every thread; a barrier that some thread of its
mask cannot reach ends the program. As CuPy passes -ftz=true to every compilation, numbers too small for a normal float
count as 0 here, too.
"""

from __future__ import annotations

import ctypes
import re

import numpy

from caffelite.backend.kernels import build_cpu, signatures

from .cuda import current_device

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
static unsigned scrambled(unsigned long long i, unsigned long long count) {
  return (i * 1000003ull + 12345ull) % count;
}
"""
# threads of a block take turns: each runs until it waits at a barrier, and goes on when all of the barrier are there
TOGETHER = r"""
#include <cstdio>
#include <cstdlib>
#include <csetjmp>
#include <functional>
#include <ucontext.h>
#include <vector>
#define __shared__ static
enum { WARP = 32, STACK = 1 << 16 };
enum State { READY, AT_WARP, AT_BLOCK, DONE };
struct Thread { ucontext_t context; jmp_buf place; State state; unsigned mask; unsigned calls; bool begun; };
static std::vector<Thread> threads;
static std::vector<char> stacks;
static jmp_buf scheduler; /* jumps, once a thread has begun: changing contexts asks the system each time */
static unsigned running;
static std::function<void()> body;
static unsigned long long slots[2][1024]; /* what lanes hand to each other, in turns of two */
static void start() {
  body();
  threads[running].state = DONE;
  _longjmp(scheduler, 1);
}
static void wait_at(State state, unsigned mask) {
  threads[running].state = state;
  threads[running].mask = mask;
  if (!_setjmp(threads[running].place)) _longjmp(scheduler, 1);
}
static void go_on() {
  Thread& thread = threads[running];
  if (_setjmp(scheduler)) return;
  if (thread.begun) _longjmp(thread.place, 1);
  thread.begun = true;
  setcontext(&thread.context);
}
static void __syncthreads() { wait_at(AT_BLOCK, 0); }
static void __syncwarp(unsigned mask = 0xffffffffu) {
  if (!(mask >> (threadIdx.x % WARP) & 1)) fprintf(stderr, "a lane that its own mask lacks\n"), abort();
  wait_at(AT_WARP, mask);
}
/* hands a value to the lanes of the mask; returns where those of the warp lie */
static const unsigned long long* exchanged(unsigned mask, unsigned long long value) {
  unsigned long long* values = slots[threads[running].calls++ & 1];
  values[threadIdx.x] = value;
  __syncwarp(mask);
  return values + threadIdx.x / WARP * WARP;
}
template <class T> static T __shfl_sync(unsigned mask, T value, int lane) {
  unsigned long long bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  const unsigned long long found = exchanged(mask, bits)[lane & (WARP - 1)];
  if (!(mask >> (lane & (WARP - 1)) & 1)) fprintf(stderr, "a value of a lane that does not take part\n"), abort();
  __builtin_memcpy(&value, &found, sizeof value);
  return value;
}
static unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned long long* values = exchanged(mask, predicate != 0);
  unsigned bits = 0;
  for (int i = 0; i < WARP; ++i) bits |= mask >> i & 1 ? unsigned(values[i]) << i : 0;
  return bits;
}
static unsigned __match_any_sync(unsigned mask, int value) {
  const unsigned long long* values = exchanged(mask, unsigned(value));
  unsigned bits = 0;
  for (int i = 0; i < WARP; ++i) bits |= unsigned((mask >> i & 1) && values[i] == unsigned(value)) << i;
  return bits;
}
static int __popc(unsigned bits) { return __builtin_popcount(bits); }
static int __ffs(int bits) { return __builtin_ffs(bits); }
/* lets go on whoever waits where all others of the barrier wait, too; false if nobody can */
static bool release() {
  const unsigned count = threads.size();
  bool any = false, whole = true;
  for (unsigned i = 0; i < count; ++i) whole = whole && threads[i].state == AT_BLOCK;
  for (unsigned warp = 0; warp < count; warp += WARP)
    for (unsigned lane = 0; lane < WARP && warp + lane < count; ++lane) {
      if (threads[warp + lane].state != AT_WARP) continue;
      const unsigned mask = threads[warp + lane].mask;
      bool together = true;
      for (unsigned other = 0; other < WARP; ++other)
        if (mask >> other & 1)
          together = together && warp + other < count && threads[warp + other].state == AT_WARP &&
                     threads[warp + other].mask == mask;
      for (unsigned other = 0; together && other < WARP; ++other)
        if (mask >> other & 1) threads[warp + other].state = READY, any = true;
    }
  for (unsigned i = 0; whole && i < count; ++i) threads[i].state = READY, any = true;
  return any;
}
static void run_block() {
  const unsigned count = blockDim.x;
  threads.assign(count, Thread());
  stacks.resize((size_t)count * STACK);
  for (unsigned i = 0; i < count; ++i) {
    getcontext(&threads[i].context);
    threads[i].context.uc_stack.ss_sp = &stacks[(size_t)i * STACK];
    threads[i].context.uc_stack.ss_size = STACK;
    threads[i].context.uc_link = nullptr;
    makecontext(&threads[i].context, start, 0);
  }
  for (unsigned done = 0; done < count;) {
    bool ran = false;
    for (unsigned i = 0; i < count; ++i) {
      running = scrambled(i, count);
      if (threads[running].state != READY) continue;
      threadIdx.x = running;
      go_on();
      ran = true;
      done += threads[running].state == DONE;
    }
    if (!ran && !release()) fprintf(stderr, "a barrier that not all of its threads reach\n"), abort();
  }
}
"""
INTRINSICS = re.compile(r"\b__(sync(threads|warp)|\w+_sync)\(")
RUN = """
extern "C" void run_{name}(unsigned grid, unsigned block, {parameters}) {{
  FlushSmall flush;
  (void)flush;
  gridDim.x = grid;
  blockDim.x = block;
  {threads}
}}
"""
ONE_BY_ONE = """
  const unsigned long long threads = (unsigned long long)grid * block;
  for (unsigned long long i = 0; i < threads; ++i) {{
    const unsigned long long at = scrambled(i, threads);
    blockIdx.x = at / block;
    threadIdx.x = at % block;
    {name}({names});
  }}"""
BLOCK_BY_BLOCK = """
  body = [=] {{ {name}({names}); }};
  for (unsigned i = 0; i < grid; ++i) {{
    blockIdx.x = scrambled(i, grid);
    run_block();
  }}"""


class RawModule:
    """The kernels of a CUDA text."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()):
        assert "--fmad=false" in options, "kernels are to round like the CPU's"
        self._signatures = {name: heads for name, heads in signatures(code).items() if name != "shim_set_threads"}
        together = bool(INTRINSICS.search(code))
        runs = [
            RUN.format(
                name=name,
                parameters=", ".join(f"{kind} {'*' * pointer}{argument}" for kind, pointer, _, argument in signature),
                threads=(BLOCK_BY_BLOCK if together else ONE_BY_ONE).format(
                    name=name, names=", ".join(argument for *_, argument in signature)
                ),
            )
            for name, signature in self._signatures.items()
        ]
        text = HEAD + TOGETHER * together + code + "".join(runs)
        self._library = ctypes.CDLL(str(build_cpu(text, "emulated", ("-O1", "-fopenmp-simd"))))

    def get_function(self, name: str):
        """The kernel as a function of grid, block and arguments, for the device that is current now."""
        run, signature, device = getattr(self._library, f"run_{name}"), self._signatures[name], current_device()

        def launch(grid, block, arguments):
            assert device == current_device(), "a function of another device's module"
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
        assert value.device.id == current_device(), f"{where}: an array of another device"
        return ctypes.c_void_p(value.data.ptr)
    kinds = {"int": "int32", "unsigned": "uint32", "float": "float32", "double": "float64", "long long": "int64"}
    assert isinstance(value, numpy.generic) and value.dtype == kinds[kind], f"{where}: {type(value)} for {kind}"
    return numpy.ctypeslib.as_ctypes_type(value.dtype)(value.item())
