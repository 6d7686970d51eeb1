/* The compiler's own vectors, and what several CPU-only kernels do with them.
   -DVECTOR_BYTES=32 or 16 forces a shorter vector than the machine's. */
#ifndef VECTOR_BYTES
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#endif

#include <cstdio>
#include <cstdlib>
#if defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum {
  LANES = VECTOR_BYTES / 4,
  LINE = 16 /* floats of a cache line */
};
/* compiled once, not into each caller: these are long */
#define APART static __attribute__((noinline))

typedef float vec __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

DEVICE vec load(const float* p) { return *(const vec*)p; }
DEVICE void store(float* p, vec v) { *(vec*)p = v; }
DEVICE vec broadcast(float s) { return s - vec{}; } /* the compiler drops - 0, not + 0, for the sake of -0 */

/* a * b + c.  Left to itself the compiler fuses in one copy of a loop and not in the next, and the bits differ. */
DEVICE vec multiply_add(vec a, vec b, vec c) {
#if defined(__AVX512F__) && VECTOR_BYTES == 64
  return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && VECTOR_BYTES == 32
  return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__) && VECTOR_BYTES == 16
  return (vec)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
#elif defined(__aarch64__) && VECTOR_BYTES == 16
  return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

DEVICE vec load_first(const float* p, int n) { /* the first n numbers, and zeros */
  if (n >= LANES) return load(p);
  float line[LANES] = {};
  std::copy(p, p + max(0, n), line);
  return load(line);
}
DEVICE void store_first(float* p, vec v, int n) {
  if (n >= LANES) return store(p, v);
  for (int l = 0; l < n; ++l) p[l] = v[l];
}
DEVICE float add_up(vec v) {
  float sum = 0;
  for (int l = 0; l < LANES; ++l) sum += v[l];
  return sum;
}

/* Memory of a thread that is kept from call to call, because fresh pages would cost more than packing into them.
   It begins at a cache line. */
struct Scratch {
  void* memory = nullptr;
  size_t size = 0;
  float* get(size_t floats) {
#ifdef __SANITIZE_ADDRESS__ /* new and exact every time, so that a step beyond it is noticed */
    std::free(memory);
    if (posix_memalign(&memory, LINE * sizeof(float), floats * sizeof(float) + 1)) std::abort();
    return (float*)memory;
#endif
    if (floats > size) {
      std::free(memory);
      size = floats;
      memory = std::malloc((size + LINE) * sizeof(float));
      if (!memory) {
        std::fprintf(stderr, "caffelite: no memory left for %zu MiB of work space\n", size >> 18);
        std::abort();
      }
    }
    const size_t line = LINE * sizeof(float);
    return (float*)(((size_t)memory + line - 1) / line * line);
  }
  ~Scratch() { std::free(memory); }
};

DEVICE int max_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

#if VECTOR_BYTES == 64
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif VECTOR_BYTES == 32
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#else
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#endif
/* the numbers of two vectors in another order: SHUFFLE(a, b, EVEN) */
#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int lanes __attribute__((vector_size(VECTOR_BYTES)));
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, lanes{__VA_ARGS__})
#endif

/* M vectors of consecutive numbers to M vectors of every M-th number, M = 1, 2, 4 */
template <int M>
DEVICE void deinterleave(vec (&v)[M]) {
  if (M == 2) {
    const vec even = SHUFFLE(v[0], v[M - 1], EVEN);
    v[M - 1] = SHUFFLE(v[0], v[M - 1], ODD), v[0] = even;
  } else if (M == 4) {
    const vec e0 = SHUFFLE(v[0], v[1 % M], EVEN), e1 = SHUFFLE(v[2 % M], v[3 % M], EVEN);
    const vec o0 = SHUFFLE(v[0], v[1 % M], ODD), o1 = SHUFFLE(v[2 % M], v[3 % M], ODD);
    v[0] = SHUFFLE(e0, e1, EVEN), v[2 % M] = SHUFFLE(e0, e1, ODD);
    v[1 % M] = SHUFFLE(o0, o1, EVEN), v[3 % M] = SHUFFLE(o0, o1, ODD);
  }
}

