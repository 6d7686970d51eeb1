/* Pooling of planes (height, width) to (out_h, out_w), as Caffe's pooling_layer.cu.  A mask holds, for every output,
   the index h * width + w of its winner, or -1 where nothing wins (a window without a number above -FLT_MAX). */

/* outputs first..last-1 of row oh of plane p: a whole row for a CPU thread, one output for a GPU thread */
#if GATHER
#define ROW_LOOP(p, oh, first, last, planes, out_h, out_w)                                             \
  PLANE_LOOP(p, k_, planes, (out_h) * (out_w))                                                         \
  for (int oh = k_ / (out_w), first = k_ % (out_w), last = first + 1, once_ = 1; once_; once_ = 0)
#else
#define ROW_LOOP(p, oh, first, last, planes, out_h, out_w) \
  PLANE_LOOP(p, oh, planes, out_h) for (int first = 0, last = (out_w), once_ = 1; once_; once_ = 0)
#endif

/* `count` windows of K x K cells that lie wholly inside, `S` cells apart: constants that the compiler vectorises */
template <int K, int S>
DEVICE void max_inside(const float* __restrict__ plane, const int corner, const int width, const int count,
                       float* __restrict__ y, int* __restrict__ mask) {
  for (int o = 0; o < count; ++o) {
    float best = -FLT_MAX;
    int at = -1;
    for (int i = 0; i < K; ++i)
      for (int j = 0; j < K; ++j) {
        const int k = corner + i * width + o * S + j;
        at = plane[k] > best ? k : at;
        best = plane[k] > best ? plane[k] : best;
      }
    y[o] = best;
    if (mask) mask[o] = at;
  }
}

/* the first maximum wins, as everywhere in Caffe */
KERNEL(max_pool_forward)(const int n, const int planes, const float* x, const int height, const int width,
                         const int out_h, const int out_w, const int kernel_h, const int kernel_w, const int stride_h,
                         const int stride_w, const int pad_h, const int pad_w, float* y, int* mask) {
  ROW_LOOP(p, oh, first, last, planes, out_h, out_w) {
    const float* plane = x + p * height * width;
    const int out = (p * out_h + oh) * out_w;
    const int h0 = max(oh * stride_h - pad_h, 0), h1 = min(oh * stride_h - pad_h + kernel_h, height);
    const bool whole = kernel_h == kernel_w && h1 - h0 == kernel_h;
    const bool two = whole && kernel_w == 2 && stride_w == 2, three = whole && kernel_w == 3 && stride_w == 2;
    const bool dense = whole && kernel_w == 3 && stride_w == 1;
    for (int ow = first; ow < last; ++ow) {
      const int start = ow * stride_w - pad_w;
      if ((two || three || dense) && start >= 0 && start + kernel_w <= width) {
        const int count = min((width - kernel_w - start) / stride_w + 1, last - ow), corner = h0 * width + start;
        int* winners = mask ? mask + out + ow : mask;
        if (two) max_inside<2, 2>(plane, corner, width, count, y + out + ow, winners);
        if (three) max_inside<3, 2>(plane, corner, width, count, y + out + ow, winners);
        if (dense) max_inside<3, 1>(plane, corner, width, count, y + out + ow, winners);
        ow += count - 1;
        continue;
      }
      const int w0 = max(start, 0), w1 = min(start + kernel_w, width);
      float best = -FLT_MAX;
      int at = -1;
      for (int h = h0; h < h1; ++h)
        for (int w = w0; w < w1; ++w) {
          const int k = h * width + w;
          at = plane[k] > best ? k : at;
          best = plane[k] > best ? plane[k] : best;
        }
      y[out + ow] = best;
      if (mask) mask[out + ow] = at;
    }
  }
}

