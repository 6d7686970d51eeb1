/* CUDA's threads on a CPU: stands in front of a CUDA text, so that the host's compiler takes it and `emulation::run`
   runs its kernels.

   Threads run one by one in a scrambled order, so that one which waits for another's result gets caught. With TOGETHER,
   for texts that name barriers or intrinsics of warps, block after block with a stack for every thread; a barrier that
   some thread of its mask cannot reach ends the program. As CuPy passes -ftz=true to every compilation, numbers too
   small for a normal float count as 0 here, too. */
#undef _FORTIFY_SOURCE /* it forbids longjmp between stacks */
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <type_traits>
#include <utility>
#ifdef __SSE__
#include <xmmintrin.h>
#endif
#if TOGETHER
#include <csetjmp>
#include <functional>
#include <ucontext.h>
#include <vector>
#endif
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static
#define __forceinline__ inline
using std::max;
using std::min;
struct Index {
  unsigned x;
};
static Index blockIdx, threadIdx, gridDim, blockDim;

namespace emulation {
#ifdef __SSE__
struct FlushSmall { /* sets flush-to-zero and denormals-are-zero while it lives */
  const unsigned before = _mm_getcsr();
  FlushSmall() { _mm_setcsr(before | 0x8040); }
  ~FlushSmall() { _mm_setcsr(before); }
};
#else
struct FlushSmall {};
#endif
static unsigned scrambled(unsigned long long i, unsigned long long count) {
  return (i * 1000003ull + 12345ull) % count;
}
static void fail(const char* problem) {
  fprintf(stderr, "%s\n", problem);
  abort();
}
#if TOGETHER
/* threads of a block take turns: each runs until it waits at a barrier, and goes on when all of the barrier are there;
   at a warp's barrier lanes hand each other a value */
enum { WARP = 32, STACK = 1 << 16 };
enum State { READY, AT_WARP, AT_BLOCK, DONE };
struct Thread {
  ucontext_t context;
  jmp_buf place;
  State state;
  unsigned mask;
  bool begun;
  unsigned long long value, seen[WARP];
};
static std::vector<Thread> threads;
static std::vector<char> stacks;
static jmp_buf scheduler; /* jumps, once a thread has begun: changing contexts asks the system each time */
static unsigned running;
static std::function<void()> body;
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
/* waits for the lanes of the mask; returns their values */
static const unsigned long long* exchanged(unsigned mask, unsigned long long value) {
  if (!(mask >> (threadIdx.x % WARP) & 1)) fail("a lane that its own mask lacks");
  threads[running].value = value;
  wait_at(AT_WARP, mask);
  return threads[running].seen;
}
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
      for (unsigned other = 0; together && other < WARP; ++other) {
        if (!(mask >> other & 1)) continue;
        for (unsigned from = 0; from < WARP; ++from)
          if (mask >> from & 1) threads[warp + other].seen[from] = threads[warp + from].value;
        threads[warp + other].state = READY, any = true;
      }
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
    if (!ran && !release()) fail("a barrier that not all of its threads reach");
  }
}
#endif
template <class... A, size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
}
static std::mutex one_kernel;
/* runs a kernel on `grid` blocks of `block` threads; `arguments` says where each lies, as in cuLaunchKernel */
template <class... A> static void run(void (*kernel)(A...), unsigned grid, unsigned block, void** arguments) {
  const std::lock_guard<std::mutex> guard(one_kernel);
  FlushSmall flush;
  (void)flush;
  gridDim.x = grid;
  blockDim.x = block;
  auto thread = [=] { call(kernel, arguments, std::index_sequence_for<A...>()); };
#if TOGETHER
  body = thread;
  for (unsigned i = 0; i < grid; ++i) {
    blockIdx.x = scrambled(i, grid);
    run_block();
  }
#else
  const unsigned long long count = (unsigned long long)grid * block;
  for (unsigned long long i = 0; i < count; ++i) {
    const unsigned long long at = scrambled(i, count);
    blockIdx.x = at / block;
    threadIdx.x = at % block;
    thread();
  }
#endif
}
}  // namespace emulation

#if TOGETHER
static void __syncthreads() { emulation::wait_at(emulation::AT_BLOCK, 0); }
static void __syncwarp(unsigned mask = 0xffffffffu) { emulation::exchanged(mask, 0); }
template <class T> static T __shfl_sync(unsigned mask, T value, int lane) {
  const int from = lane & (emulation::WARP - 1);
  unsigned long long bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  const unsigned long long found = emulation::exchanged(mask, bits)[from];
  if (!(mask >> from & 1)) emulation::fail("a value of a lane that does not take part");
  __builtin_memcpy(&value, &found, sizeof value);
  return value;
}
static unsigned __ballot_sync(unsigned mask, int predicate) {
  const unsigned long long* values = emulation::exchanged(mask, predicate != 0);
  unsigned bits = 0;
  for (int i = 0; i < emulation::WARP; ++i) bits |= mask >> i & 1 ? unsigned(values[i]) << i : 0;
  return bits;
}
static unsigned __match_any_sync(unsigned mask, int value) {
  const unsigned long long* values = emulation::exchanged(mask, unsigned(value));
  unsigned bits = 0;
  for (int i = 0; i < emulation::WARP; ++i) bits |= unsigned((mask >> i & 1) && values[i] == unsigned(value)) << i;
  return bits;
}
#endif
static inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
static inline int __ffs(int bits) { return __builtin_ffs(bits); }
