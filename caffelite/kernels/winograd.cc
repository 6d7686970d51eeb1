/* Convolution with stride 1 by minimal filtering (Winograd; Lavin and Gray, "Fast Algorithms for Convolutional Neural
   Networks", 2016): a tile of the image and the kernel are polynomials, multiplied by their values at six points.
   M x M outputs of an R x R kernel, M + R = 7, take 36 products for each pair of channels instead of M * M * R * R; the
   sums over channels are 36 matrix products, one for each pair of points.
   winograd_tiles.cu is the same for a GPU, where a library multiplies the matrices. */
#include "vectors.h"
#include "geometry.h"
#include "microkernel.h"
#include "winograd_points.h"

namespace {

enum {
  LONGEST = 128,    /* tiles in a row of a group */
  STRIP = 4 * ROWS, /* outputs whose sums a thread holds at all points */
  FAST = 1 << 19,   /* floats at their points that stay near a thread */
  TOGETHER = 12 << 20
};

struct Plane {
  float* at;
  int height, width;
};

/* A row of tiles of a plane; the first one's corner lies at (y, x), which may be outside: there is zero. */
struct TileRow {
  int y, x, tiles;
};

/* phase[j * pitch + t] = the plane's (y, x + M * t + j), for `count` t's rounded up to vectors */
template <int M>
void split(const Plane& p, int y, int x, int count, float* phase, int pitch) {
  const bool outside = y < 0 || y >= p.height;
  const float* row = p.at + (long)y * p.width;
  for (int t = 0; t < count; t += LANES, x += M * LANES) {
    vec v[M];
    if (!outside && x >= 0 && x + M * LANES <= p.width) {
      for (int j = 0; j < M; ++j) v[j] = load(row + x + j * LANES);
      for (int j = 0; j < M * LANES; j += LINE)
        __builtin_prefetch(row + (long)p.height * p.width + x + j); /* next plane */
    } else {
      float line[M * LANES] = {};
      const int begin = max(0, -x), end = outside ? 0 : min(M * LANES, p.width - x);
      if (begin < end) std::copy(row + x + begin, row + x + end, line + begin);
      for (int j = 0; j < M; ++j) v[j] = load(line + j * LANES);
    }
    deinterleave<M>(v);
    for (int j = 0; j < M; ++j) store(phase + j * pitch + t, v[j]);
  }
}

enum { PITCH = LONGEST + 3 * LANES };

/* Tiles of the image at their points: to[pair * distance + tile] */
template <int M>
void evaluate_tiles(const Plane& p, const TileRow& row, float* to, long distance) {
  float phase[POINTS][M * PITCH], half[POINTS][M * PITCH];
  const int more = (POINTS - 1) / M, wide = row.tiles + more;
  for (int i = 0; i < POINTS; ++i) split<M>(p, row.y + i, row.x, wide, phase[i], PITCH);
  vec d[POINTS], t[POINTS];
  for (int j = 0; j < M; ++j)
    for (int u = j * PITCH; u < j * PITCH + wide; u += LANES) {
      for (int i = 0; i < POINTS; ++i) d[i] = load(phase[i] + u);
      evaluate(d, t);
      for (int i = 0; i < POINTS; ++i) store(half[i] + u, t[i]);
    }
  for (int i = 0; i < POINTS; ++i)
    for (int u = 0; u < row.tiles; u += LANES) {
      for (int j = 0; j < POINTS; ++j) d[j] = load(half[i] + j % M * PITCH + j / M + u);
      evaluate(d, t);
      for (int j = 0; j < POINTS; ++j) store(to + (i * POINTS + j) * distance + u, t[j]);
    }
}

/* Tiles of a top's gradient, taken as kernels of M x M, at their points */
template <int M>
void spread_tiles(const Plane& p, const TileRow& row, float* to, long distance) {
  float phase[M][M * PITCH];
  for (int i = 0; i < M; ++i) split<M>(p, row.y + i, row.x, row.tiles, phase[i], PITCH);
  for (int u = 0; u < row.tiles; u += LANES) {
    vec half[M][POINTS], d[M], t[POINTS];
    for (int j = 0; j < M; ++j) {
      for (int i = 0; i < M; ++i) d[i] = load(phase[i] + j * PITCH + u);
      spread<M>(d, half[j]);
    }
    for (int i = 0; i < POINTS; ++i) {
      for (int j = 0; j < M; ++j) d[j] = half[j][i];
      spread<M>(d, t);
      for (int j = 0; j < POINTS; ++j) store(to + (i * POINTS + j) * distance + u, t[j]);
    }
  }
}

/* Tiles from the sums of their products, plus bias, to the plane */
template <int M>
void collect_tiles(const float* from, long distance, float bias, const Plane& p, const TileRow& row) {
  for (int u = 0; u < row.tiles; u += LANES) {
    vec half[M][POINTS], m[POINTS], y[M];
    for (int j = 0; j < POINTS; ++j) {
      for (int i = 0; i < POINTS; ++i) m[i] = load(from + (i * POINTS + j) * distance + u);
      collect<M>(m, y);
      for (int i = 0; i < M; ++i) half[i][j] = y[i];
    }
    const int x = row.x + u * M, wide = min(p.width - x, (row.tiles - u) * M);
    for (int i = 0; i < min(M, p.height - row.y); ++i) {
      collect<M>(half[i], y);
      for (int j = 0; j < M; ++j) y[j] += bias;
      interleave<M>(y);
      float* to = p.at + (long)(row.y + i) * p.width + x;
      for (int j = 0; j < M * LANES; j += LINE) __builtin_prefetch(to + (long)p.height * p.width + j, 1);
      if (wide >= M * LANES) {
        for (int j = 0; j < M; ++j) store(to + j * LANES, y[j]);
      } else {
        float line[M * LANES];
        for (int j = 0; j < M; ++j) store(line + j * LANES, y[j]);
        std::copy(line, line + wide, to);
      }
    }
  }
}

/* The kernels (rows x columns of R x R, steps in floats) at their points: to (strip of rows, pair, row, column) */
template <int R>
void spread_kernels(const float* w, int rows, int columns, long row_step, long column_step, bool flip, float* to) {
#pragma omp parallel for
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; c += LANES) {
      const int n = min((int)LANES, columns - c);
      float taps[R * R][LANES] = {};
      for (int l = 0; l < n; ++l)
        for (int k = 0; k < R * R; ++k) taps[flip ? R * R - 1 - k : k][l] = w[r * row_step + (c + l) * column_step + k];
      vec half[R][POINTS], d[R], t[POINTS];
      for (int j = 0; j < R; ++j) {
        for (int i = 0; i < R; ++i) d[i] = load(taps[i * R + j]);
        spread<R>(d, half[j]);
      }
      for (int i = 0; i < POINTS; ++i) {
        for (int j = 0; j < R; ++j) d[j] = half[j][i];
        spread<R>(d, t);
        for (int j = 0; j < POINTS; ++j) {
          float* out = to + ((r / STRIP * PAIRS + i * POINTS + j) * (long)STRIP + r % STRIP) * columns + c;
          if (n == LANES)
            store(out, t[j]);
          else
            for (int l = 0; l < n; ++l) out[l] = t[j][l];
        }
      }
    }
}