/* from a mask: for max and stochastic pooling */
KERNEL(max_pool_backward)(const int n, const int planes, const float* dy, const int* mask, const int height,
                          const int width, const int out_h, const int out_w, const int kernel_h, const int kernel_w,
                          const int stride_h, const int stride_w, const int pad_h, const int pad_w, float* dx) {
  const int in = height * width, out = out_h * out_w;
#if GATHER
  if (kernel_h == stride_h && kernel_w == stride_w && pad_h == 0 && pad_w == 0 && out_h * stride_h >= height &&
      out_w * stride_w >= width) { /* each cell is of one window */
    PLANE_LOOP(p, o, planes, out) {
      const int h0 = o / out_w * stride_h, w0 = o % out_w * stride_w, winner = mask[p * out + o];
      const float gradient = 0.0f + dy[p * out + o]; /* no -0, as in a sum */
      for (int h = h0; h < min(h0 + kernel_h, height); ++h)
        for (int w = w0; w < min(w0 + kernel_w, width); ++w)
          dx[p * in + h * width + w] = h * width + w == winner ? gradient : 0.0f;
    }
    return;
  }
  PLANE_LOOP(p, k, planes, in) {
    const int h = k / width + pad_h, w = k % width + pad_w;
    const int a0 = h < kernel_h ? 0 : (h - kernel_h) / stride_h + 1, a1 = min(h / stride_h + 1, out_h);
    const int b0 = w < kernel_w ? 0 : (w - kernel_w) / stride_w + 1, b1 = min(w / stride_w + 1, out_w);
    float sum = 0.0f;
    for (int a = a0; a < a1; ++a)
      for (int b = b0; b < b1; ++b)
        if (mask[p * out + a * out_w + b] == k) sum += dy[p * out + a * out_w + b];
    dx[p * in + k] = sum;
  }
#else
  KERNEL_LOOP(p, planes) {
    float* plane = dx + p * in;
    for (int k = 0; k < in; ++k) plane[k] = 0.0f;
    for (int o = p * out; o < (p + 1) * out; ++o)
      if (mask[o] >= 0) plane[mask[o]] += dy[o];
  }
#endif
}

/* the part of window (oh, ow) that lies in the image, and by how many cells its sum is divided: those of the padded
   image, which ends at height + pad_h, not at height + 2 pad_h */
struct MeanWindow { int h0, h1, w0, w1; float cells; };
DEVICE MeanWindow mean_window(const int oh, const int ow, const int height, const int width, const int kernel_h,
                              const int kernel_w, const int stride_h, const int stride_w, const int pad_h,
                              const int pad_w) {
  const int h = oh * stride_h - pad_h, w = ow * stride_w - pad_w;
  const int h_end = min(h + kernel_h, height + pad_h), w_end = min(w + kernel_w, width + pad_w);
  MeanWindow window;
  window.h0 = max(h, 0), window.h1 = min(h_end, height);
  window.w0 = max(w, 0), window.w1 = min(w_end, width);
  window.cells = (float)((h_end - h) * (w_end - w));
  return window;
}

KERNEL(mean_pool_forward)(const int n, const int planes, const float* x, const int height, const int width,
                          const int out_h, const int out_w, const int kernel_h, const int kernel_w, const int stride_h,
                          const int stride_w, const int pad_h, const int pad_w, float* y) {
  ROW_LOOP(p, oh, first, last, planes, out_h, out_w) {
    const float* plane = x + p * height * width;
    for (int ow = first; ow < last; ++ow) {
      const MeanWindow window =
          mean_window(oh, ow, height, width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w);
      float sum = 0.0f;
      for (int h = window.h0; h < window.h1; ++h)
        for (int w = window.w0; w < window.w1; ++w) sum += plane[h * width + w];
      y[(p * out_h + oh) * out_w + ow] = sum / window.cells;
    }
  }
}

