/* out (+)= op(a) op(b), row-major.  One operand is read in vectors ("panels", packed WIDTH columns wide), the other one
   number at a time along its rows ("strips").  Which is which depends on the shape: what would need the dearer packing
   is not packed. */
#include "vectors.h"
#include "microkernel.h"

namespace {

struct Matrix { /* element (i, j) lies at at[i * row + j * column] */
  const float* at;
  long row, column;
  const float* operator()(long i, long j) const { return at + i * row + j * column; }
  Matrix transposed() const { return {at, column, row}; }
};

struct Product { /* element (i, j) goes to at[i * row + j * column], or is added there */
  float* at;
  long row, column;
  bool add;
};

enum {
  GROUP = 32 * ROWS,  /* rows of a task at most: its strips stay in the second-level cache */
  FEW = 2 * GROUP,    /* rows that all threads can go through: they stay in the last-level cache */
  ACROSS = 4 * WIDTH, /* columns that a thread packs for itself */
  INNER = 8 * CHUNK,  /* of the sum, packed for all threads at a time */
  PACKED = 4 << 20,   /* floats packed for all threads at a time: they stay in the last-level cache */
  SMALL = 1 << 17     /* multiply-adds that one thread does sooner than two */
};

/* `together` products of a, k long, with rows of b: several streams from memory at once */
template <int together>
void dot(const float* a, const float* b, long b_row, int k, Product t) {
  vec sum[together][2];
  float total[together];
  for (int r = 0; r < together; ++r) sum[r][0] = sum[r][1] = vec{}, total[r] = 0;
  int i = 0;
  for (; i + 2 * LANES <= k; i += 2 * LANES)
    for (int r = 0; r < together; ++r)
      for (int q = 0; q < 2; ++q)
        sum[r][q] = multiply_add(load(a + i + q * LANES), load(b + r * b_row + i + q * LANES), sum[r][q]);
  for (; i < k; ++i)
    for (int r = 0; r < together; ++r) total[r] += a[i] * b[r * b_row + i];
  for (int r = 0; r < together; ++r, t.at += t.column) {
    const vec s = sum[r][0] + sum[r][1];
    total[r] += add_up(s);
    *t.at = t.add ? *t.at + total[r] : total[r];
  }
}

/* s (m x k) times v, whose columns are contiguous */
void product_by_dots(Matrix s, Matrix v, Product t, int m, int n, int k, bool parallel) {
#pragma omp parallel for if (parallel)
  for (int j = 0; j < n; j += 4)
    for (int i = 0; i < m; ++i) {
      const Product to = {t.at + i * t.row + j * t.column, t.row, t.column, t.add};
      if (j + 4 <= n)
        dot<4>(s(i, 0), v(0, j), v.column, k, to);
      else
        for (int c = j; c < n; ++c)
          dot<1>(s(i, 0), v(0, c), v.column, k, {to.at + (c - j) * t.column, t.row, t.column, t.add});
    }
}

/* s (m x k) times v, whose rows are contiguous: reads v as it lies */
void product_by_stripes(Matrix s, Matrix v, Product t, int m, int n, int k, bool parallel) {
  enum { STRIPE = 2048, TOGETHER = 8 };
#pragma omp parallel for if (parallel)
  for (int j = 0; j < n; j += STRIPE) {
    const int end = min(n, j + STRIPE);
    for (int r = 0; r < m && !t.add; ++r) std::fill(t.at + r * t.row + j, t.at + r * t.row + end, 0.0f);
    for (int i = 0; i < k; i += TOGETHER)
      for (int r = 0; r < m; ++r) {
        float* to = t.at + r * t.row;
        const int rows = min((int)TOGETHER, k - i);
        int c = j;
        for (; c + LANES <= end; c += LANES) {
          vec sum = load(to + c);
          if (rows == TOGETHER)
            for (int q = 0; q < TOGETHER; ++q) sum += *s(r, i + q) * load(v(i + q, c));
          else
            for (int q = 0; q < rows; ++q) sum += *s(r, i + q) * load(v(i + q, c));
          store(to + c, sum);
        }
        for (; c < end; ++c)
          for (int q = 0; q < rows; ++q) to[c] += *s(r, i + q) * *v(i + q, c);
      }
  }
}

/* Panels of v side by side, each (k x WIDTH): to + panel * distance */
void pack(Matrix v, int k, int n, float* to, long distance) {
  if (v.column != 1) {
    for (int c = 0; c < n; c += WIDTH, to += distance)
      transpose(v(0, c), v.column, min((int)WIDTH, n - c), k, to, WIDTH);
    return;
  }
  for (int i = 0; i < k; ++i)
    for (int c = 0; c < n; c += WIDTH) {
      float* row = to + c / WIDTH * distance + i * WIDTH;
      if (c + WIDTH <= n)
        for (int q = 0; q < WIDTH; q += LANES) store(row + q, load(v(i, c + q)));
      else
        std::copy(v(i, c), v(i, n), row);
    }
}

thread_local Scratch panel_memory, strip_memory, sum_memory;

/* s as rows that are contiguous: itself, or turned into memory of this thread */
Matrix strips(Matrix s, int rows, int k) {
  if (s.column == 1) return s;
  float* turned = strip_memory.get((size_t)rows * CHUNK);
  transpose(s.at, s.column, k, rows, turned, CHUNK);
  return {turned, CHUNK, 1};
}

/* Few rows: a thread takes some columns, and packs them for itself. */
void product_by_columns(Matrix s, Matrix v, Product target, int m, int n, int k, bool parallel) {
  const int across = n < 32 * WIDTH ? (int)WIDTH : (int)ACROSS;
#pragma omp parallel for schedule(dynamic) if (parallel)
  for (int j = 0; j < n; j += across) {
    const int wide = min(across, n - j);
    for (int i = 0; i < k; i += CHUNK) {
      const int deep = min((int)CHUNK, k - i);
      const long distance = (long)deep * WIDTH;
      float* panel = panel_memory.get((size_t)CHUNK * ACROSS);
      pack({v(i, j), v.row, v.column}, deep, wide, panel, distance);
      const Matrix strip = strips({s(0, i), s.row, s.column}, m, deep);
      for (int c = 0; c < wide; c += WIDTH, panel += distance)
        multiply(strip.at, strip.row, m, panel, WIDTH, deep, min((int)WIDTH, wide - c),
                 {target.at + j + c, target.row, target.add || i > 0, nullptr});
    }
  }
}

/* Many rows: the columns are packed once for all threads, and a thread takes some rows. */
void product_by_rows(Matrix s, Matrix v, Product target, int m, int n, int k, bool parallel) {
  const int inner = min(k, (int)INNER);
  const int across = min(max(1, (int)PACKED / inner / WIDTH), (n + WIDTH - 1) / WIDTH) * WIDTH;
  const int group = min((int)GROUP, max(2, m / (4 * max_threads() * ROWS)) * ROWS);
  const bool turned = target.column != 1; /* then sums are kept, and written once */
  float* packed = panel_memory.get((size_t)inner * across);
#pragma omp parallel if (parallel)
  for (int j0 = 0; j0 < n; j0 += across)
    for (int k0 = 0; k0 < k; k0 += inner) {
      const int wide = min(across, n - j0), deep = min(inner, k - k0);
      const long distance = (long)deep * WIDTH;
#pragma omp for schedule(dynamic)
      for (int i = 0; i < deep; i += CHUNK / 8)
        pack({v(k0 + i, j0), v.row, v.column}, min(CHUNK / 8, deep - i), wide, packed + (long)i * WIDTH, distance);
#pragma omp for schedule(dynamic)
      for (int r = 0; r < m; r += group) {
        const int rows = min(group, m - r);
        Target to = {target.at + r * target.row + j0, target.row, false, nullptr};
        if (turned) to = {sum_memory.get((size_t)group * across), across, false, nullptr};
        for (int i = 0; i < deep; i += CHUNK) {
          const int chunk = min((int)CHUNK, deep - i);
          const Matrix strip = strips({s(r, k0 + i), s.row, s.column}, rows, chunk);
          for (int c = 0; c < wide; c += WIDTH)
            multiply(strip.at, strip.row, rows, packed + c / WIDTH * distance + (long)i * WIDTH, WIDTH, chunk,
                     min((int)WIDTH, wide - c),
                     {to.at + c, to.row, i > 0 || (!turned && (target.add || k0 > 0)), nullptr});
        }
        if (turned)
          transpose(to.at, to.row, rows, wide, target.at + r + j0 * target.column, target.column, target.add || k0 > 0);
      }
    }
}

}  // namespace

