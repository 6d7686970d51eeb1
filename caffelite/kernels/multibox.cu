/* MultiBoxLoss of SSD: matching of priors and ground truth, mining of negatives, and the two losses (bbox_util.cpp,
   multibox_loss_layer.cpp).

   Objects lie group by group, group g at starts[g] .. starts[g + 1] - 1; a group is an image, or one class of an image.
   `found` holds for every group and prior the object that is matched, UNMATCHED, or IGNORED.  Candidates are what is
   matched to objects: the priors, or where `own` is set, boxes of each group's own. */
#include "ssd_boxes.h"
#if !GATHER
#include <vector>
#endif
#define UNMATCHED -1
#define IGNORED -2
#define MIN_OVERLAP 1e-6f /* what overlaps less does not touch */

DEVICE const float* candidate(const float* candidates, const int group, const int prior, const int priors,
                              const int own) {
  return candidates + ((own ? group * priors : 0) + prior) * 4;
}

/* overlaps[object][prior]; 0 where they do not match */
KERNEL(multibox_overlaps)(const int n, const int priors, const int* group_of, const float* objects,
                          const float* candidates, const int own, const int ignore_crossing, float* overlaps) {
  KERNEL_LOOP(i, n) {
    const int object = i / priors;
    const float* box = candidate(candidates, group_of[object], i % priors, priors, own);
    const float overlap = box_overlap(objects + object * 4, box);
    overlaps[i] = overlap > MIN_OVERLAP && !(ignore_crossing && crosses_boundary(box)) ? overlap : 0.0f;
  }
}

/* whether an overlap of a prior with an object comes before another: the larger, then the lower prior and object */
DEVICE bool before(const float overlap, const int prior, const int object, const float of_other, const int other_prior,
                   const int other_object) {
  if (prior < 0 || other_prior < 0) return other_prior < 0 && prior >= 0;
  if (overlap != of_other) return overlap > of_other;
  return prior != other_prior ? prior < other_prior : object < other_object;
}

/* the free prior that an object overlaps most, or -1 */
#ifdef __CUDACC__
DEVICE int nearest_prior(const float* overlaps, const int* found, const int priors, const int lane) {
  float most = 0.0f;
  int at = -1;
  for (int p = lane; p < priors; p += WARP)
    if (overlaps[p] > most && found[p] == UNMATCHED) most = overlaps[p], at = p;
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    const float of_other = __shfl_sync(ALL_LANES, most, lane ^ distance);
    const int other = __shfl_sync(ALL_LANES, at, lane ^ distance);
    if (before(of_other, other, 0, most, at, 0)) most = of_other, at = other;
  }
  return at;
}
#else
DEVICE int nearest_prior(const float* overlaps, const int* found, const int priors) {
  float most = 0.0f;
  int at = -1;
  for (int p = 0; p < priors; ++p)
    if (overlaps[p] > most && found[p] == UNMATCHED) most = overlaps[p], at = p;
  return at;
}
#endif

/* First every object takes a prior: again and again the largest overlap of a free object and a free prior.
   nearest: room for an int per object. */
KERNEL(multibox_bipartite)(const int n, const int groups, const int priors, const int* starts, const float* overlaps,
                           int* nearest, int* found) {
#ifdef __CUDACC__
  WARP_LOOP(g, lane, groups) {
    int* of_group = found + g * priors;
    const int first = starts[g], end = starts[g + 1];
    for (int p = lane; p < priors; p += WARP) of_group[p] = UNMATCHED;
    __syncwarp(ALL_LANES);
    for (int object = first; object < end; ++object) {
      const int prior = nearest_prior(overlaps + object * priors, of_group, priors, lane);
      if (!lane) nearest[object] = prior;
    }
    for (;;) {
      __syncwarp(ALL_LANES);
      float most = 0.0f;
      int prior = -1, chosen = -1;
      for (int object = first + lane; object < end; object += WARP) {
        const int p = nearest[object];
        const float overlap = p < 0 ? 0.0f : overlaps[object * priors + p];
        if (before(overlap, p, object, most, prior, chosen)) most = overlap, prior = p, chosen = object;
      }
      for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const float overlap = __shfl_sync(ALL_LANES, most, lane ^ distance);
        const int p = __shfl_sync(ALL_LANES, prior, lane ^ distance);
        const int object = __shfl_sync(ALL_LANES, chosen, lane ^ distance);
        if (before(overlap, p, object, most, prior, chosen)) most = overlap, prior = p, chosen = object;
      }
      if (chosen < 0) break;
      if (!lane) of_group[prior] = chosen, nearest[chosen] = -1;
      __syncwarp(ALL_LANES);
      for (int object = first; object < end; ++object) {
        const bool robbed = nearest[object] == prior;
        __syncwarp(ALL_LANES);
        if (!robbed) continue;
        const int next = nearest_prior(overlaps + object * priors, of_group, priors, lane);
        if (!lane) nearest[object] = next;
      }
    }
  }