KERNEL(mean_pool_backward)(const int n, const int planes, const float* dy, const int height, const int width,
                           const int out_h, const int out_w, const int kernel_h, const int kernel_w, const int stride_h,
                           const int stride_w, const int pad_h, const int pad_w, float* dx) {
  const int in = height * width, out = out_h * out_w;
#if GATHER
  PLANE_LOOP(p, k, planes, in) {
    const int h = k / width + pad_h, w = k % width + pad_w;
    const int a0 = h < kernel_h ? 0 : (h - kernel_h) / stride_h + 1, a1 = min(h / stride_h + 1, out_h);
    const int b0 = w < kernel_w ? 0 : (w - kernel_w) / stride_w + 1, b1 = min(w / stride_w + 1, out_w);
    float sum = 0.0f;
    for (int a = a0; a < a1; ++a)
      for (int b = b0; b < b1; ++b)
        sum += dy[p * out + a * out_w + b] /
               mean_window(a, b, height, width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w).cells;
    dx[p * in + k] = sum;
  }
#else
  KERNEL_LOOP(p, planes) {
    float* plane = dx + p * in;
    for (int k = 0; k < in; ++k) plane[k] = 0.0f;
    for (int oh = 0; oh < out_h; ++oh)
      for (int ow = 0; ow < out_w; ++ow) {
        const MeanWindow window =
            mean_window(oh, ow, height, width, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w);
        const float share = dy[p * out + oh * out_w + ow] / window.cells;
        for (int h = window.h0; h < window.h1; ++h)
          for (int w = window.w0; w < window.w1; ++w) plane[h * width + w] += share;
      }
  }
#endif
}

/* training: a cell wins with a probability proportional to its value; `chance` holds a number from [0, 1) per output */
KERNEL(stochastic_pool_train)(const int n, const int planes, const float* x, const float* chance, const int height,
                              const int width, const int out_h, const int out_w, const int kernel_h,
                              const int kernel_w, const int stride_h, const int stride_w, float* y, int* mask) {
  ROW_LOOP(p, oh, first, last, planes, out_h, out_w) {
    const float* plane = x + p * height * width;
    const int h0 = oh * stride_h, h1 = min(h0 + kernel_h, height);
    for (int ow = first; ow < last; ++ow) {
      const int w0 = ow * stride_w, w1 = min(w0 + kernel_w, width), out = (p * out_h + oh) * out_w + ow;
      float total = 0.0f, reached = 0.0f;
      for (int h = h0; h < h1; ++h)
        for (int w = w0; w < w1; ++w) total += plane[h * width + w];
      const float threshold = chance[out] * total;
      int at = -1; /* rounding may keep the running sum below the threshold: then the last cell wins */
      for (int h = h0; h < h1; ++h)
        for (int w = w0; w < w1; ++w) {
          if (at >= 0 && reached >= threshold) continue;
          at = h * width + w;
          reached += plane[at];
        }
      y[out] = at < 0 ? 0.0f : plane[at]; /* a stride wider than the kernel may put a window outside */
      mask[out] = at;
    }
  }
}

/* testing: the mean of the values, weighted by themselves */
KERNEL(stochastic_pool_test)(const int n, const int planes, const float* x, const int height, const int width,
                             const int out_h, const int out_w, const int kernel_h, const int kernel_w,
                             const int stride_h, const int stride_w, float* y) {
  ROW_LOOP(p, oh, first, last, planes, out_h, out_w) {
    const float* plane = x + p * height * width;
    const int h0 = oh * stride_h, h1 = min(h0 + kernel_h, height);
    for (int ow = first; ow < last; ++ow) {
      const int w0 = ow * stride_w, w1 = min(w0 + kernel_w, width);
      float total = FLT_MIN, squares = 0.0f;
      for (int h = h0; h < h1; ++h)
        for (int w = w0; w < w1; ++w) {
          total += plane[h * width + w];
          squares += plane[h * width + w] * plane[h * width + w];
        }
      y[(p * out_h + oh) * out_w + ow] = squares / total;
    }
  }
}