thread_local Scratch kernel_memory, point_memory, out_point_memory, sum_memory, panel_memory;

template <int M, int R>
void correlate(int images, int groups, int channels, int outputs, const float* x, int height, int width, int pad_h,
               int pad_w, const float* w, bool backward, const float* bias, float* y, int out_h, int out_w) {
  const int tiles_x = (out_w + M - 1) / M, tiles_y = (out_h + M - 1) / M, all_rows = images * tiles_y;
  /* groups of tiles, `length` across and `rows` down, whose points stay near a thread */
  const int parts = (tiles_x + LONGEST / 2 - 1) / (LONGEST / 2);
  const int length = min(tiles_x, ((tiles_x + parts - 1) / parts + LANES - 1) / LANES * LANES);
  const int rows = max(1, min(all_rows, max((int)WIDTH, FAST / PAIRS / channels) / length));
  const int across = (tiles_x + length - 1) / length, count = across * ((all_rows + rows - 1) / rows);
  const long pitch = (length * rows + LANES - 1) / LANES * LANES + LANES;
  const long distance = channels * pitch + LINE, out_distance = STRIP * pitch; /* no two pairs in one cache set */
  const int strips = (outputs + STRIP - 1) / STRIP;
  float* kernel = kernel_memory.get((size_t)strips * STRIP * PAIRS * channels);
  for (int group = 0; group < groups; ++group) {
    const float* wg = w + (long)group * outputs * channels * R * R;
    if (backward)
      spread_kernels<R>(wg, outputs, channels, R * R, (long)outputs * R * R, true, kernel);
    else
      spread_kernels<R>(wg, outputs, channels, (long)channels * R * R, R * R, false, kernel);
    /* many groups: one for a thread; few: the threads share each */
#pragma omp parallel for schedule(dynamic) if (count >= 8 * max_threads())
    for (int task = 0; task < count; ++task) {
      const int first_row = task / across * rows, end_row = min(all_rows, first_row + rows);
      const int column = task % across * length, wide = min(length, tiles_x - column);
      const int tiles = ((end_row - first_row) * wide + LANES - 1) / LANES * LANES;
      float* points = point_memory.get(PAIRS * distance + WIDTH);
#pragma omp parallel for schedule(static)
      for (int c = 0; c < channels; ++c)
        for (int row = first_row; row < end_row; ++row) {
          const long plane = ((long)row / tiles_y * groups + group) * channels + c;
          evaluate_tiles<M>({(float*)x + plane * height * width, height, width},
                            {row % tiles_y * M - pad_h, column * M - pad_w, wide},
                            points + c * pitch + (row - first_row) * wide, distance);
        }
#pragma omp parallel for schedule(dynamic)
      for (int strip = 0; strip < strips; ++strip) {
        const int first = strip * STRIP, strip_rows = min((int)STRIP, outputs - first);
        float* sums = sum_memory.get(PAIRS * out_distance);
        for (int pair = 0; pair < PAIRS; ++pair)
          for (int c = 0; c < channels; c += CHUNK)
            for (int t = 0; t < tiles; t += WIDTH)
              multiply(kernel + ((long)strip * PAIRS + pair) * STRIP * channels + c, channels, strip_rows,
                       points + pair * distance + c * pitch + t, pitch, min((int)CHUNK, channels - c),
                       min((int)WIDTH, tiles - t), {sums + pair * out_distance + t, pitch, c > 0, nullptr});
        for (int o = 0; o < strip_rows; ++o)
          for (int row = first_row; row < end_row; ++row) {
            const long plane = ((long)row / tiles_y * groups + group) * outputs + first + o;
            collect_tiles<M>(sums + o * pitch + (row - first_row) * wide, out_distance,
                             bias ? bias[group * outputs + first + o] : 0.0f, {y + plane * out_h * out_w, out_h, out_w},
                             {row % tiles_y * M, column * M, wide});
          }
      }
    }
  }
}

