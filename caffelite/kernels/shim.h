/* One kernel text, two machines.  NVRTC compiles it to CUDA kernels; a host C++11 compiler makes plain functions of it
   whose loops OpenMP shares out.  The first argument of every kernel is the number of GPU threads wanted.
   A loop body never returns (continue), and uses no shared memory, barrier or warp intrinsic, unless its text is for the
   GPU alone (WARP_LOOP). */
#ifdef __CUDACC__
#define KERNEL(name) extern "C" __global__ void name
#define DEVICE static __device__ __forceinline__
#define GATHER 1 /* a backward pass that scatters on a CPU gathers on a GPU: no float atomics, same bits every run */
#define FLT_MAX 3.402823466e+38F
#define FLT_MIN 1.175494351e-38F
#define FIRST_ (int)(blockIdx.x * blockDim.x + threadIdx.x)
#define STEP_ (int)(blockDim.x * gridDim.x)
/* near 2^31 elements i + STEP_ would overflow */
#define NEXT_(i, n) ((n) - i > STEP_ ? i + STEP_ : (n))
#define KERNEL_LOOP(i, n) for (int i = FIRST_; i < (n); i = NEXT_(i, n))
#define PLANE_LOOP(p, k, planes, size)                                                                      \
  for (int n_ = (planes) * (size), i_ = FIRST_, p = i_ / (size), k = i_ % (size); i_ < n_;                  \
       i_ = NEXT_(i_, n_), p = i_ / (size), k = i_ % (size))
/* the 32 lanes of a warp run through the work w of `count` together; the kernel wants 32 threads for each */
#define WARP 32
#define ALL_LANES 0xffffffffu
#define WARP_LOOP(w, lane, count)                                                                           \
  for (int lane = FIRST_ % WARP, w = FIRST_ / WARP; w < (count);                                            \
       w = (count) - w > STEP_ / WARP ? w + STEP_ / WARP : (count))
#else
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
using std::max;
using std::min;
#ifdef _WIN32
#define KERNEL(name) extern "C" __declspec(dllexport) void name
#else
#define KERNEL(name) extern "C" void name
#endif
#define DEVICE static inline
#ifndef GATHER
#define GATHER 0 /* tests compile the GPU's branch for the CPU with -DGATHER=1 */
#endif
#ifdef _OPENMP
#include <omp.h>
#define SHIM_PARALLEL_FOR _Pragma("omp parallel for schedule(static)")
KERNEL(shim_set_threads)(const int n) { omp_set_num_threads(n); }
#else
#define SHIM_PARALLEL_FOR
KERNEL(shim_set_threads)(const int n) { (void)n; }
#endif
#define KERNEL_LOOP(i, n) SHIM_PARALLEL_FOR for (int i = 0; i < (n); ++i)
/* one CPU thread owns the plane p, so that a scatter into it is a plain, deterministic addition */
#define PLANE_LOOP(p, k, planes, size) \
  SHIM_PARALLEL_FOR for (int p = 0; p < (planes); ++p) for (int k = 0; k < (size); ++k)
#endif
