/* Losses that are sums over elements.  Thread i adds up elements part * i .. part * (i + 1) - 1 of `count`, in double;
   what the threads give is added up in order, so that the bits do not depend on their number. */

/* the sums of `part` numbers each */
KERNEL(sums_of_parts)(const int n, const int count, const int part, const double* x, double* sums) {
  KERNEL_LOOP(i, n) {
    double sum = 0.0;
    for (int k = i * part, end = k + min(part, count - k); k < end; ++k) sum += x[k];
    sums[i] = sum;
  }
}

/* *loss = the sum of `count` numbers / divisor */
KERNEL(mean_loss)(const int n, const int count, const double* x, const double divisor, float* loss) {
  KERNEL_LOOP(i, n) {
    double sum = 0.0;
    for (int k = 0; k < count; ++k) sum += x[k];
    loss[i] = (float)(sum / divisor);
  }
}

/* labels cut to integers, -1 for the one to ignore */
KERNEL(classes_of_labels)(const int n, const float* labels, const int ignores, const float ignored, int* classes) {
  KERNEL_LOOP(i, n) {
    const float label = truncf(labels[i]);
    classes[i] = ignores && label == ignored ? -1 : (int)label;
  }
}

/* (a - b)^2 */
KERNEL(squared_distance)(const int n, const int count, const int part, const float* a, const float* b, double* sums) {
  KERNEL_LOOP(i, n) {
    double sum = 0.0;
    for (int k = i * part, end = k + min(part, count - k); k < end; ++k) {
      const float d = a[k] - b[k];
      sum += (double)(d * d);
    }
    sums[i] = sum;
  }
}

/* outside * f(inside * (a - b)) with f(d) = 0.5 (sigma d)^2 where |d| < 1 / sigma^2, else |d| - 0.5 / sigma^2; a weight
   that is NULL is 1 */
KERNEL(smooth_l1_forward)(const int n, const int count, const int part, const float* a, const float* b,
                          const float* inside, const float* outside, const float sigma2, double* sums) {
  KERNEL_LOOP(i, n) {
    double sum = 0.0;
    for (int k = i * part, end = k + min(part, count - k); k < end; ++k) {
      const float d = (a[k] - b[k]) * (inside ? inside[k] : 1.0f), size = fabsf(d);
      const float f = size < 1.0f / sigma2 ? 0.5f * d * d * sigma2 : size - 0.5f / sigma2;
      sum += (double)(outside ? outside[k] * f : f);
    }
    sums[i] = sum;
  }
}

/* da = factor * f'(inside * (a - b)) * weight * outside: `weight` is `inside` again, or NULL in the three-bottom form */
KERNEL(smooth_l1_backward)(const int n, const float* a, const float* b, const float* inside, const float* weight,
                           const float* outside, const float sigma2, const float factor, float* da) {
  KERNEL_LOOP(i, n) {
    const float d = (a[i] - b[i]) * (inside ? inside[i] : 1.0f);
    const float slope = fabsf(d) < 1.0f / sigma2 ? sigma2 * d : (float)((d > 0.0f) - (d < 0.0f));
    da[i] = factor * slope * (weight ? weight[i] : 1.0f) * (outside ? outside[i] : 1.0f);
  }
}

/* -t log(s) - (1 - t) log(1 - s) with s = sigmoid(x), and how many elements were not ignored */
KERNEL(sigmoid_loss_forward)(const int n, const int count, const int part, const float* x, const float* target,
                             const int ignores, const float ignored, double* sums, int* counts) {
  KERNEL_LOOP(i, n) {
    double sum = 0.0;
    int valid = 0;
    for (int k = i * part, end = k + min(part, count - k); k < end; ++k) {
      if (ignores && truncf(target[k]) == ignored) continue;
      /* log(1 + exp(-|x|)) cannot overflow */
      sum -= (double)(x[k] * (target[k] - (x[k] >= 0.0f ? 1.0f : 0.0f)) - logf(1.0f + expf(-fabsf(x[k]))));
      ++valid;
    }
    sums[i] = sum;
    counts[i] = valid;
  }
}

KERNEL(sigmoid_loss_backward)(const int n, const float* x, const float* target, const int ignores, const float ignored,
                              const float* factor, float* dx) {
  KERNEL_LOOP(i, n)
  dx[i] = ignores && truncf(target[i]) == ignored ? 0.0f : factor[0] * (1.0f / (1.0f + expf(-x[i])) - target[i]);
}
