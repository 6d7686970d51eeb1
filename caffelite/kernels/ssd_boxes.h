/* Boxes of SSD, float32 in the order of the original's operations (bbox_util.cpp).  A box is x1, y1, x2, y2 as fractions
   of the image; codes are what the net predicts for a prior. */
#define CORNER 1
#define CENTER_SIZE 2

/* rounded like C's expf and logf, on every machine */
DEVICE float exp_of(const float x) { return (float)exp((double)x); }
DEVICE float log_of(const float x) { return (float)log((double)x); }

DEVICE float box_area(const float* box) {
  const float width = box[2] - box[0], height = box[3] - box[1];
  return width < 0.0f || height < 0.0f ? 0.0f : width * height;
}

/* intersection over union; NaN where a side is NaN or both are infinite */
DEVICE float box_overlap(const float* a, const float* b) {
  const float width = min(a[2], b[2]) - max(a[0], b[0]), height = min(a[3], b[3]) - max(a[1], b[1]);
  const float inter = (width > 0.0f ? width : 0.0f) * (height > 0.0f ? height : 0.0f);
  const float whole = box_area(a) + box_area(b) - inter;
  return inter / (whole < FLT_MIN ? FLT_MIN : whole);
}

DEVICE bool outside(const float coordinate) { return coordinate < 0.0f || coordinate > 1.0f; }

DEVICE bool crosses_boundary(const float* box) {
  return outside(box[0]) || outside(box[1]) || outside(box[2]) || outside(box[3]);
}

/* CORNER: offsets of the corners; CORNER_SIZE: in units of the prior's size; CENTER_SIZE: offset of the centre in units
   of the prior's size, and logarithms of the ratio of sizes.  All are divided by the variances. */
DEVICE void encode_box(const float* box, const float* prior, const float* variances, const int code_type,
                       float* codes) {
  for (int k = 0; k < 2; ++k) {
    const float size = code_type == CORNER ? 1.0f : prior[k + 2] - prior[k];
    if (code_type == CENTER_SIZE) {
      codes[k] = ((box[k] + box[k + 2]) / 2 - (prior[k] + prior[k + 2]) / 2) / size / variances[k];
      codes[k + 2] = log_of((box[k + 2] - box[k]) / size) / variances[k + 2];
    } else {
      codes[k] = (box[k] - prior[k]) / size / variances[k];
      codes[k + 2] = (box[k + 2] - prior[k + 2]) / size / variances[k + 2];
    }
  }
}

DEVICE void decode_box(const float* codes, const float* prior, const float* variances, const int code_type,
                       float* box) {
  for (int k = 0; k < 2; ++k) {
    const float size = code_type == CORNER ? 1.0f : prior[k + 2] - prior[k];
    const float first = variances[k] * codes[k], second = variances[k + 2] * codes[k + 2];
    if (code_type == CENTER_SIZE) {
      const float center = first * size + (prior[k] + prior[k + 2]) / 2, half = exp_of(second) * size / 2;
      box[k] = center - half;
      box[k + 2] = center + half;
    } else {
      box[k] = prior[k] + first * size;
      box[k + 2] = prior[k + 2] + second * size;
    }
  }
}
