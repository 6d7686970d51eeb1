/* Local response normalisation, as Caffe's lrn_layer.cpp: y = x scale^-beta, scale = k + alpha sum x^2 over a window
   across channels or within the plane.  Nothing is kept for the backward pass: the scale is cheaper computed again. */

/* so many neighbours of one plane are computed together: what a CPU vectorises, and one per GPU thread */
#if GATHER
#define RUN 1
#else
#define RUN 256
#endif

/* by two square roots for AlexNet's beta: IEEE operations only, vectorised, the same bits on every machine */
DEVICE float negative_power(const float scale, const float beta) {
  return beta == 0.75f ? 1.0f / (sqrtf(scale) * sqrtf(sqrtf(scale))) : powf(scale, -beta);
}

/* sums of values (or of their squares) over the windows around elements first..first+count-1 of plane p */
template <bool SQUARED>
DEVICE void window_sums(const float* __restrict__ x, const int p, const int channels, const int height, const int width,
                        const int across, const int half, const int first, const int count, float* __restrict__ sums) {
  for (int i = 0; i < count; ++i) sums[i] = 0.0f;
  if (across) {
    const int c = p % channels;
    for (int other = max(c - half, 0); other <= min(c + half, channels - 1); ++other) {
      const float* values = x + (p - c + other) * height * width + first;
      for (int i = 0; i < count; ++i) sums[i] += SQUARED ? values[i] * values[i] : values[i];
    }
  } else {
    const float* plane = x + p * height * width;
    for (int i = 0; i < count; ++i) {
      const int h = (first + i) / width, w = (first + i) % width;
      for (int a = max(h - half, 0); a <= min(h + half, height - 1); ++a)
        for (int b = max(w - half, 0); b <= min(w + half, width - 1); ++b)
          sums[i] += SQUARED ? plane[a * width + b] * plane[a * width + b] : plane[a * width + b];
    }
  }
}

KERNEL(lrn_forward)(const int n, const int planes, const float* x, const int channels, const int height,
                    const int width, const int across, const int half, const float alpha, const float beta,
                    const float k, float* y) {
  const int size = height * width;
  PLANE_LOOP(p, run, planes, (size - 1) / RUN + 1) {
    const int first = run * RUN, count = min(size - first, RUN), at = p * size + first;
    float sums[RUN];
    window_sums<true>(x, p, channels, height, width, across, half, first, count, sums);
    for (int i = 0; i < count; ++i) y[at + i] = x[at + i] * negative_power(k + alpha * sums[i], beta);
  }
}

/* dx = dy scale^-beta - 2 alpha beta x sum(dy y / scale): here its first term, and the ratios dy y / scale */
KERNEL(lrn_backward_ratios)(const int n, const int planes, const float* x, const float* dy, const int channels,
                            const int height, const int width, const int across, const int half, const float alpha,
                            const float beta, const float k, float* ratios, float* dx) {
  const int size = height * width;
  PLANE_LOOP(p, run, planes, (size - 1) / RUN + 1) {
    const int first = run * RUN, count = min(size - first, RUN), at = p * size + first;
    float sums[RUN];
    window_sums<true>(x, p, channels, height, width, across, half, first, count, sums);
    for (int i = 0; i < count; ++i) {
      const float scale = k + alpha * sums[i];
      dx[at + i] = dy[at + i] * negative_power(scale, beta);
      ratios[at + i] = dx[at + i] * x[at + i] / scale;
    }
  }
}

/* and its second */
KERNEL(lrn_backward_windows)(const int n, const int planes, const float* x, const float* ratios, const int channels,
                             const int height, const int width, const int across, const int half,
                             const float two_alpha_beta, float* dx) {
  const int size = height * width;
  PLANE_LOOP(p, run, planes, (size - 1) / RUN + 1) {
    const int first = run * RUN, count = min(size - first, RUN), at = p * size + first;
    float sums[RUN];
    window_sums<false>(ratios, p, channels, height, width, across, half, first, count, sums);
    for (int i = 0; i < count; ++i) dx[at + i] -= two_alpha_beta * x[at + i] * sums[i];
  }
}