#else
  KERNEL_LOOP(g, groups) {
    int* of_group = found + g * priors;
    const int first = starts[g], end = starts[g + 1];
    for (int p = 0; p < priors; ++p) of_group[p] = UNMATCHED;
    for (int object = first; object < end; ++object)
      nearest[object] = nearest_prior(overlaps + object * priors, of_group, priors);
    for (;;) {
      float most = 0.0f;
      int prior = -1, chosen = -1;
      for (int object = first; object < end; ++object) {
        const int p = nearest[object];
        const float overlap = p < 0 ? 0.0f : overlaps[object * priors + p];
        if (before(overlap, p, object, most, prior, chosen)) most = overlap, prior = p, chosen = object;
      }
      if (chosen < 0) break;
      of_group[prior] = chosen, nearest[chosen] = -1;
      for (int object = first; object < end; ++object)
        if (nearest[object] == prior)
          nearest[object] = nearest_prior(overlaps + object * priors, of_group, priors);
    }
  }
#endif
}

/* Then, with per_prediction, every prior left takes the object that it overlaps most, if by `threshold`.
   strongest: the largest overlap of every prior. */
KERNEL(multibox_per_prediction)(const int n, const int priors, const int* starts, const float* overlaps,
                                const float* candidates, const int own, const int ignore_crossing,
                                const int per_prediction, const float threshold, int* found, float* strongest) {
  KERNEL_LOOP(i, n) {
    const int group = i / priors, p = i % priors;
    float most = 0.0f;
    int nearest = -1;
    for (int object = starts[group]; object < starts[group + 1]; ++object)
      if (overlaps[object * priors + p] > most) most = overlaps[object * priors + p], nearest = object;
    strongest[i] = most;
    if (ignore_crossing && crosses_boundary(candidate(candidates, group, p, priors, own)))
      found[i] = IGNORED;
    else if (per_prediction && found[i] == UNMATCHED && nearest >= 0 && most >= threshold)
      found[i] = nearest;
  }
}

/* boxes that the net predicts, [image][class of locations][prior], from locations [image][prior][class] */
KERNEL(multibox_decode)(const int n, const int priors, const int location_classes, const float* location,
                        const float* prior_boxes, const float* variances, const int code_type, float* boxes) {
  KERNEL_LOOP(i, n) {
    const int p = i % priors, label = i / priors % location_classes, image = i / priors / location_classes;
    const float* codes = location + ((image * priors + p) * location_classes + label) * 4;
    decode_box(codes, prior_boxes + p * 4, variances + p * 4, code_type, boxes + i * 4);
  }
}

struct Softmax { float most, sum; };
DEVICE Softmax softmax_of(const float* scores, const int classes) {
  Softmax s;
  s.most = scores[0], s.sum = 0.0f;
  for (int c = 1; c < classes; ++c) s.most = max(s.most, scores[c]);
  for (int c = 0; c < classes; ++c) s.sum += exp_of(scores[c] - s.most);
  return s;
}

/* -log of the probability of each row's class; 0 for the class -1 */
KERNEL(multibox_confidence)(const int n, const float* scores, const int* classes, const int channels, float* losses) {
  KERNEL_LOOP(i, n) {
    float loss = 0.0f;
    if (classes[i] >= 0) {
      const float* row = scores + i * channels;
      const Softmax s = softmax_of(row, channels);
      const float probability = exp_of(row[classes[i]] - s.most) / s.sum;
      loss = -log_of(probability < FLT_MIN ? FLT_MIN : probability); /* NaN stays, and shows in the loss */
    }
    losses[i] = loss;
  }
}

KERNEL(multibox_confidence_gradient)(const int n, const float* scores, const int* classes, const int channels,
                                     const float* factor, float* dx) {
  KERNEL_LOOP(i, n) {
    const float* row = scores + i * channels;
    float* gradient = dx + i * channels;
    if (classes[i] < 0) {
      for (int c = 0; c < channels; ++c) gradient[c] = 0.0f;
      continue;
    }
    const Softmax s = softmax_of(row, channels);
    for (int c = 0; c < channels; ++c) {
      const float probability = exp_of(row[c] - s.most) / s.sum;
      gradient[c] = (c == classes[i] ? probability - 1.0f : probability) * factor[0];
    }
  }
}

/* NaN is hardest: where the net has diverged, the loss shall show it */
DEVICE float hard(const float hardness) { return hardness == hardness ? hardness : FLT_MAX * FLT_MAX; }

DEVICE bool harder(const float a, const int at, const float b, const int other) {
  return hard(a) != hard(b) ? hard(a) > hard(b) : at < other;
}

