/* Greedy non-maximum suppression (nms.py / cpu_nms.pyx of Fast R-CNN): a box is suppressed by a better one of its group
   whose IoU with it is >= threshold. Boxes count pixels inclusively (+1) and arithmetic is float32; the IoU is compared
   in double, as the original compares it.
   boxes: 4 planes x1 y1 x2 y2 of n, each group's boxes contiguous and best first; starts: groups+1 offsets;
   suppressed: n flags, zero at the start. One thread per group. */
KERNEL(nms)(const int groups, const int n, const int* starts, const float* boxes, const double threshold,
            unsigned char* suppressed) {
  const float *x1 = boxes, *y1 = boxes + n, *x2 = boxes + 2 * n, *y2 = boxes + 3 * n;
  KERNEL_LOOP(g, groups) {
    for (int i = starts[g]; i < starts[g + 1]; ++i) {
      if (suppressed[i]) continue;
      const float area = (x2[i] - x1[i] + 1) * (y2[i] - y1[i] + 1);
      for (int j = i + 1; j < starts[g + 1]; ++j) {
        const float w = max(0.0f, min(x2[i], x2[j]) - max(x1[i], x1[j]) + 1);
        const float h = max(0.0f, min(y2[i], y2[j]) - max(y1[i], y1[j]) + 1);
        const float inter = w * h;
        const float other = (x2[j] - x1[j] + 1) * (y2[j] - y1[j] + 1);
        suppressed[j] |= (double)(inter / (area + other - inter)) >= threshold;
      }
    }
  }
}