/* and back */
template <int M>
DEVICE void interleave(vec (&v)[M]) {
  if (M == 2) {
    const vec low = SHUFFLE(v[0], v[M - 1], LOW);
    v[M - 1] = SHUFFLE(v[0], v[M - 1], HIGH), v[0] = low;
  } else if (M == 4) {
    const vec l0 = SHUFFLE(v[0], v[2 % M], LOW), h0 = SHUFFLE(v[0], v[2 % M], HIGH);
    const vec l1 = SHUFFLE(v[1 % M], v[3 % M], LOW), h1 = SHUFFLE(v[1 % M], v[3 % M], HIGH);
    v[0] = SHUFFLE(l0, l1, LOW), v[1 % M] = SHUFFLE(l0, l1, HIGH);
    v[2 % M] = SHUFFLE(h0, h1, LOW), v[3 % M] = SHUFFLE(h0, h1, HIGH);
  }
}

template <int M>
static void split(const float* from, int n, float* to, int pitch) {
  for (int i = 0; i < n; i += LANES, from += M * LANES) {
    vec v[M];
    for (int j = 0; j < M; ++j) v[j] = load(from + j * LANES);
    deinterleave<M>(v);
    for (int j = 0; j < M; ++j) store(to + j * pitch + i, v[j]);
  }
}

/* to[j * pitch + i] = from[step * i + j], for n i's rounded up to vectors */
static void split(const float* from, int n, int step, float* to, int pitch) {
  if (step == 1) return split<1>(from, n, to, pitch);
  if (step == 2) return split<2>(from, n, to, pitch);
  if (step == 4) return split<4>(from, n, to, pitch);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < step; ++j) to[j * pitch + i] = *from++;
}

template <int M>
static void join(const float* from, int n, float* to, int pitch) {
  for (int i = 0; i < n; i += LANES, to += M * LANES) {
    vec v[M];
    for (int j = 0; j < M; ++j) v[j] = load(from + j * pitch + i);
    interleave<M>(v);
    for (int j = 0; j < M; ++j) store(to + j * LANES, v[j]);
  }
}

/* to[step * i + j] = from[j * pitch + i], for n i's rounded up to vectors: the other way round */
static void join(const float* from, int n, int step, float* to, int pitch) {
  if (step == 2) return join<2>(from, n, to, pitch);
  if (step == 4) return join<4>(from, n, to, pitch);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < step; ++j) *to++ = from[j * pitch + i];
}

DEVICE void copy(float* to, const float* from, int n) {
  int i = 0;
  for (; i + LANES <= n; i += LANES) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = from[i];
}

/* to[0 .. n) = the row's pixels from x on; zero outside it, and everywhere if the row is null */
static void read_row(const float* row, int width, int x, int n, float* to) {
  const int begin = row ? min(n, max(0, -x)) : n, end = max(begin, min(n, width - x));
  std::fill(to, to + begin, 0.0f);
  if (begin < end) copy(to + begin, row + x + begin, end - begin);
  std::fill(to + end, to + n, 0.0f);
}

/* to (columns x rows) = (or +=) from (rows x columns) transposed */
APART void transpose(const float* from, long from_row, int rows, int columns, float* to, long to_row,
                     bool add = false) {
  for (int r = 0; r < rows; r += LANES)
    for (int c = 0; c < columns; c += LANES) {
      const float* f = from + r * from_row + c;
      float* t = to + c * to_row + r;
      if (r + LANES <= rows && c + LANES <= columns) {
        vec a[LANES], b[LANES];
        for (int i = 0; i < LANES; ++i) a[i] = load(f + i * from_row);
        for (int step = 1; step < LANES; step *= 2) { /* a perfect shuffle for each bit of the index */
          for (int i = 0; i < LANES / 2; ++i) {
            b[2 * i] = SHUFFLE(a[i], a[i + LANES / 2], LOW);
            b[2 * i + 1] = SHUFFLE(a[i], a[i + LANES / 2], HIGH);
          }
          for (int i = 0; i < LANES; ++i) a[i] = b[i];
        }
        for (int i = 0; i < LANES; ++i) store(t + i * to_row, add ? load(t + i * to_row) + a[i] : a[i]);
      } else {
        for (int i = 0; i < min((int)LANES, rows - r); ++i)
          for (int j = 0; j < min((int)LANES, columns - c); ++j) {
            float* p = t + j * to_row + i;
            *p = add ? *p + f[i * from_row + j] : f[i * from_row + j];
          }
      }
    }
}
