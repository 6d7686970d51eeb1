/* The inner loops of gemm and convolution: a block of ROWS x WIDTH sums held in registers, on the compiler's own vectors.
   Every sum runs over k in one fixed order, so that the bits depend on neither the threads nor the place in a block.
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

enum {
  LANES = VECTOR_BYTES / 4,
#if defined(__AVX512F__) || defined(__aarch64__) /* 32 vector registers */
  VECTORS = 4,
#else
  VECTORS = 2,
#endif
  ROWS = 6,
  WIDTH = LANES * VECTORS,
  CHUNK = 512 /* sums are cut here: a panel of CHUNK x WIDTH stays in the second-level cache */
};
typedef float vec __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

DEVICE vec load(const float* p) { return *(const vec*)p; }
DEVICE void store(float* p, vec v) { *(vec*)p = v; }

/* Memory of a thread that is kept from call to call: fresh pages would cost more than the packing itself. */
struct Scratch {
  float* data = nullptr;
  size_t size = 0;
  float* get(size_t floats) {
    if (floats > size) {
      std::free(data);
      size = floats;
      data = (float*)std::malloc(size * sizeof(float));
    }
    return data;
  }
  ~Scratch() { std::free(data); }
};

DEVICE int max_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

/* Where a block of sums goes: element (r, c) lies at at[r * row + c * column]. */
struct Target {
  float* at;
  long row, column;
  bool add;          /* to what is there */
  const float* bias; /* per row, or null */
};

/* target (+)= s v (+ bias), s: `rows` rows of k numbers, v: k rows of n <= vectors * LANES numbers at a pitch */
template <int rows, int vectors>
static void block(const float* s, long s_row, const float* v, long pitch, int k, int n, const Target& t) {
  const float* row[rows];
  for (int r = 0; r < rows; ++r) row[r] = s + r * s_row;
  vec sum[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int q = 0; q < vectors; ++q) {
      sum[r][q] = vec{};
      __builtin_prefetch(t.at + r * t.row + q * LANES, 1); /* it lies scattered: no hardware foresees it */
    }
  for (int i = 0; i < k; ++i, v += pitch) {
    vec x[vectors];
    for (int q = 0; q < vectors; ++q) x[q] = load(v + q * LANES);
    for (int r = 0; r < rows; ++r)
      for (int q = 0; q < vectors; ++q) sum[r][q] += row[r][i] * x[q];
  }
  if (t.bias)
    for (int r = 0; r < rows; ++r)
      for (int q = 0; q < vectors; ++q) sum[r][q] += t.bias[r];
  if (t.column == 1 && n == vectors * LANES) {
    for (int r = 0; r < rows; ++r)
      for (int q = 0; q < vectors; ++q) {
        float* p = t.at + r * t.row + q * LANES;
        store(p, t.add ? load(p) + sum[r][q] : sum[r][q]);
      }
    return;
  }
  for (int r = 0; r < rows; ++r) {
    float line[vectors * LANES];
    for (int q = 0; q < vectors; ++q) store(line + q * LANES, sum[r][q]);
    float* p = t.at + r * t.row;
    if (t.add)
      for (int c = 0; c < n; ++c) p[c * t.column] += line[c];
    else
      for (int c = 0; c < n; ++c) p[c * t.column] = line[c];
  }
}

template <int rows>
static void block_of_rows(const float* s, long s_row, const float* v, long pitch, int k, int n, const Target& t) {
  switch ((n + LANES - 1) / LANES) {
    case 1: return block<rows, 1>(s, s_row, v, pitch, k, n, t);
    case 2: return block<rows, 2>(s, s_row, v, pitch, k, n, t);
#if VECTOR_BYTES == 64 || defined(__AVX512F__) || defined(__aarch64__)
    case 3: return block<rows, 3>(s, s_row, v, pitch, k, n, t);
    case 4: return block<rows, 4>(s, s_row, v, pitch, k, n, t);
#endif
  }
}

/* The same for any number of rows: one panel v against all of s. */
static void multiply(const float* s, long s_row, int rows, const float* v, long pitch, int k, int n, Target t) {
  for (; rows > 0; rows -= ROWS, s += ROWS * s_row, t.at += ROWS * t.row, t.bias += t.bias ? ROWS : 0) switch (rows) {
      case 1: block_of_rows<1>(s, s_row, v, pitch, k, n, t); break;
      case 2: block_of_rows<2>(s, s_row, v, pitch, k, n, t); break;
      case 3: block_of_rows<3>(s, s_row, v, pitch, k, n, t); break;
      case 4: block_of_rows<4>(s, s_row, v, pitch, k, n, t); break;
      case 5: block_of_rows<5>(s, s_row, v, pitch, k, n, t); break;
      default: block_of_rows<ROWS>(s, s_row, v, pitch, k, n, t);
    }
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

/* to (columns x rows) = (or +=) from (rows x columns) transposed */
static void transpose(const float* from, long from_row, int rows, int columns, float* to, long to_row, bool add = false) {
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
