/* Volumes (channels, depth, height, width) to columns (channels * kernel, out) and the sum back, for up to three axes:
   the way of the GPU without cuDNN, and of 3-D on either machine.  With fewer axes the leading ones are 1. */

KERNEL(im2col)(const int n, const float* x, float* columns, const int depth, const int height, const int width,
               const int kernel_d, const int kernel_h, const int kernel_w, const int stride_d, const int stride_h,
               const int stride_w, const int pad_d, const int pad_h, const int pad_w, const int dilation_d,
               const int dilation_h, const int dilation_w, const int out_d, const int out_h, const int out_w) {
  const int out = out_d * out_h * out_w, kernel = kernel_d * kernel_h * kernel_w;
  PLANE_LOOP(row, u, n / out, out) {
    const int c = row / kernel, tap = row % kernel;
    const int z = u / (out_h * out_w) * stride_d - pad_d + tap / (kernel_h * kernel_w) * dilation_d;
    const int y = u / out_w % out_h * stride_h - pad_h + tap / kernel_w % kernel_h * dilation_h;
    const int i = u % out_w * stride_w - pad_w + tap % kernel_w * dilation_w;
    const bool inside = z >= 0 && z < depth && y >= 0 && y < height && i >= 0 && i < width;
    columns[(long long)row * out + u] = inside ? x[(((long long)c * depth + z) * height + y) * width + i] : 0.0f;
  }
}

/* overwrites x; gathers, so that no two threads add to one number */
KERNEL(col2im)(const int n, const float* columns, float* x, const int depth, const int height, const int width,
               const int kernel_d, const int kernel_h, const int kernel_w, const int stride_d, const int stride_h,
               const int stride_w, const int pad_d, const int pad_h, const int pad_w, const int dilation_d,
               const int dilation_h, const int dilation_w, const int out_d, const int out_h, const int out_w) {
  const int kernel = kernel_d * kernel_h * kernel_w, volume = depth * height * width;
  const long long out = (long long)out_d * out_h * out_w;
  PLANE_LOOP(c, k, n / volume, volume) {
    const int z = k / (height * width) + pad_d, y = k / width % height + pad_h, i = k % width + pad_w;
    float sum = 0;
    for (int tap = 0; tap < kernel; ++tap) {
      const int a = z - tap / (kernel_h * kernel_w) * dilation_d, b = y - tap / kernel_w % kernel_h * dilation_h;
      const int e = i - tap % kernel_w * dilation_w;
      if (a < 0 || b < 0 || e < 0 || a % stride_d || b % stride_h || e % stride_w) continue;
      const int oz = a / stride_d, oy = b / stride_h, ox = e / stride_w;
      if (oz < out_d && oy < out_h && ox < out_w)
        sum += columns[((long long)c * kernel + tap) * out + ((long long)oz * out_h + oy) * out_w + ox];
    }
    x[(long long)c * volume + k] = sum;
  }
}
