/* Layers with one number per channel: Scale, Bias, PReLU.  A blob is seen as `planes` runs of `size` elements, and the
   plane p belongs to channel p % channels.  x and y (dy and dx) may be the same memory.
   Source: scale_layer.cpp, bias_layer.cpp, prelu_layer.cpp. */

/* bias may be null */
KERNEL(scale_forward)(const int n, const float* x, const float* scale, const float* bias, const int planes,
                      const int channels, const int size, float* y) {
  PLANE_LOOP(p, k, planes, size) {
    const float shift = bias ? bias[p % channels] : 0.0f;
    y[p * size + k] = x[p * size + k] * scale[p % channels] + shift;
  }
}

KERNEL(bias_forward)(const int n, const float* x, const float* bias, const int planes, const int channels,
                     const int size, float* y) {
  PLANE_LOOP(p, k, planes, size) y[p * size + k] = x[p * size + k] + bias[p % channels];
}

KERNEL(prelu_forward)(const int n, const float* x, const float* slope, const int planes, const int channels,
                      const int size, float* y) {
  PLANE_LOOP(p, k, planes, size) {
    const float v = x[p * size + k], below = slope[p % channels];
    y[p * size + k] = v > 0.0f ? v : below * v;
  }
}

KERNEL(prelu_backward)(const int n, const float* x, const float* dy, const float* slope, const int planes,
                       const int channels, const int size, float* dx) {
  PLANE_LOOP(p, k, planes, size) {
    const float below = slope[p % channels];
    dx[p * size + k] = dy[p * size + k] * (x[p * size + k] > 0.0f ? 1.0f : below);
  }
}

/* sums[p][l] = sum of Term(dy, x) over the elements l, l + lanes, l + 2 lanes, ... of plane p: the order of additions,
   and so every bit, is the same on both machines. */
template <class Term>
DEVICE void lane_sums(const float* dy, const float* x, int planes, int size, int lanes, float* sums) {
#if GATHER
  KERNEL_LOOP(i, planes * lanes) {
    const int start = i / lanes * size;
    float sum = 0.0f;
    for (int k = i % lanes; k < size; k += lanes) sum += Term::of(dy[start + k], x[start + k]);
    sums[i] = sum;
  }
#else
  KERNEL_LOOP(p, planes) {
    float* lane = sums + p * lanes;
    for (int l = 0; l < lanes; ++l) lane[l] = 0.0f;
    for (int start = 0; start < size; start += lanes) {
      const int k = p * size + start, width = min(lanes, size - start);
      for (int l = 0; l < width; ++l) lane[l] += Term::of(dy[k + l], x[k + l]);
    }
  }
#endif
}

struct ScaleTerm {
  DEVICE float of(float dy, float x) { return dy * x; }
};
struct BiasTerm {
  DEVICE float of(float dy, float) { return dy; }
};
struct SlopeTerm {
  DEVICE float of(float dy, float x) { return dy * (x > 0.0f ? 0.0f : x); }
};

KERNEL(scale_sums)(const int n, const float* dy, const float* x, const int planes, const int size, const int lanes,
                   float* sums) {
  lane_sums<ScaleTerm>(dy, x, planes, size, lanes, sums);
}

KERNEL(bias_sums)(const int n, const float* dy, const float* x, const int planes, const int size, const int lanes,
                  float* sums) {
  lane_sums<BiasTerm>(dy, x, planes, size, lanes, sums);
}

KERNEL(slope_sums)(const int n, const float* dy, const float* x, const int planes, const int size, const int lanes,
                   float* sums) {
  lane_sums<SlopeTerm>(dy, x, planes, size, lanes, sums);
}
