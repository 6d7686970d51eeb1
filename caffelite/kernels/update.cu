/* The update rules of Caffe's solvers, one pass over memory each: scale, regularise, update history, update weights.
   l1 selects sign(w) instead of w as the decay's direction. The diff ends as the update that was subtracted, as in
   Caffe.  Source: sgd_solver.cpp, nesterov_solver.cpp, adagrad_solver.cpp, rmsprop_solver.cpp, adadelta_solver.cpp,
   adam_solver.cpp.

   A launch goes through many parameters.  A row of `rows` tells of one how many elements it has, and where its weights,
   its gradient and its histories lie.  A pair of `chunks`, of which there are `count`, is (row, first element): CHUNK
   elements from there on, or those that are left.  On a GPU a block takes a chunk; n: a block's threads for each. */
enum { CHUNK = 1024, ROW = 5 };

/* up to CHUNK elements of a parameter */
struct Chunk {
  int size;
  float *w, *diff, *history, *other; /* histories that a rule does not have point nowhere */
};

DEVICE float* place(const long long address, const int first) { return (float*)(address + 4LL * first); }

/* of_chunk(chunk, first, step) for all chunks: the elements first, first + step, ... are for the caller */
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
    const int at = chunks[2 * c + 1];
    const Chunk chunk = {
        min((int)row[0] - at, (int)CHUNK), place(row[1], at), place(row[2], at), place(row[3], at), place(row[4], at)};
    of_chunk(chunk, lane, step);
  }
}

/* w -= step, the diff becomes the step: step_of(chunk, k, g) for the elements k of all chunks, with the gradient scaled
   and regularised */
template <class StepOf>
DEVICE void update(const int count, const int* chunks, const long long* rows, const float scale, const float decay,
                   const int l1, const StepOf step_of) {
  for_chunks(count, chunks, rows, [=](const Chunk& c, const int first, const int stride) {
    if (l1) { /* asked once: compilers make vectors of the loops then */
      for (int k = first; k < c.size; k += stride) {
        const float w = c.w[k], sign = (float)((w > 0.0f) - (w < 0.0f));
        const float step = step_of(c, k, scale * c.diff[k] + decay * sign);
        c.diff[k] = step;
        c.w[k] = w - step;
      }
    } else {
      for (int k = first; k < c.size; k += stride) {
        const float w = c.w[k], step = step_of(c, k, scale * c.diff[k] + decay * w);
        c.diff[k] = step;
        c.w[k] = w - step;
      }
    }
  });
}

KERNEL(sgd)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
            const float decay, const int l1, const float rate, const float momentum) {
  update(count, chunks, rows, scale, decay, l1, [=](const Chunk& c, const int k, const float g) -> float {
    const float h = rate * g + momentum * c.history[k];
    return c.history[k] = h;
  });
}

KERNEL(nesterov)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
                 const float decay, const int l1, const float rate, const float momentum) {
  update(count, chunks, rows, scale, decay, l1, [=](const Chunk& c, const int k, const float g) -> float {
    const float old = c.history[k], h = rate * g + momentum * old;
    c.history[k] = h;
    return (1.0f + momentum) * h - momentum * old;
  });
}

KERNEL(adagrad)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
                const float decay, const int l1, const float rate, const float delta) {
  update(count, chunks, rows, scale, decay, l1, [=](const Chunk& c, const int k, const float g) -> float {
    const float h = c.history[k] + g * g;
    c.history[k] = h;
    return rate * (g / (sqrtf(h) + delta));
  });
}

KERNEL(rmsprop)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
                const float decay, const int l1, const float rate, const float rms_decay, const float delta) {
  update(count, chunks, rows, scale, decay, l1, [=](const Chunk& c, const int k, const float g) -> float {
    const float h = (1.0f - rms_decay) * g * g + rms_decay * c.history[k];
    c.history[k] = h;
    return rate * (g / (sqrtf(h) + delta));
  });
}

/* history: the mean of squared gradients; other: that of squared updates */
KERNEL(adadelta)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
                 const float decay, const int l1, const float rate, const float momentum, const float delta) {
  update(count, chunks, rows, scale, decay, l1, [=](const Chunk& c, const int k, const float g) -> float {
    const float h = (1.0f - momentum) * g * g + momentum * c.history[k], updates = c.other[k];
    const float u = g * sqrtf((delta + updates) / (delta + h));
    c.history[k] = h;
    c.other[k] = (1.0f - momentum) * u * u + momentum * updates;
    return rate * u;
  });
}

/* history: the mean of gradients; other: that of their squares */
KERNEL(adam)(const int n, const int count, const int* chunks, const long long* rows, const float scale,
             const float decay, const int l1, const float rate, const float beta1, const float beta2,
             const float delta) {
  update(count, chunks, rows, scale, decay, l1, [=](const Chunk& c, const int k, const float g) -> float {
    const float m = (1.0f - beta1) * g + beta1 * c.history[k];
    const float v = (1.0f - beta2) * g * g + beta2 * c.other[k];
    c.history[k] = m;
    c.other[k] = v;
    return rate * m / (sqrtf(v) + delta);
  });
}

KERNEL(clear)(const int n, const int count, const int* chunks, const long long* rows) {
  for_chunks(count, chunks, rows, [=](const Chunk& c, const int first, const int step) {
    for (int k = first; k < c.size; k += step) c.diff[k] = 0.0f;
  });
}

/* *bad becomes NaN where an element of a gradient is infinite or NaN */
KERNEL(find_bad)(const int n, const int count, const int* chunks, const long long* rows, float* bad) {
  for_chunks(count, chunks, rows, [=](const Chunk& c, const int first, const int step) {
    int found = 0;
#pragma unroll 4 /* loads under way at once */
    for (int k = first; k < c.size; k += step) found |= !(fabsf(c.diff[k]) <= FLT_MAX);
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