/* dw (kernels of R x R) += the sums of their products, of one row of kernels: from (pair, column) */
template <int R>
void collect_kernels(const float* from, long distance, int columns, float* dw) {
  for (int c = 0; c < columns; c += LANES) {
    const int n = min((int)LANES, columns - c);
    vec half[R][POINTS], m[POINTS], y[R];
    for (int j = 0; j < POINTS; ++j) {
      for (int i = 0; i < POINTS; ++i) m[i] = load_first(from + (i * POINTS + j) * distance + c, n);
      collect<R>(m, y);
      for (int i = 0; i < R; ++i) half[i][j] = y[i];
    }
    float taps[R * R][LANES];
    for (int i = 0; i < R; ++i) {
      collect<R>(half[i], y);
      for (int j = 0; j < R; ++j) store(taps[i * R + j], y[j]);
    }
    for (int l = 0; l < n; ++l, dw += R * R)
      for (int k = 0; k < R * R; ++k) dw[k] += taps[k][l];
  }
}

template <int M, int R>
void backward_weight(int images, int groups, int channels, int outputs, const float* x, int height, int width,
                     int pad_h, int pad_w, const float* dy, int out_h, int out_w, float* dw) {
  const int tiles_x = (out_w + M - 1) / M, tiles_y = (out_h + M - 1) / M;
  const int across = (tiles_x + LONGEST - 1) / LONGEST, length = (tiles_x + across - 1) / across;
  const int rows = images * tiles_y * across; /* of tiles; what they have beyond the image is zero */
  const int together = max(1, min((int)CHUNK, (int)TOGETHER / PAIRS / (channels + outputs)) / length);
  const long pitch = (long)together * length + 2 * LANES, distance = channels * pitch + LINE;
  const long out_distance = outputs * pitch + LINE, sum_distance = (long)outputs * channels + LINE;
  float* points = point_memory.get(PAIRS * distance);
  float* out_points = out_point_memory.get(PAIRS * out_distance);
  float* sums = sum_memory.get(PAIRS * sum_distance);
  for (int group = 0; group < groups; ++group) {
    for (int first = 0; first < rows; first += together) {
      const int count = min(together, rows - first), tiles = count * length;
#pragma omp parallel for schedule(dynamic)
      for (int c = 0; c < channels + outputs; ++c)
        for (int r = 0; r < count; ++r) {
          const int row = first + r, image = row / across / tiles_y;
          TileRow at = {row / across % tiles_y * M, row % across * length * M, length};
          if (c < outputs) {
            const float* plane = dy + (((long)image * groups + group) * outputs + c) * out_h * out_w;
            spread_tiles<M>({(float*)plane, out_h, out_w}, at, out_points + c * pitch + r * length, out_distance);
          } else {
            const float* plane = x + (((long)image * groups + group) * channels + c - outputs) * height * width;
            at.y -= pad_h, at.x -= pad_w;
            evaluate_tiles<M>({(float*)plane, height, width}, at, points + (c - outputs) * pitch + r * length,
                              distance);
          }
        }
      const int panels = (channels + WIDTH - 1) / WIDTH;
#pragma omp parallel for schedule(dynamic)
      for (int job = 0; job < PAIRS * panels; ++job) {
        const int pair = job / panels, c = job % panels * WIDTH, wide = min((int)WIDTH, channels - c);
        for (int t = 0; t < tiles; t += CHUNK) {
          const int deep = min((int)CHUNK, tiles - t);
          float* panel = panel_memory.get(CHUNK * WIDTH);
          transpose(points + pair * distance + c * pitch + t, pitch, wide, deep, panel, WIDTH);
          multiply(out_points + pair * out_distance + t, pitch, outputs, panel, WIDTH, deep, wide,
                   {sums + pair * sum_distance + c, channels, first + t > 0, nullptr});
        }
      }
    }
#pragma omp parallel for
    for (int o = 0; o < outputs; ++o)
      collect_kernels<R>(sums + (long)o * channels, sum_distance, channels,
                         dw + ((long)group * outputs + o) * channels * R * R);
  }
}

}  // namespace