/* selected: the counts[image] hardest of an image's eligible priors; of equal ones the first */
KERNEL(multibox_hardest)(const int n, const int images, const int priors, const float* hardness,
                         const unsigned char* eligible, const int* counts, unsigned char* selected) {
#if GATHER
  KERNEL_LOOP(i, n) {
    const int image = i / priors, first = image * priors;
    int rank = eligible[i] ? 0 : counts[image];
    for (int k = first; k < first + priors && rank < counts[image]; ++k)
      rank += eligible[k] && harder(hardness[k], k, hardness[i], i);
    selected[i] = rank < counts[image];
  }
#else
  KERNEL_LOOP(image, images) {
    std::vector<int> order;
    for (int i = image * priors; i < (image + 1) * priors; ++i) {
      selected[i] = 0;
      if (eligible[i]) order.push_back(i);
    }
    const size_t count = min((size_t)max(counts[image], 0), order.size());
    const auto comes_first = [hardness](int a, int b) { return harder(hardness[a], a, hardness[b], b); };
    if (count < order.size()) std::nth_element(order.begin(), order.begin() + count, order.end(), comes_first);
    for (size_t k = 0; k < count; ++k) selected[order[k]] = 1;
  }
#endif
}

/* what is the same for all locations */
struct Location {
  const float *prior_boxes, *variances, *objects, *location;
  int code_type, encoded, bp_inside, own;
};

/* predicted minus encoded offsets of a prior that is matched to an object, `row` of the locations */
DEVICE void location_difference(const Location l, const int prior, const int object, const int row, float* difference) {
  const float *box = l.prior_boxes + prior * 4, *variances = l.variances + prior * 4, *codes = l.location + row * 4;
  const float ones[4] = {1.0f, 1.0f, 1.0f, 1.0f};
  float target[4], reference[4];
  encode_box(l.objects + object * 4, box, l.encoded ? ones : variances, l.code_type, target);
  if (l.bp_inside && l.own) decode_box(codes, box, l.encoded ? ones : variances, l.code_type, reference);
  for (int k = 0; k < 4; ++k) {
    difference[k] = l.encoded ? codes[k] / variances[k] - target[k] / variances[k] : codes[k] - target[k];
    if (l.bp_inside && outside(l.own ? reference[k] : box[k])) difference[k] = 0.0f;
  }
}

/* The class of the locations that a matched prior uses is that of its group, where groups are classes, and else that of
   its object.  losses: of every group and prior, over the four coordinates; 0 where it is not matched. */
KERNEL(multibox_location)(const int n, const int priors, const int location_classes, const int by_class,
                          const int* found, const int* labels, const float* prior_boxes, const float* variances,
                          const float* objects, const float* location, const int code_type, const int encoded,
                          const int bp_inside, const int own, const int l2, float* losses) {
  KERNEL_LOOP(i, n) {
    const int group = i / priors, p = i % priors, object = found[i];
    float loss = 0.0f;
    if (object >= 0) {
      const int image = by_class ? group / location_classes : group;
      const int label = location_classes == 1 ? 0 : by_class ? group % location_classes : labels[object];
      const Location l = {prior_boxes, variances, objects, location, code_type, encoded, bp_inside, own};
      float difference[4];
      location_difference(l, p, object, (image * priors + p) * location_classes + label, difference);
      for (int k = 0; k < 4; ++k) {
        const float d = difference[k], size = fabsf(d);
        loss += l2 || size < 1.0f ? 0.5f * d * d : size - 0.5f;
      }
    }
    losses[i] = loss;
  }
}

KERNEL(multibox_location_gradient)(const int n, const int priors, const int location_classes, const int by_class,
                                   const int* found, const int* labels, const float* prior_boxes,
                                   const float* variances, const float* objects, const float* location,
                                   const int code_type, const int encoded, const int bp_inside, const int own,
                                   const int l2, const float* factor, float* dx) {
  KERNEL_LOOP(row, n) {
    const int label = row % location_classes, p = row / location_classes % priors,
              image = row / location_classes / priors;
    const int object = found[(by_class ? image * location_classes + label : image) * priors + p];
    const bool matched = object >= 0 && (location_classes == 1 || by_class || labels[object] == label);
    const Location l = {prior_boxes, variances, objects, location, code_type, encoded, bp_inside, own};
    float difference[4];
    if (matched) location_difference(l, p, object, row, difference);
    for (int k = 0; k < 4; ++k) {
      const float d = matched ? difference[k] : 0.0f;
      const float slope = l2 ? d : d > 1.0f ? 1.0f : d < -1.0f ? -1.0f : d; /* NaN stays */
      dx[row * 4 + k] = matched ? slope * factor[0] : 0.0f;
    }
  }
}
