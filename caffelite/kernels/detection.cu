/* DetectionOutput of SSD: the best candidates of every set, their boxes, suppression (bbox_util.cpp,
   detection_output_layer.cpp).  A set is a class of an image; its candidates lie at starts[set] .. starts[set + 1] - 1,
   the best first. */
#include "ssd_boxes.h"
#if !GATHER
#include <algorithm>
#include <vector>
#endif

/* The priors of a set that score above the threshold, as many as there is room for, best first, of equal ones the lowest
   first.  scores: [set][prior]; n: scores. */
KERNEL(detection_candidates)(const int n, const int sets, const int priors, const float* scores, const float threshold,
                             const int* starts, int* candidates) {
#if GATHER
  KERNEL_LOOP(i, n) {
    const int set = i / priors, room = starts[set + 1] - starts[set];
    const float score = scores[i], *of_set = scores + set * priors;
    if (!room || !(score > threshold)) continue;
    int rank = 0;
    for (int p = 0; p < priors && rank < room; ++p)
      rank += of_set[p] > score || (of_set[p] == score && p < i % priors);
    if (rank < room) candidates[starts[set] + rank] = i % priors;
  }
#else
  KERNEL_LOOP(set, sets) {
    const int room = starts[set + 1] - starts[set];
    const float* of_set = scores + set * priors;
    std::vector<int> order;
    for (int p = 0; room && p < priors; ++p)
      if (of_set[p] > threshold) order.push_back(p);
    const auto better = [of_set](int a, int b) { return of_set[a] != of_set[b] ? of_set[a] > of_set[b] : a < b; };
    std::partial_sort(order.begin(), order.begin() + room, order.end(), better);
    std::copy(order.begin(), order.begin() + room, candidates + starts[set]);
  }
#endif
}

/* locations: [image][prior][class of locations] */
KERNEL(detection_boxes)(const int n, const int priors, const int classes, const int location_classes, const int* set_of,
                        const int* candidates, const float* location, const float* prior_boxes, const float* variances,
                        const int code_type, float* boxes) {
  KERNEL_LOOP(i, n) {
    const int p = candidates[i], image = set_of[i] / classes, label = set_of[i] % classes;
    const int row = (image * priors + p) * location_classes + (location_classes == 1 ? 0 : label);
    decode_box(location + row * 4, prior_boxes + p * 4, variances + p * 4, code_type, boxes + i * 4);
  }
}

/* A box is suppressed if its overlap with one that is kept is not at most the threshold, which every kept box multiplies
   by eta while it is above 0.5 and eta below 1. */
KERNEL(detection_nms)(const int sets, const int* starts, const float* boxes, const float threshold, const float eta,
                      unsigned char* suppressed) {
  KERNEL_LOOP(set, sets) {
    float most = threshold;
    for (int i = starts[set]; i < starts[set + 1]; ++i) {
      suppressed[i] = 0;
      for (int j = starts[set]; j < i && !suppressed[i]; ++j)
        suppressed[i] = !suppressed[j] && !(box_overlap(boxes + i * 4, boxes + j * 4) <= most);
      if (!suppressed[i] && eta < 1.0f && most > 0.5f) most *= eta;
    }
  }
}

#ifdef __CUDACC__
/* for nms_sweep of nms.cu: bit b of overlaps[i][w] tells whether box i suppresses box 32 w + b of its set */
KERNEL(detection_overlaps)(const int n, const int words, const int* starts, const int* set_of, const float* boxes,
                           const float threshold, unsigned* overlaps) {
  KERNEL_LOOP(k, n) {
    const int i = k / words, start = starts[set_of[i]], end = starts[set_of[i] + 1];
    const int first = start + k % words * WARP;
    if (first + WARP <= i || first >= end) continue;
    unsigned bits = 0;
    for (int j = max(first, i + 1); j < min(first + WARP, end); ++j)
      bits |= (unsigned)!(box_overlap(boxes + j * 4, boxes + i * 4) <= threshold) << (j - first);
    overlaps[k] = bits;
  }
}
#endif
