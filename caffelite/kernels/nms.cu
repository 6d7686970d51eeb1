/* Greedy non-maximum suppression (nms.py / cpu_nms.pyx of Fast R-CNN): a box is suppressed by a better one of its group
   whose IoU with it is >= threshold. Boxes count pixels inclusively (+1) and arithmetic is float32; the IoU is compared
   in double, as the original compares it.
   boxes: 4 planes x1 y1 x2 y2 of n, each group's boxes contiguous and best first; starts: groups+1 offsets;
   suppressed: n flags. */

/* whether box i suppresses box j; area: of box i */
DEVICE bool suppresses(const float* boxes, const int n, const int i, const int j, const float area,
                       const double threshold) {
  const float *x1 = boxes, *y1 = boxes + n, *x2 = boxes + 2 * n, *y2 = boxes + 3 * n;
  const float w = max(0.0f, min(x2[i], x2[j]) - max(x1[i], x1[j]) + 1);
  const float h = max(0.0f, min(y2[i], y2[j]) - max(y1[i], y1[j]) + 1);
  const float inter = w * h;
  const float other = (x2[j] - x1[j] + 1) * (y2[j] - y1[j] + 1);
  return (double)(inter / (area + other - inter)) >= threshold;
}

DEVICE float area_of(const float* boxes, const int n, const int i) {
  return (boxes[2 * n + i] - boxes[i] + 1) * (boxes[3 * n + i] - boxes[n + i] + 1);
}

/* one thread per group; the flags are zero at the start */
KERNEL(nms)(const int groups, const int n, const int* starts, const float* boxes, const double threshold,
            unsigned char* suppressed) {
  KERNEL_LOOP(g, groups) {
    for (int i = starts[g]; i < starts[g + 1]; ++i) {
      if (suppressed[i]) continue;
      const float area = area_of(boxes, n, i);
      for (int j = i + 1; j < starts[g + 1]; ++j) suppressed[j] |= suppresses(boxes, n, i, j, area, threshold);
    }
  }
}

#ifdef __CUDACC__
/* The same by many threads. First all overlaps: bit b of overlaps[i][w], a row of `words` for every box, tells whether
   box i suppresses box 32 w + b of its group `group_of[i]`; words before the box's own are not written. */
KERNEL(nms_overlaps)(const int n, const int boxes_count, const int words, const int* starts, const int* group_of,
                     const float* boxes, const double threshold, unsigned* overlaps) {
  KERNEL_LOOP(k, n) {
    const int i = k / words, start = starts[group_of[i]], end = starts[group_of[i] + 1];
    const int first = start + k % words * WARP;
    if (first + WARP <= i || first >= end) continue;
    const float area = area_of(boxes, boxes_count, i);
    unsigned bits = 0;
    for (int j = max(first, i + 1); j < min(first + WARP, end); ++j)
      bits |= (unsigned)suppresses(boxes, boxes_count, i, j, area, threshold) << (j - first);
    overlaps[k] = bits;
  }
}

/* Then a warp walks through each group, 32 boxes at a time: which of these are left is found one after another, and
   those together suppress all that come behind. gone: `words` for every group, the boxes suppressed so far. */
KERNEL(nms_sweep)(const int n, const int groups, const int words, const int* starts, const unsigned* overlaps,
                  unsigned* gone, unsigned char* suppressed) {
  WARP_LOOP(g, lane, groups) {
    const int start = starts[g], count = starts[g + 1] - start, last = (count + WARP - 1) / WARP;
    for (int w = lane; w < last; w += WARP) gone[g * words + w] = 0;
    __syncwarp(ALL_LANES);
    for (int w = 0; w < last; ++w) {
      const int i = w * WARP + lane;
      const unsigned mine = i < count ? overlaps[(start + i) * words + w] : 0;
      unsigned here = gone[g * words + w];
      for (int b = 0; b < WARP; ++b) {
        const unsigned of_box = __shfl_sync(ALL_LANES, mine, b);
        if (!(here >> b & 1)) here |= of_box;
      }
      if (i < count) suppressed[start + i] = here >> lane & 1;
      const unsigned left = ~here & __ballot_sync(ALL_LANES, i < count);
      for (int behind = w + 1 + lane; behind < last; behind += WARP) {
        unsigned bits = gone[g * words + behind];
        for (unsigned rest = left; rest; rest &= rest - 1)
          bits |= overlaps[(start + w * WARP + __ffs(rest) - 1) * words + behind];
        gone[g * words + behind] = bits;
      }
      __syncwarp(ALL_LANES);
    }
  }
}
#endif
