/* Activations that almost every net runs on large blobs, and the mask of Dropout.  x and y (dy and dx) may be the same
   memory.  Source: relu_layer.cpp, dropout_layer.cpp; ReLU6 as in the MobileNet forks. */
#include "relu.h"

/* n: elements, in fours; a GPU thread has four loads under way at once */
KERNEL(relu_forward)(const int n, const int count, const float* x, const float negative_slope, float* y) {
#if GATHER
  KERNEL_LOOP(i, n) {
    float values[4];
    for (int k = 0; k < 4; ++k) values[k] = n * k < count - i ? x[n * k + i] : 0.0f;
    for (int k = 0; k < 4; ++k)
      if (n * k < count - i) y[n * k + i] = relu(values[k], negative_slope);
  }
#else
  KERNEL_LOOP(i, count) y[i] = relu(x[i], negative_slope);
#endif
}

KERNEL(relu_backward)(const int n, const float* x, const float* dy, const float negative_slope, float* dx) {
  KERNEL_LOOP(i, n) dx[i] = dy[i] * (x[i] > 0.0f ? 1.0f : negative_slope);
}

/* The last step of a convolution: y += bias, then the ReLU that follows, if `rectified`.  y: `planes` runs of `size`
   elements, plane p of channel p % channels.  n: 32 for every `part` elements of a plane. */
KERNEL(finish)(const int n, const int planes, const int channels, const int size, const int part, const float* bias,
               const int rectified, const float negative_slope, float* y) {
#ifdef __CUDACC__
  const int parts = (size - 1) / part + 1;
  WARP_LOOP(w, lane, planes * parts) {
    const int p = w / parts, start = w % parts * part, count = min(part, size - start);
    const float shift = bias[p % channels];
    float *to = y + p * size + start, values[4];
    for (int k = lane; k < count; k += 4 * WARP) {
#pragma unroll
      for (int j = 0; j < 4; ++j) values[j] = k + j * WARP < count ? to[k + j * WARP] : 0.0f;
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (k + j * WARP < count) to[k + j * WARP] = output(values[j] + shift, rectified, negative_slope);
    }
  }
#else
  KERNEL_LOOP(p, planes) {
    const float shift = bias[p % channels];
    for (int k = p * size; k < (p + 1) * size; ++k) y[k] = output(y[k] + shift, rectified, negative_slope);
  }
#endif
}

KERNEL(relu6_forward)(const int n, const float* x, float* y) {
  KERNEL_LOOP(i, n) y[i] = x[i] < 0.0f ? 0.0f : (x[i] > 6.0f ? 6.0f : x[i]);
}

KERNEL(relu6_backward)(const int n, const float* x, const float* dy, float* dx) {
  KERNEL_LOOP(i, n) dx[i] = x[i] > 0.0f && x[i] < 6.0f ? dy[i] : 0.0f;
}

/* Philox4x32-10: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (SC 2011). */
DEVICE void philox(unsigned* counter, unsigned key0, unsigned key1) {
  for (int round = 0; round < 10; ++round) {
    const unsigned long long a = 0xD2511F53ULL * counter[0], b = 0xCD9E8D57ULL * counter[2];
    counter[0] = (unsigned)(b >> 32) ^ counter[1] ^ key0;
    counter[1] = (unsigned)b;
    counter[2] = (unsigned)(a >> 32) ^ counter[3] ^ key1;
    counter[3] = (unsigned)a;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

/* mask[4 i + j] = 1 where word j of the block with counter (i, pass) is at least drop / 2^24, else 0. */
KERNEL(dropout_mask)(const int n, const unsigned key0, const unsigned key1, const unsigned pass0, const unsigned pass1,
                     const unsigned drop, unsigned char* mask) {
  KERNEL_LOOP(i, n) {
    unsigned words[4] = {(unsigned)i, pass0, pass1, 0};
    philox(words, key0, key1);
    for (int j = 0; j < 4; ++j) mask[4 * i + j] = (words[j] >> 8) >= drop;
  }
}

KERNEL(dropout)(const int n, const float* x, const unsigned char* mask, const float scale, float* y) {
  KERNEL_LOOP(i, n) y[i] = x[i] * (mask[i] * scale);
}
