/* The bias of InnerProduct and Embed: y and dy are `rows` rows of `channels` numbers.  Source: inner_product_layer.cpp. */
#include "relu.h"

/* y += bias, then the ReLU that follows, if `rectified` */
KERNEL(bias_rows)(const int n, const int rows, const int channels, const float* bias, const int rectified,
                  const float negative_slope, float* y) {
  PLANE_LOOP(r, c, rows, channels) {
    y[r * channels + c] = output(y[r * channels + c] + bias[c], rectified, negative_slope);
  }
}

/* db[c] += the sum of column c, from the first row to the last; n: columns, or blocks of COLUMNS of them on a CPU */
KERNEL(bias_gradient)(const int n, const int rows, const int channels, const float* dy, float* db) {
#if GATHER
  KERNEL_LOOP(c, channels) {
    float sum = 0.0f;
#pragma unroll 8 /* so many loads are under way at once */
    for (int r = 0; r < rows; ++r) sum += dy[r * channels + c];
    db[c] += sum;
  }
#else
  enum { COLUMNS = 64 };
  KERNEL_LOOP(block, (channels + COLUMNS - 1) / COLUMNS) {
    const int first = block * COLUMNS, width = min(channels - first, (int)COLUMNS);
    float sums[COLUMNS] = {};
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < width; ++c) sums[c] += dy[r * channels + first + c];
    for (int c = 0; c < width; ++c) db[first + c] += sums[c];
  }
#endif
}
