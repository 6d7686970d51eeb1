/* Selecting by value or by index.  Source: argmax_layer.cpp, embed_layer.cpp. */

/* NaN counts as the largest finite number, so that all numbers have an order. */
DEVICE float rank_of(float v) { return v == v ? v : FLT_MAX; }

/* The `top` largest of the `dim` elements of each column x[outer][.][inner], n = outer * inner: their indices and values,
   [outer][top][inner].  On a tie the larger index comes first. */
KERNEL(largest)(const int n, const float* x, const int dim, const int inner, const int top, float* indices,
                float* values) {
  KERNEL_LOOP(i, n) {
    const int outer = i / inner, column = i % inner;
    const float* v = x + outer * dim * inner + column;
    int last = -1;
    for (int t = 0; t < top; ++t) {
      int best = -1;
      for (int j = 0; j < dim; ++j) {
        const float r = rank_of(v[j * inner]);
        const float before = last < 0 ? r : rank_of(v[last * inner]);
        const bool left = last < 0 || r < before || (r == before && j < last);
        if (left && (best < 0 || r >= rank_of(v[best * inner]))) best = j;
      }
      last = best;
      indices[(outer * top + t) * inner + column] = (float)best;
      values[(outer * top + t) * inner + column] = v[best * inner];
    }
  }
}

/* table[index[m]] += rows[m] for all m in order; one thread owns a column, so that every sum has one order. */
KERNEL(add_rows)(const int n, const float* rows, const int* index, const int count, float* table) {
  KERNEL_LOOP(i, n) {
    for (int m = 0; m < count; ++m) table[index[m] * n + i] += rows[m * n + i];
  }
}
