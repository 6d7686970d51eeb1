/* The update rules of Caffe's solvers, one pass over memory each: scale, regularise, update history, update weights.
   l1 selects sign(w) instead of w as the decay's direction. The diff ends as the update that was subtracted, as in
   Caffe.  Source: sgd_solver.cpp, nesterov_solver.cpp, adagrad_solver.cpp, rmsprop_solver.cpp, adadelta_solver.cpp,
   adam_solver.cpp.

   A launch goes through many parameters.  A row of `rows` tells of one how many elements it has, and where its weights,
   its gradient and its histories lie.  A pair of `chunks` is (row, first element): CHUNK elements from there on, or
   those that are left.  On a GPU a block takes a chunk, with an element to a thread. */
enum { CHUNK = 256, ROW = 5 };

struct Parameter {
  int size;
  float *w, *diff, *history, *other; /* null where a rule has none */
};

/* of_chunk(parameter, first, end, step) for all chunks: the elements first, first + step, ... before end are its own */
template <class OfChunk>
DEVICE void for_chunks(const int count, const int* chunks, const long long* rows, const OfChunk of_chunk) {
#ifdef __CUDACC__
  const int lane = threadIdx.x, step = blockDim.x;
  for (int c = blockIdx.x; c < count; c += gridDim.x) {
#else
  const int lane = 0, step = 1;
  KERNEL_LOOP(c, count) {
#endif
    const long long* row = rows + chunks[2 * c] * ROW;
    const Parameter p = {(int)row[0], (float*)row[1], (float*)row[2], (float*)row[3], (float*)row[4]};
    const int first = chunks[2 * c + 1];
    of_chunk(p, first + lane, first + min(p.size - first, (int)CHUNK), step);
  }
}

/* each(parameter, k, w, g) for the elements k of all chunks: the weight, and its gradient, scaled and regularised */
template <class Each>
DEVICE void for_gradients(const int count, const int* chunks, const long long* rows, const float scale,
                          const float decay, const int l1, const Each each) {
  for_chunks(count, chunks, rows, [=](const Parameter& p, const int first, const int end, const int step) {
    if (l1) { /* asked once: compilers make vectors of the loops then */
      for (int k = first; k < end; k += step) {
        const float w = p.w[k];
        each(p, k, w, scale * p.diff[k] + decay * (float)((w > 0.0f) - (w < 0.0f)));
      }
    } else {
      for (int k = first; k < end; k += step) {
        const float w = p.w[k];
        each(p, k, w, scale * p.diff[k] + decay * w);
      }
    }
  });
}

KERNEL(sgd)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
            const float decay, const int l1, const float rate, const float momentum) {
  for_gradients(count, chunks, rows, scale, decay, l1, [=](const Parameter& p, int k, float w, float g) {
    const float h = rate * g + momentum * p.history[k];
    p.history[k] = h;
    p.diff[k] = h;
    p.w[k] = w - h;
  });
}

KERNEL(nesterov)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
                 const float decay, const int l1, const float rate, const float momentum) {
  for_gradients(count, chunks, rows, scale, decay, l1, [=](const Parameter& p, int k, float w, float g) {
    const float old = p.history[k], h = rate * g + momentum * old;
    const float step = (1.0f + momentum) * h - momentum * old;
    p.history[k] = h;
    p.diff[k] = step;
    p.w[k] = w - step;
  });
}

KERNEL(adagrad)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
                const float decay, const int l1, const float rate, const float delta) {
  for_gradients(count, chunks, rows, scale, decay, l1, [=](const Parameter& p, int k, float w, float g) {
    const float h = p.history[k] + g * g, step = rate * (g / (sqrtf(h) + delta));
    p.history[k] = h;
    p.diff[k] = step;
    p.w[k] = w - step;
  });
}

KERNEL(rmsprop)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
                const float decay, const int l1, const float rate, const float rms_decay, const float delta) {
  for_gradients(count, chunks, rows, scale, decay, l1, [=](const Parameter& p, int k, float w, float g) {
    const float h = (1.0f - rms_decay) * g * g + rms_decay * p.history[k];
    const float step = rate * (g / (sqrtf(h) + delta));
    p.history[k] = h;
    p.diff[k] = step;
    p.w[k] = w - step;
  });
}

/* history: the mean of squared gradients; other: that of squared updates */
KERNEL(adadelta)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
                 const float decay, const int l1, const float rate, const float momentum, const float delta) {
  for_gradients(count, chunks, rows, scale, decay, l1, [=](const Parameter& p, int k, float w, float g) {
    const float h = (1.0f - momentum) * g * g + momentum * p.history[k], updates = p.other[k];
    const float u = g * sqrtf((delta + updates) / (delta + h)), step = rate * u;
    p.history[k] = h;
    p.other[k] = (1.0f - momentum) * u * u + momentum * updates;
    p.diff[k] = step;
    p.w[k] = w - step;
  });
}

/* history: the mean of gradients; other: that of their squares */
KERNEL(adam)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
             const float decay, const int l1, const float rate, const float beta1, const float beta2,
             const float delta) {
  for_gradients(count, chunks, rows, scale, decay, l1, [=](const Parameter& p, int k, float w, float g) {
    const float m = (1.0f - beta1) * g + beta1 * p.history[k];
    const float v = (1.0f - beta2) * g * g + beta2 * p.other[k];
    const float step = rate * m / (sqrtf(v) + delta);
    p.history[k] = m;
    p.other[k] = v;
    p.diff[k] = step;
    p.w[k] = w - step;
  });
}

KERNEL(clear)(const int n, const int count, const int* chunks, const long long* rows) {
  for_chunks(count, chunks, rows, [=](const Parameter& p, const int first, const int end, const int step) {
    for (int k = first; k < end; k += step) p.diff[k] = 0.0f;
  });
}

/* *bad becomes NaN where an element of a gradient is infinite or NaN */
KERNEL(find_bad)(const int n, const int count, const int* chunks, const long long* rows, float* bad) {
  for_chunks(count, chunks, rows, [=](const Parameter& p, const int first, const int end, const int step) {
    int found = 0;
    for (int k = first; k < end; k += step) found |= !(fabsf(p.diff[k]) <= FLT_MAX);
    if (found) *bad = FLT_MAX * 2.0f - FLT_MAX * 2.0f; /* whoever writes, writes the same */
  });
}

/* sums of squares of `part` elements each */
KERNEL(squares)(const int n, const int count, const int part, const float* x, double* sums) {
  KERNEL_LOOP(i, n) {
    double sum = 0.0;
    for (int k = i * part, end = k + min(part, count - k); k < end; ++k) sum += (double)x[k] * (double)x[k];
    sums[i] = sum;
  }
}
