/* Blobs of one shape, element by element.  The output may be one of the inputs.  Source: eltwise_layer.cpp. */

KERNEL(scaled)(const int n, const float a, const float* x, float* out) {
  KERNEL_LOOP(i, n) out[i] = a * x[i];
}

KERNEL(weighted_sum)(const int n, const float a, const float* x, const float b, const float* y, float* out) {
  KERNEL_LOOP(i, n) out[i] = a * x[i] + b * y[i];
}

KERNEL(product)(const int n, const float* x, const float* y, float* out) {
  KERNEL_LOOP(i, n) out[i] = x[i] * y[i];
}

/* On a tie the second input wins. */
KERNEL(maximum)(const int n, const float* x, const float* y, float* out, int* winner) {
  KERNEL_LOOP(i, n) {
    winner[i] = x[i] > y[i] ? 0 : 1;
    out[i] = x[i] > y[i] ? x[i] : y[i];
  }
}

/* Input number `index` against the best so far; on a tie the earlier one stays. */
KERNEL(next_maximum)(const int n, const float* x, const int index, float* best, int* winner) {
  KERNEL_LOOP(i, n) {
    winner[i] = x[i] > best[i] ? index : winner[i];
    best[i] = x[i] > best[i] ? x[i] : best[i];
  }
}

KERNEL(maximum_backward)(const int n, const int* winner, const int index, const float* dy, float* dx) {
  KERNEL_LOOP(i, n) dx[i] = winner[i] == index ? dy[i] : 0.0f;
}