KERNEL(gemm)(const float* a, const float* b, float* out, int m, int n, const int k, const int transpose_a,
             const int transpose_b, const int accumulate) {
  if (k == 0 && !accumulate) std::fill(out, out + (long)m * n, 0.0f);
  if (!m || !n || !k) return;
  Matrix s = transpose_a && m > 1 ? Matrix{a, 1, m} : Matrix{a, k, 1};
  Matrix v = transpose_b || n == 1 ? Matrix{b, 1, k} : Matrix{b, n, 1};
  Product target = {out, n, 1, accumulate != 0};
  /* the vectors run over n, unless they would have to be turned and the strips, or fewer numbers, would not */
  if (v.column != 1 ? s.column != 1 || m < n : s.column != 1 && n < LANES && n < m) {
    const Matrix turned = s.transposed();
    s = v.transposed(), v = turned;
    std::swap(target.row, target.column);
    std::swap(m, n);
  }
  const bool parallel = (long)m * n * k > SMALL;
  if (s.column == 1 && v.row == 1 && min(m, n) <= 4)
    product_by_dots(s, v, target, m, n, k, parallel);
  else if (m <= 4 && v.column == 1 && target.column == 1)
    product_by_stripes(s, v, target, m, n, k, parallel);
  else if (m <= FEW && n >= 8 * WIDTH && target.column == 1)
    product_by_columns(s, v, target, m, n, k, parallel);
  else
    product_by_rows(s, v, target, m, n, k, parallel);
}
