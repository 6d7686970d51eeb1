/* the 0 makes +0 of the -0 that a slope of 0 gives */
DEVICE float relu(const float x, const float negative_slope) { return x > 0.0f ? x : 0.0f + negative_slope * x; }

/* a layer's output, which the ReLU that follows it in its place may make of it at once */
DEVICE float output(const float x, const int rectified, const float negative_slope) {
  return rectified ? relu(x, negative_slope) : x;
}
