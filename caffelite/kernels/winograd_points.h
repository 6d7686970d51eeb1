/* Polynomials at the points of minimal filtering (winograd.cc, winograd_tiles.cu), for numbers or vectors T of them: 0,
   +-a, +-1/a and infinity with a = sqrt(1/2), which round four times better than the usual 0, +-1, +-2 and infinity. */
enum { POINTS = 6, PAIRS = POINTS * POINTS };
#define A_ 0.70710678118654752f /* a, and 1 / a */
#define B_ 1.4142135623730951f

/* Six numbers of the image to six points; what lies between the products. */
template <class T>
DEVICE void evaluate(const T (&d)[POINTS], T (&t)[POINTS]) {
  const T even_a = d[4] - 2.0f * d[2], odd_a = A_ * (d[3] - 2.0f * d[1]);
  const T even_b = d[4] - 0.5f * d[2], odd_b = B_ * (d[3] - 0.5f * d[1]);
  t[0] = d[0] - 2.5f * d[2] + d[4];
  t[1] = even_a + odd_a;
  t[2] = even_a - odd_a;
  t[3] = even_b + odd_b;
  t[4] = even_b - odd_b;
  t[5] = d[1] - 2.5f * d[3] + d[5];
}

/* A polynomial of `length` coefficients to its six values, divided by what Lagrange's formula wants. */
template <int length, class T>
DEVICE void spread(const T (&g)[length], T (&t)[POINTS]) {
  enum { SECOND = length > 2 ? 2 : 0, THIRD = length > 3 ? 3 : 0, FOURTH = length > 4 ? 4 : 0 };
  T even_a = g[0], even_b = g[0], odd_a = A_ * g[1], odd_b = B_ * g[1];
  if (SECOND) even_a += 0.5f * g[SECOND], even_b += 2.0f * g[SECOND];
  if (THIRD) odd_a += 0.5f * A_ * g[THIRD], odd_b += 2.0f * B_ * g[THIRD];
  if (FOURTH) even_a += 0.25f * g[FOURTH], even_b += 4.0f * g[FOURTH];
  t[0] = g[0];
  t[1] = (even_a + odd_a) * (-2.0f / 3);
  t[2] = (even_a - odd_a) * (-2.0f / 3);
  t[3] = (even_b + odd_b) * (1.0f / 6);
  t[4] = (even_b - odd_b) * (1.0f / 6);
  t[5] = g[length - 1];
}

/* Six products to `length` sums. */
template <int length, class T>
DEVICE void collect(const T (&m)[POINTS], T (&y)[length]) {
  enum { SECOND = length > 2 ? 2 : 0, THIRD = length > 3 ? 3 : 0, FOURTH = length > 4 ? 4 : 0 };
  const T even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
  y[0] = m[0] + even_a + even_b;
  y[1] = A_ * odd_a + B_ * odd_b;
  if (SECOND) y[SECOND] = 0.5f * even_a + 2.0f * even_b;
  if (THIRD) y[THIRD] = 0.5f * A_ * odd_a + 2.0f * B_ * odd_b;
  if (FOURTH) y[FOURTH] = 0.25f * even_a + 4.0f * even_b;
  y[length - 1] += m[5];
}
