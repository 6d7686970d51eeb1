/* out (+)= op(a) op(b), row-major.  One operand is read in vectors ("panels", packed WIDTH columns wide), the other one
   number at a time along its rows ("strips").  Which is which depends on the shape: what would need the dearer packing
   is not packed. */
#include "microkernel.h"

namespace {

struct Matrix { /* element (i, j) lies at at[i * row + j * column] */
  const float* at;
  long row, column;
  const float* operator()(long i, long j) const { return at + i * row + j * column; }
  Matrix transposed() const { return {at, column, row}; }
};

enum {
  GROUP = 16 * ROWS,      /* rows of a task: its strips stay in the second-level cache */
  INNER = 8 * CHUNK,      /* of the sum, packed at a time */
  PACKED = 4 << 20,       /* floats packed at a time: they stay in the last-level cache */
  FEW = 4 * ROWS,         /* rows too few to pay for packing a panel that could be read in place */
  SMALL = 1 << 17         /* multiply-adds that one thread does sooner than two */
};

/* one product of a row of a and a row of b, both k long */
DEVICE float dot(const float* a, const float* b, int k) {
  vec sum[4] = {vec{}, vec{}, vec{}, vec{}};
  int i = 0;
  for (; i + 4 * LANES <= k; i += 4 * LANES)
    for (int q = 0; q < 4; ++q) sum[q] += load(a + i + q * LANES) * load(b + i + q * LANES);
  const vec s = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  float total = 0;
  for (; i < k; ++i) total += a[i] * b[i];
  for (int l = 0; l < LANES; ++l) total += s[l];
  return total;
}

void dots(Matrix a, Matrix b, Target t, int m, int n, int k, bool parallel) {
#pragma omp parallel for if (parallel)
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < m; ++i) {
      float* p = t.at + i * t.row + j * t.column;
      const float value = dot(a(i, 0), b(0, j), k);
      *p = t.add ? *p + value : value;
    }
}

void pack_panel(Matrix v, int k, int n, float* to) {
  if (v.column == 1)
    for (int i = 0; i < k; ++i) std::memcpy(to + (long)i * WIDTH, v(i, 0), n * sizeof(float));
  else
    transpose(v.at, v.column, n, k, to, WIDTH);
  if (n % LANES)
    for (int i = 0; i < k; ++i) std::fill(to + (long)i * WIDTH + n, to + (long)(i + 1) * WIDTH, 0.0f);
}

thread_local Scratch panel_memory, strip_memory;

void product(Matrix s, Matrix v, Target target, int m, int n, int k, bool parallel) {
  const bool in_place = v.column == 1 && m <= FEW;
  const int inner = min(k, (int)INNER), across = max(1, (int)PACKED / inner / WIDTH) * WIDTH;
  float* packed = panel_memory.get((size_t)inner * min(across, (n + WIDTH - 1) / WIDTH * WIDTH));
#pragma omp parallel if (parallel)
  for (int j0 = 0; j0 < n; j0 += across)
    for (int k0 = 0; k0 < k; k0 += inner) {
      const int wide = min(across, n - j0), deep = min(inner, k - k0), panels = (wide + WIDTH - 1) / WIDTH;
      const int chunks = (deep + CHUNK - 1) / CHUNK, groups = (m + GROUP - 1) / GROUP;
      const auto panel_in_place = [&](int p) { return in_place && (p + 1) * WIDTH <= wide; };
#pragma omp for schedule(dynamic)
      for (int task = 0; task < panels * chunks; ++task) {
        const int p = task / chunks, i = task % chunks * CHUNK;
        if (!panel_in_place(p))
          pack_panel({v(k0 + i, j0 + p * WIDTH), v.row, v.column}, min((int)CHUNK, deep - i),
                     min((int)WIDTH, wide - p * WIDTH), packed + ((long)p * deep + i) * WIDTH);
      }
#pragma omp for schedule(dynamic)
      for (int task = 0; task < groups; ++task) {
        const int r = task * GROUP, rows = min((int)GROUP, m - r);
        for (int i = 0; i < deep; i += CHUNK) {
          const int d = min((int)CHUNK, deep - i);
          const float* strips = s(r, k0 + i);
          long strip_row = s.row;
          if (s.column != 1) {
            float* turned = strip_memory.get(GROUP * CHUNK);
            transpose(strips, s.column, d, rows, turned, strip_row = CHUNK);
            strips = turned;
          }
          for (int p = 0; p < panels; ++p) {
            const int c = p * WIDTH;
            const bool read_in_place = panel_in_place(p);
            const float* panel = read_in_place ? v(k0 + i, j0 + c) : packed + ((long)p * deep + i) * WIDTH;
            multiply(strips, strip_row, rows, panel, read_in_place ? v.row : WIDTH, d, min((int)WIDTH, wide - c),
                     {target.at + r * target.row + (j0 + c) * target.column, target.row, target.column,
                      target.add || k0 + i > 0, nullptr});
          }
        }
      }
    }
}

}  // namespace

KERNEL(gemm)(const float* a, const float* b, float* out, const int m, const int n, const int k, const int transpose_a,
             const int transpose_b, const int accumulate) {
  if (k == 0 && !accumulate) std::fill(out, out + (long)m * n, 0.0f);
  if (!m || !n || !k) return;
  Matrix s = transpose_a ? Matrix{a, 1, m} : Matrix{a, k, 1};
  Matrix v = transpose_b ? Matrix{b, 1, k} : Matrix{b, n, 1};
  if (m == 1) s = {a, k, 1};
  if (n == 1) v = {b, 1, k};
  Target target = {out, n, 1, accumulate != 0, nullptr};
  const bool parallel = (long)m * n * k > SMALL;
  if (s.column == 1 && v.row == 1 && min(m, n) <= 4) return dots(s, v, target, m, n, k, parallel);
  const bool dear = v.column != 1 ? s.row == 1 || m < n : s.row == 1 && n < LANES && n < m;
  if (!dear) return product(s, v, target, m, n, k, parallel);
  std::swap(target.row, target.column);
  product(v.transposed(), s.transposed(), target, n, m, k, parallel);
}
