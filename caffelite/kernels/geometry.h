/* The sizes of a convolution, as backend/convolution.py writes them. */
struct Geometry {
  int images, channels, height, width, outputs, groups, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w,
      dilation_h, dilation_w, out_h, out_w;
};
