/* Local response normalisation, as Caffe's lrn_layer.cpp: y = x scale^-beta, scale = k + alpha sum x^2 over a window
   across channels or within the plane.  Nothing is kept for the backward pass: the scale is cheaper computed again. */

/* so many neighbours of one plane are computed together: what a CPU vectorises, and one per GPU thread */
#if GATHER
#define RUN 1
#else
#define RUN 256
#include <vector>
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

/* dx = dy scale^-beta - 2 alpha beta x sum(dy y / scale): its first term, and the ratios dy y / scale, from the sums of
   squares */
DEVICE void first_terms(const float* x, const float* dy, const float* sums, const int count, const float alpha,
                        const float beta, const float k, float* ratios, float* dx) {
  for (int i = 0; i < count; ++i) {
    const float scale = k + alpha * sums[i];
    dx[i] = dy[i] * negative_power(scale, beta);
    ratios[i] = dx[i] * x[i] / scale;
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

KERNEL(lrn_backward_ratios)(const int n, const int planes, const float* x, const float* dy, const int channels,
                            const int height, const int width, const int across, const int half, const float alpha,
                            const float beta, const float k, float* ratios, float* dx) {
  const int size = height * width;
  PLANE_LOOP(p, run, planes, (size - 1) / RUN + 1) {
    const int first = run * RUN, count = min(size - first, RUN), at = p * size + first;
    float sums[RUN];
    window_sums<true>(x, p, channels, height, width, across, half, first, count, sums);
    first_terms(x + at, dy + at, sums, count, alpha, beta, k, ratios + at, dx + at);
  }
}

/* and dx's second */
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

/* Across channels, for windows of 3 or 5: the same sums in the same order, and so the same bits.  On a GPU a thread walks
   along `SPAN` channels of a pixel with the window's numbers in registers, so that each is read once; on a CPU it does a
   run of pixels in all channels, whose ratios stay in the cache. */
#if GATHER
#define SPAN 32

/* the numbers move on by one, and the next comes in */
template <int COUNT>
DEVICE void shift(float (&window)[COUNT], const float next) {
#pragma unroll
  for (int j = 0; j + 1 < COUNT; ++j) window[j] = window[j + 1];
  window[COUNT - 1] = next;
}

template <bool SQUARED, int COUNT>
DEVICE float sum_of(const float (&window)[COUNT]) {
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < COUNT; ++j) sum += SQUARED ? window[j] * window[j] : window[j];
  return sum;
}

/* of channel c, 0 where there is no such; read a channel ahead of the sums, which so wait less */
DEVICE float number(const float* x, const int c, const int channels, const int area) {
  return c >= 0 && c < channels ? x[c * area] : 0.0f;
}

/* x, y: one pixel's channels, `area` apart, of which first..end-1 are this thread's */
template <int HALF>
DEVICE void walk_forward(const float* x, const int first, const int end, const int channels, const int area,
                         const float alpha, const float beta, const float k, float* y) {
  float near[2 * HALF + 1] = {}; /* x of the channels c - HALF to c + HALF */
  float ahead = number(x, first - HALF, channels, area);
  for (int c = first - 2 * HALF; c < end; ++c) {
    shift(near, ahead);
    ahead = number(x, c + HALF + 1, channels, area);
    if (c >= first) y[c * area] = near[HALF] * negative_power(k + alpha * sum_of<true>(near), beta);
  }
}

/* as the two kernels above, without ratios in memory: at channel e the scale is known, and the window around c is full */
template <int HALF>
DEVICE void walk_backward(const float* x, const float* dy, const int first, const int end, const int channels,
                          const int area, const float alpha, const float beta, const float k,
                          const float two_alpha_beta, float* dx) {
  float near[2 * HALF + 1] = {};   /* x of e - HALF to e + HALF */
  float ratios[2 * HALF + 1] = {}; /* of e - 2 HALF to e */
  float terms[HALF + 1] = {};      /* dx's first, of c = e - HALF to e */
  float ahead = number(x, first - 2 * HALF, channels, area), dy_ahead = number(dy, first - 3 * HALF, channels, area);
  for (int e = first - 3 * HALF; e < end + HALF; ++e) {
    const int c = e - HALF;
    const float dy_e = dy_ahead;
    shift(near, ahead);
    ahead = number(x, e + HALF + 1, channels, area);
    dy_ahead = number(dy, e + 1, channels, area);
    float term = 0.0f, ratio = 0.0f;
    if (e >= max(first - HALF, 0) && e < channels) {
      const float scale = k + alpha * sum_of<true>(near);
      term = dy_e * negative_power(scale, beta);
      ratio = term * near[HALF] / scale;
    }
    shift(terms, term);
    shift(ratios, ratio);
    if (c >= first) dx[c * area] = terms[0] - two_alpha_beta * near[0] * sum_of<false>(ratios);
  }
}

#endif

/* pixels: of all images; n: pixels times runs of SPAN channels */
KERNEL(lrn_forward_across)(const int n, const int pixels, const float* x, const int channels, const int area,
                           const int half, const float alpha, const float beta, const float k, float* y) {
#if GATHER
  KERNEL_LOOP(i, n) {
    const int pixel = i % pixels, first = i / pixels * SPAN, end = min(first + SPAN, channels);
    const int at = pixel / area * channels * area + pixel % area;
    if (half == 1)
      walk_forward<1>(x + at, first, end, channels, area, alpha, beta, k, y + at);
    else
      walk_forward<2>(x + at, first, end, channels, area, alpha, beta, k, y + at);
  }
#else
  lrn_forward(n, area ? pixels / area * channels : 0, x, channels, area, 1, 1, half, alpha, beta, k, y);
#endif
}

KERNEL(lrn_backward_across)(const int n, const int pixels, const float* x, const float* dy, const int channels,
                            const int area, const int half, const float alpha, const float beta, const float k,
                            const float two_alpha_beta, float* dx) {
#if GATHER
  KERNEL_LOOP(i, n) {
    const int pixel = i % pixels, first = i / pixels * SPAN, end = min(first + SPAN, channels);
    const int at = pixel / area * channels * area + pixel % area;
    if (half == 1)
      walk_backward<1>(x + at, dy + at, first, end, channels, area, alpha, beta, k, two_alpha_beta, dx + at);
    else
      walk_backward<2>(x + at, dy + at, first, end, channels, area, alpha, beta, k, two_alpha_beta, dx + at);
  }
#else
  const int runs = (area - 1) / RUN + 1;
  KERNEL_LOOP(task, area ? pixels / area * runs : 0) {
    const int first = task % runs * RUN, count = min(area - first, RUN), image = task / runs;
    std::vector<float> ratios(channels * count);
    float sums[RUN];
    for (int c = 0; c < channels; ++c) {
      const int p = image * channels + c, at = p * area + first;
      window_sums<true>(x, p, channels, area, 1, 1, half, first, count, sums);
      first_terms(x + at, dy + at, sums, count, alpha, beta, k, &ratios[c * count], dx + at);
    }
    for (int c = 0; c < channels; ++c) {
      const int at = (image * channels + c) * area + first;
      window_sums<false>(ratios.data(), c, channels, count, 1, 1, half, 0, count, sums);
      for (int i = 0; i < count; ++i) dx[at + i] -= two_alpha_beta * x[at + i] * sums[i];
    }
  }
#endif
}
