/* Convolution with stride 1 by minimal filtering, in three steps around matrix products that a library does (Winograd;
   Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016).  M x M outputs of an R x R kernel,
   M + R = 7, are a tile; a tile of the image and the kernel are taken at 6 x 6 pairs of points, for each pair one matrix
   product sums over the channels, and the sums are brought back to outputs.  winograd.cc is
   the same for a CPU, in vectors and with products of its own. */
#include "relu.h"
#include "winograd_points.h"

/* w: (outputs, channels, R, R), each number of a group; u: (PAIRS, outputs, channels), or turned for a backward pass:
   kernels upside down, (PAIRS, groups, channels, outputs of a group) */
template <int R>
DEVICE void weights_at_points(const int n, const float* w, const int channels, const int outputs, const int turned,
                              float* u) {
  KERNEL_LOOP(i, n) {
    const int o = i / channels, c = i % channels;
    const int to = turned ? (o / outputs * channels + c) * outputs + o % outputs : i;
    float half[POINTS][R], g[R], t[POINTS];
#pragma unroll
    for (int col = 0; col < R; ++col) {
#pragma unroll
      for (int row = 0; row < R; ++row) {
        const int at = row * R + col;
        g[row] = w[i * (R * R) + (turned ? R * R - 1 - at : at)];
      }
      spread<R>(g, t);
#pragma unroll
      for (int p = 0; p < POINTS; ++p) half[p][col] = t[p];
    }
#pragma unroll
    for (int p = 0; p < POINTS; ++p) {
      spread<R>(half[p], t);
#pragma unroll
      for (int q = 0; q < POINTS; ++q) u[(p * POINTS + q) * n + to] = t[q];
    }
  }
}

/* x: (images, channels, height, width); v: (PAIRS, channels, tiles of all images); n: channels * tiles */
template <int M>
DEVICE void tiles_at_points(const int n, const float* x, const int channels, const int height, const int width,
                            const int pad_h, const int pad_w, const int down, const int across, const int tiles,
                            float* v) {
  KERNEL_LOOP(i, n) {
    const int c = i / tiles, tile = i % tiles, image = tile / (down * across), at = tile % (down * across);
    const int top = at / across * M - pad_h, left = at % across * M - pad_w;
    const float* plane = x + (image * channels + c) * (height * width);
    float half[POINTS][POINTS], d[POINTS], t[POINTS];
#pragma unroll
    for (int col = 0; col < POINTS; ++col) {
#pragma unroll
      for (int row = 0; row < POINTS; ++row) {
        const int h = top + row, w = left + col;
        d[row] = h >= 0 && h < height && w >= 0 && w < width ? plane[h * width + w] : 0.0f;
      }
      evaluate(d, t);
#pragma unroll
      for (int p = 0; p < POINTS; ++p) half[p][col] = t[p];
    }
#pragma unroll
    for (int p = 0; p < POINTS; ++p) {
      evaluate(half[p], t);
#pragma unroll
      for (int q = 0; q < POINTS; ++q) v[(p * POINTS + q) * n + i] = t[q];
    }
  }
}

/* m: (PAIRS, outputs, tiles of all images); y: (images, outputs, height, width); n: outputs * tiles; bias may be null;
   the ReLU that follows is done at once if `rectified` */
template <int M>
DEVICE void tiles_of_outputs(const int n, const float* m, const float* bias, const int rectified, const float slope,
                             const int outputs, const int height, const int width, const int down, const int across,
                             const int tiles, float* y) {
  KERNEL_LOOP(i, n) {
    const int o = i / tiles, tile = i % tiles, image = tile / (down * across), at = tile % (down * across);
    const int top = at / across * M, left = at % across * M;
    const float shift = bias ? bias[o] : 0.0f;
    float* plane = y + (image * outputs + o) * (height * width);
    float half[M][POINTS], d[POINTS], t[M];
#pragma unroll
    for (int q = 0; q < POINTS; ++q) {
#pragma unroll
      for (int p = 0; p < POINTS; ++p) d[p] = m[(p * POINTS + q) * n + i];
      collect<M>(d, t);
#pragma unroll
      for (int row = 0; row < M; ++row) half[row][q] = t[row];
    }
#pragma unroll
    for (int row = 0; row < M; ++row) {
      collect<M>(half[row], t);
#pragma unroll
      for (int col = 0; col < M; ++col)
        if (top + row < height && left + col < width)
          plane[(top + row) * width + left + col] = output(t[col] + shift, rectified, slope);
    }
  }
}

KERNEL(weights_3)(const int n, const float* w, const int channels, const int outputs, const int turned, float* u) {
  weights_at_points<3>(n, w, channels, outputs, turned, u);
}

KERNEL(weights_5)(const int n, const float* w, const int channels, const int outputs, const int turned, float* u) {
  weights_at_points<5>(n, w, channels, outputs, turned, u);
}

KERNEL(image_3)(const int n, const float* x, const int channels, const int height, const int width, const int pad_h,
                const int pad_w, const int down, const int across, const int tiles, float* v) {
  tiles_at_points<4>(n, x, channels, height, width, pad_h, pad_w, down, across, tiles, v);
}

KERNEL(image_5)(const int n, const float* x, const int channels, const int height, const int width, const int pad_h,
                const int pad_w, const int down, const int across, const int tiles, float* v) {
  tiles_at_points<2>(n, x, channels, height, width, pad_h, pad_w, down, across, tiles, v);
}

KERNEL(output_3)(const int n, const float* m, const float* bias, const int rectified, const float slope,
                 const int outputs, const int height, const int width, const int down, const int across,
                 const int tiles, float* y) {
  tiles_of_outputs<4>(n, m, bias, rectified, slope, outputs, height, width, down, across, tiles, y);
}

KERNEL(output_5)(const int n, const float* m, const float* bias, const int rectified, const float slope,
                 const int outputs, const int height, const int width, const int down, const int across,
                 const int tiles, float* y) {
  tiles_of_outputs<2>(n, m, bias, rectified, slope, outputs, height, width, down, across, tiles, y);
}
