/* BatchNorm, MVN and Normalize.  A blob is `planes` runs of `size` elements; plane p belongs to group p % groups, which
   has a mean and a deviation.  Sums are made per segment of a plane and added up in order: the same bits on any thread
   count. */

#define SUMS 8 /* running sums of a thread, so that a CPU adds vectors */

/* sum of (a - mean_a) * (b - mean_b), or of a - mean_a */
template <bool PRODUCT>
DEVICE double segment_sum(const float* a, const float mean_a, const float* b, const float mean_b, const int count) {
  double sums[SUMS] = {0.0};
  int k = 0;
  for (; k + SUMS <= count; k += SUMS)
    for (int j = 0; j < SUMS; ++j)
      sums[j] += (double)(a[k + j] - mean_a) * (PRODUCT ? (double)(b[k + j] - mean_b) : 1.0);
  for (; k < count; ++k) sums[0] += (double)(a[k] - mean_a) * (PRODUCT ? (double)(b[k] - mean_b) : 1.0);
  for (int j = 1; j < SUMS; ++j) sums[0] += sums[j];
  return sums[0];
}

/* sums over each segment of a plane; NULL for b leaves out the product, NULL for a mean is 0 */
KERNEL(segment_sums)(const int n, const int segments, const int segment, const int size, const int groups,
                     const float* a, const float* mean_a, const float* b, const float* mean_b, double* sums) {
  KERNEL_LOOP(i, n) {
    const int p = i / segments, start = i % segments * segment, count = min(segment, size - start);
    const int at = p * size + start, g = p % groups;
    const float from_a = mean_a ? mean_a[g] : 0.0f, from_b = mean_b ? mean_b[g] : 0.0f;
    sums[i] = b ? segment_sum<true>(a + at, from_a, b + at, from_b, count)
                : segment_sum<false>(a + at, from_a, NULL, 0.0f, count);
  }
}

/* y = (x - mean) / deviation */
KERNEL(standardize)(const int n, const int planes, const int size, const int groups, const float* x, const float* mean,
                    const float* deviation, float* y) {
  PLANE_LOOP(p, k, planes, size) {
    const int g = p % groups;
    y[p * size + k] = (x[p * size + k] - mean[g]) / deviation[g];
  }
}

/* dx = (dy - mean(dy) - mean(dy y) y) / deviation, where y = (x - shift) / scale */
KERNEL(standardize_backward)(const int n, const int planes, const int size, const int groups, const float* x,
                             const float* shift, const float* scale, const float* dy, const float* mean_dy,
                             const float* mean_dy_y, const float* deviation, float* dx) {
  PLANE_LOOP(p, k, planes, size) {
    const int g = p % groups;
    const float y = (x[p * size + k] - shift[g]) / scale[g];
    dx[p * size + k] = (dy[p * size + k] - mean_dy[g] - mean_dy_y[g] * y) / deviation[g];
  }
}

/* Normalize.  A norm belongs to an image, or (across_channels) to a position of an image. */

/* sum over the channels of a * b, for every position */
KERNEL(channel_sums)(const int n, const int channels, const int size, const float* a, const float* b, float* sums) {
  KERNEL_LOOP(i, n) {
    const int at = i / size * channels * size + i % size;
    float sum = 0.0f;
    for (int c = 0; c < channels; ++c) sum += a[at + c * size] * b[at + c * size];
    sums[i] = sum;
  }
}

/* y = scale * x / norm; scale has `scales` entries: one per channel, or one */
KERNEL(normalize_forward)(const int n, const int planes, const int size, const int channels, const int across_channels,
                          const int scales, const float* x, const float* norms, const float* scale, float* y) {
  PLANE_LOOP(p, k, planes, size) {
    const int image = p / channels;
    const float norm = norms[across_channels ? image * size + k : image];
    y[p * size + k] = x[p * size + k] / norm * scale[p % channels % scales];
  }
}

/* dx = scale / norm * (dy - x * sum(x dy) / norm^2): as in the SSD fork the sum has no scales in it, which is exact
   where all scales are equal */
KERNEL(normalize_backward)(const int n, const int planes, const int size, const int channels,
                           const int across_channels, const int scales, const float* x, const float* norms,
                           const float* dots, const float* scale, const float* dy, float* dx) {
  PLANE_LOOP(p, k, planes, size) {
    const int image = p / channels, q = across_channels ? image * size + k : image;
    const float norm = norms[q];
    dx[p * size + k] = (dy[p * size + k] - x[p * size + k] * dots[q] / norm / norm) / norm *
                       scale[p % channels % scales];
  }
}

/* sum of dy * x / norm over each plane: the gradient to the scale of its channel */
KERNEL(normalize_backward_scale)(const int planes, const int size, const int channels, const int across_channels,
                                 const float* x, const float* norms, const float* dy, double* sums) {
  KERNEL_LOOP(p, planes) {
    const int image = p / channels;
    double sum = 0.0;
    for (int k = 0; k < size; ++k)
      sum += (double)(dy[p * size + k] * x[p * size + k] / norms[across_channels ? image * size + k : image]);
    sums[p] = sum;
  }
}