KERNEL(winograd_forward)(const int* geometry, const float* x, const float* w, const float* bias, float* y) {
  const Geometry& g = *(const Geometry*)geometry;
  const int channels = g.channels / g.groups, outputs = g.outputs / g.groups;
  (g.kernel_h == 3 ? correlate<4, 3> : correlate<2, 5>)(g.images, g.groups, channels, outputs, x, g.height, g.width,
                                                        g.pad_h, g.pad_w, w, false, bias, y, g.out_h, g.out_w);
}

KERNEL(winograd_backward_data)(const int* geometry, const float* dy, const float* w, float* dx) {
  const Geometry& g = *(const Geometry*)geometry;
  const int channels = g.channels / g.groups, outputs = g.outputs / g.groups;
  (g.kernel_h == 3 ? correlate<4, 3> : correlate<2, 5>)(g.images, g.groups, outputs, channels, dy, g.out_h, g.out_w,
                                                        g.kernel_h - 1 - g.pad_h, g.kernel_w - 1 - g.pad_w, w, true,
                                                        nullptr, dx, g.height, g.width);
}

KERNEL(winograd_backward_weight)(const int* geometry, const float* x, const float* dy, float* dw) {
  const Geometry& g = *(const Geometry*)geometry;
  const int channels = g.channels / g.groups, outputs = g.outputs / g.groups;
  (g.kernel_h == 3 ? backward_weight<4, 3> : backward_weight<2, 5>)(g.images, g.groups, channels, outputs, x, g.height,
                                                                    g.width, g.pad_h, g.pad_w, dy, g.out_h, g.out_w,
                                                                    dw);
}
