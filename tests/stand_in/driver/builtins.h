/* What CuPy's own kernels take for granted in CUDA, beside threads.h. */
#include <cassert>
#include <cstddef>
#include <cstring>
using std::isfinite;
using std::isinf;
using std::isnan;
using std::ptrdiff_t;
using std::signbit;
static inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
template <class To, class From> static inline To same_bits(From from) {
  To to;
  static_assert(sizeof to == sizeof from, "");
  memcpy(&to, &from, sizeof to);
  return to;
}
static inline float __int_as_float(int x) { return same_bits<float>(x); }
static inline int __float_as_int(float x) { return same_bits<int>(x); }
static inline double __longlong_as_double(long long x) { return same_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return same_bits<long long>(x); }
#define ATOMIC(name, T, expression)       \
  static inline T name(T* place, T value) { \
    const T old = *place;                 \
    *place = expression;                  \
    return old;                           \
  }
#define ATOMICS(T)                                    \
  ATOMIC(atomicAdd, T, old + value)                   \
  ATOMIC(atomicExch, T, value)                        \
  ATOMIC(atomicMax, T, old < value ? value : old)     \
  ATOMIC(atomicMin, T, value < old ? value : old)     \
  static inline T atomicCAS(T* place, T compare, T value) { \
    const T old = *place;                             \
    *place = old == compare ? value : old;            \
    return old;                                       \
  }
ATOMICS(int)
ATOMICS(unsigned)
ATOMICS(unsigned long long)
ATOMIC(atomicAdd, float, old + value)
ATOMIC(atomicAdd, double, old + value)
static inline unsigned short atomicCAS(unsigned short* place, unsigned short compare, unsigned short value) {
  const unsigned short old = *place;
  *place = old == compare ? value : old;
  return old;
}
