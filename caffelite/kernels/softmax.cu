/* Softmax and the losses on it.  Position i of `n` is (image i / spatial, place i % spatial); its scores stand `spatial`
   apart, one per class.  `classes` of a loss holds the class of every position, -1 where it is ignored. */

/* the greatest score, and the sum of exp(score - greatest) */
struct Scale { float most, sum; };
DEVICE Scale softmax_scale(const float* x, const int channels, const int spatial) {
  Scale scale;
  scale.most = x[0], scale.sum = 0.0f;
  for (int c = 1; c < channels; ++c) scale.most = max(scale.most, x[c * spatial]);
  for (int c = 0; c < channels; ++c) scale.sum += expf(x[c * spatial] - scale.most);
  return scale;
}

/* max would drop NaN on a GPU, and a loss that is not a number would not show */
DEVICE float at_least(const float value, const float least) { return value < least ? least : value; }

KERNEL(softmax_forward)(const int n, const float* x, const int channels, const int spatial, float* y) {
  KERNEL_LOOP(i, n) {
    const int at = i / spatial * channels * spatial + i % spatial;
    float most = x[at], sum = 0.0f;
    for (int c = 1; c < channels; ++c) most = max(most, x[at + c * spatial]);
    for (int c = 0; c < channels; ++c) {
      const float e = expf(x[at + c * spatial] - most);
      y[at + c * spatial] = e;
      sum += e;
    }
    for (int c = 0; c < channels; ++c) y[at + c * spatial] /= sum;
  }
}

/* dx = (dy - sum(dy y)) y */
KERNEL(softmax_backward)(const int n, const float* y, const float* dy, const int channels, const int spatial,
                         float* dx) {
  KERNEL_LOOP(i, n) {
    const int at = i / spatial * channels * spatial + i % spatial;
    float dot = 0.0f;
    for (int c = 0; c < channels; ++c) dot += dy[at + c * spatial] * y[at + c * spatial];
    for (int c = 0; c < channels; ++c) dx[at + c * spatial] = (dy[at + c * spatial] - dot) * y[at + c * spatial];
  }
}

/* -log of the probability of the right class, floored at FLT_MIN; the probabilities themselves are not kept */
KERNEL(softmax_loss_forward)(const int n, const float* x, const int* classes, const int channels, const int spatial,
                             double* losses) {
  KERNEL_LOOP(i, n) {
    float loss = 0.0f;
    if (classes[i] >= 0) {
      const float* scores = x + i / spatial * channels * spatial + i % spatial;
      const Scale scale = softmax_scale(scores, channels, spatial);
      loss = -logf(at_least(expf(scores[classes[i] * spatial] - scale.most) / scale.sum, FLT_MIN));
    }
    losses[i] = (double)loss;
  }
}

/* dx = factor (probability - 1 for the right class) */
KERNEL(softmax_loss_backward)(const int n, const float* x, const int* classes, const int channels, const int spatial,
                              const float factor, float* dx) {
  KERNEL_LOOP(i, n) {
    const int at = i / spatial * channels * spatial + i % spatial;
    if (classes[i] < 0) {
      for (int c = 0; c < channels; ++c) dx[at + c * spatial] = 0.0f;
      continue;
    }
    const Scale scale = softmax_scale(x + at, channels, spatial);
    for (int c = 0; c < channels; ++c) {
      const float probability = expf(x[at + c * spatial] - scale.most) / scale.sum;
      dx[at + c * spatial] = factor * (c == classes[i] ? probability - 1.0f : probability);
    }
  }
}

/* -sum over classes of gain[right class, class] log(probability), floored at `least` */
KERNEL(infogain_loss_forward)(const int n, const float* x, const int* classes, const float* gain, const int channels,
                              const int spatial, const float least, double* losses) {
  KERNEL_LOOP(i, n) {
    float loss = 0.0f;
    if (classes[i] >= 0) {
      const float* scores = x + i / spatial * channels * spatial + i % spatial;
      const Scale scale = softmax_scale(scores, channels, spatial);
      for (int c = 0; c < channels; ++c)
        loss -= gain[classes[i] * channels + c] *
                logf(at_least(expf(scores[c * spatial] - scale.most) / scale.sum, least));
    }
    losses[i] = (double)loss;
  }
}

/* dx = factor (probability * sum of the gains of the right class - gain) */
KERNEL(infogain_loss_backward)(const int n, const float* x, const int* classes, const float* gain,
                               const float* gain_sums, const int channels, const int spatial, const float factor,
                               float* dx) {
  KERNEL_LOOP(i, n) {
    const int at = i / spatial * channels * spatial + i % spatial;
    if (classes[i] < 0) {
      for (int c = 0; c < channels; ++c) dx[at + c * spatial] = 0.0f;
      continue;
    }
    const Scale scale = softmax_scale(x + at, channels, spatial);
    for (int c = 0; c < channels; ++c) {
      const float probability = expf(x[at + c * spatial] - scale.most) / scale.sum;
      dx[at + c * spatial] = factor * (probability * gain_sums[classes[i]] - gain[classes[i] * channels + c]);
    }
  }
}

/* the number of other classes that score at least as high as the right one; -1 where ignored */
KERNEL(better_classes)(const int n, const float* x, const int* classes, const int channels, const int spatial,
                       int* better) {
  KERNEL_LOOP(i, n) {
    int count = -1;
    if (classes[i] >= 0) {
      const float* scores = x + i / spatial * channels * spatial + i % spatial;
      const float right = scores[classes[i] * spatial];
      for (int c = 0; c < channels; ++c) count += c == classes[i] || scores[c * spatial] >= right;
    }
    better[i] = count;
  }
}
