/* The update rules of Caffe's solvers, one pass over memory each: scale, regularise, update history, update weights.
   l1 selects sign(w) instead of w as the decay's direction. The diff ends as the update that was subtracted, as in
   Caffe.  Source: sgd_solver.cpp, nesterov_solver.cpp, adagrad_solver.cpp, rmsprop_solver.cpp, adadelta_solver.cpp,
   adam_solver.cpp. */

DEVICE float regularised(float w, float diff, float scale, float decay, int l1) {
  return scale * diff + decay * (l1 ? (float)((w > 0.0f) - (w < 0.0f)) : w);
}

KERNEL(sgd)(const int n, float* w, float* diff, float* history, const float scale, const float decay, const int l1,
            const float rate, const float momentum) {
  KERNEL_LOOP(i, n) {
    const float h = rate * regularised(w[i], diff[i], scale, decay, l1) + momentum * history[i];
    history[i] = h;
    diff[i] = h;
    w[i] -= h;
  }
}

KERNEL(nesterov)(const int n, float* w, float* diff, float* history, const float scale, const float decay, const int l1,
                 const float rate, const float momentum) {
  KERNEL_LOOP(i, n) {
    const float old = history[i];
    const float h = rate * regularised(w[i], diff[i], scale, decay, l1) + momentum * old;
    history[i] = h;
    diff[i] = (1.0f + momentum) * h - momentum * old;
    w[i] -= diff[i];
  }
}

KERNEL(adagrad)(const int n, float* w, float* diff, float* history, const float scale, const float decay, const int l1,
                const float rate, const float delta) {
  KERNEL_LOOP(i, n) {
    const float g = regularised(w[i], diff[i], scale, decay, l1);
    const float h = history[i] + g * g;
    history[i] = h;
    diff[i] = rate * (g / (sqrtf(h) + delta));
    w[i] -= diff[i];
  }
}

KERNEL(rmsprop)(const int n, float* w, float* diff, float* history, const float scale, const float decay, const int l1,
                const float rate, const float rms_decay, const float delta) {
  KERNEL_LOOP(i, n) {
    const float g = regularised(w[i], diff[i], scale, decay, l1);
    const float h = (1.0f - rms_decay) * g * g + rms_decay * history[i];
    history[i] = h;
    diff[i] = rate * (g / (sqrtf(h) + delta));
    w[i] -= diff[i];
  }
}

KERNEL(adadelta)(const int n, float* w, float* diff, float* gradients, float* updates, const float scale,
                 const float decay, const int l1, const float rate, const float momentum, const float delta) {
  KERNEL_LOOP(i, n) {
    const float g = regularised(w[i], diff[i], scale, decay, l1);
    const float h = (1.0f - momentum) * g * g + momentum * gradients[i];
    const float u = g * sqrtf((delta + updates[i]) / (delta + h));
    gradients[i] = h;
    updates[i] = (1.0f - momentum) * u * u + momentum * updates[i];
    diff[i] = rate * u;
    w[i] -= diff[i];
  }
}

KERNEL(adam)(const int n, float* w, float* diff, float* mean, float* square, const float scale, const float decay,
             const int l1, const float rate, const float beta1, const float beta2, const float delta) {
  KERNEL_LOOP(i, n) {
    const float g = regularised(w[i], diff[i], scale, decay, l1);
    const float m = (1.0f - beta1) * g + beta1 * mean[i];
    const float v = (1.0f - beta2) * g * g + beta2 * square[i];
    mean[i] = m;
    square[i] = v;
    diff[i] = rate * m / (sqrtf(v) + delta);
    w[i] -= diff[i];
  }
}

/* sums of squares of `part` elements each */
KERNEL(squares)(const int n, const int count, const int part, const float* x, double* sums) {
  KERNEL_LOOP(i, n) {
    double sum = 0.0;
    for (int k = i * part, end = k + min(part, count - k); k < end; ++k) sum += (double)x[k] * (double)x[k];
    sums[i] = sum;
  }
}

/* *bad becomes NaN where any of `count` numbers is infinite or NaN; n: runs of `part` numbers, on a GPU each of those
   that lie n apart */
KERNEL(find_bad)(const int n, const int count, const int part, const float* x, float* bad) {
  KERNEL_LOOP(i, n) {
    int found = 0;
#if GATHER
    for (int k = i; k < count; k = count - k > n ? k + n : count) found |= !(fabsf(x[k]) <= FLT_MAX);
#else
    for (int k = i * part, end = k + min(part, count - k); k < end; ++k) found |= !(std::fabs(x[k]) <= FLT_MAX);
#endif
    if (found) *bad = FLT_MAX * 2.0f - FLT_MAX * 2.0f; /* whoever writes, writes the same */
  }
}
