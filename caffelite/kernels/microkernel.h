/* The inner loops of gemm and convolution: a block of ROWS x WIDTH sums held in registers.  Every sum runs over k in
   one fixed order, so that the bits depend on neither the threads nor the place in a block. */
enum {
#if defined(__AVX512F__) || defined(__aarch64__) /* 32 vector registers */
  VECTORS = 4,
#else
  VECTORS = 2,
#endif
  ROWS = 6,
  WIDTH = LANES * VECTORS,
  CHUNK = 512 /* sums are cut here: a panel of CHUNK x WIDTH stays in the second-level cache */
};

/* Where a block of sums goes: element (r, c) lies at at[r * row + c]. */
struct Target {
  float* at;
  long row;
  bool add;          /* to what is there */
  const float* bias; /* per row, or null */
};

/* target (+)= s v (+ bias), s: `rows` rows of k numbers, v: k rows of n <= vectors * LANES numbers at a pitch */
template <int rows, int vectors>
APART void block(const float* s, long s_row, const float* v, long pitch, int k, int n, const Target& t) {
  const float* row[rows];
  for (int r = 0; r < rows; ++r) row[r] = s + r * s_row;
  vec sum[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int q = 0; q < vectors; ++q) {
      sum[r][q] = vec{};
      __builtin_prefetch(t.at + r * t.row + q * LANES, 1); /* it lies scattered: no hardware foresees it */
    }
  for (int begin = 0; begin < k; begin += LINE) {
    for (int r = 0; r < rows; ++r) __builtin_prefetch(row[r] + ROWS * s_row + begin); /* the next block's */
    for (int i = begin; i < min(k, begin + LINE); ++i, v += pitch) {
      vec x[vectors];
      for (int q = 0; q < vectors; ++q) x[q] = load(v + q * LANES);
      for (int r = 0; r < rows; ++r)
        for (int q = 0; q < vectors; ++q) sum[r][q] = multiply_add(broadcast(row[r][i]), x[q], sum[r][q]);
    }
  }
  if (t.bias)
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int q = 0; q < vectors; ++q) sum[r][q] += t.bias[r];
  if (n == vectors * LANES) {
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int q = 0; q < vectors; ++q) {
        float* p = t.at + r * t.row + q * LANES;
        store(p, t.add ? load(p) + sum[r][q] : sum[r][q]);
      }
    return;
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    float line[vectors * LANES];
#pragma GCC unroll 8
    for (int q = 0; q < vectors; ++q) store(line + q * LANES, sum[r][q]);
    float* p = t.at + r * t.row;
    if (t.add)
      for (int c = 0; c < n; ++c) p[c] += line[c];
    else
      for (int c = 0; c < n; ++c) p[c] = line[c];
  }
}

template <int rows>
static void block_of_rows(const float* s, long s_row, const float* v, long pitch, int k, int n, const Target& t) {
  if (n <= LANES)
    block<rows, 1>(s, s_row, v, pitch, k, n, t);
  else if (n <= 2 * LANES || VECTORS == 2)
    block<rows, 2>(s, s_row, v, pitch, k, n, t);
  else
    block<rows, VECTORS>(s, s_row, v, pitch, k, n, t);
}

/* The same for any number of rows: one panel v against all of s.  All WIDTH columns of v may be read, whatever n is. */
APART void multiply(const float* s, long s_row, int rows, const float* v, long pitch, int k, int n, Target t) {
  for (int done; rows > 0; rows -= done, s += done * s_row, t.at += done * t.row, t.bias += t.bias ? done : 0) {
    done = rows >= ROWS ? (int)ROWS : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
    switch (done) {
      case 1:
        block_of_rows<1>(s, s_row, v, pitch, k, n, t);
        break;
      case 2:
        block_of_rows<2>(s, s_row, v, pitch, k, n, t);
        break;
      case 4:
        block_of_rows<4>(s, s_row, v, pitch, k, n, t);
        break;
      default:
        block_of_rows<ROWS>(s, s_row, v, pitch, k, n, t);
    }
  }
}
