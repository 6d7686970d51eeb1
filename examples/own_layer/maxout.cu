/* x (planes * pieces, size) -> y and winner (planes, size): the greatest of `pieces` neighbouring planes, and which one
   it is; the first of equals. */
KERNEL(maxout_forward)(const int n, const int planes, const int pieces, const int size, const float* x, float* y,
                       int* winner) {
  PLANE_LOOP(p, k, planes, size) {
    const float* piece = x + p * pieces * size + k;
    int best = 0;
    for (int j = 1; j < pieces; ++j)
      if (piece[j * size] > piece[best * size]) best = j;
    y[p * size + k] = piece[best * size];
    winner[p * size + k] = best;
  }
}

KERNEL(maxout_backward)(const int n, const int planes, const int pieces, const int size, const float* dy,
                        const int* winner, float* dx) {
  PLANE_LOOP(p, k, planes, size)
    for (int j = 0; j < pieces; ++j)
      dx[(p * pieces + j) * size + k] = j == winner[p * size + k] ? dy[p * size + k] : 0.0f;
}
