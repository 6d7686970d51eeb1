/* The few functions of cuBLAS that products of float32 need, in host memory; CuPy's other names are stubs
   (fixtures.py). */
#include <cstddef>
#include <vector>

extern "C" int emulated_cudaStreamSynchronize(void* stream); /* driver.cc */

namespace {
int math_mode = 0;
void* stream = nullptr;
template <class T>
int product(
    int transpose_a, int transpose_b, int m, int n, int k, const T* alpha, const T* a, int lda, const T* b, int ldb,
    const T* beta, T* c, int ldc
) {
  emulated_cudaStreamSynchronize(stream);
  std::vector<T> column(k), sums(m);
  for (int j = 0; j < n; ++j) {
    for (int p = 0; p < k; ++p) column[p] = transpose_b ? b[(size_t)p * ldb + j] : b[(size_t)j * ldb + p];
    sums.assign(m, 0);
    for (int i = 0; transpose_a && i < m; ++i)
      for (int p = 0; p < k; ++p) sums[i] += a[(size_t)i * lda + p] * column[p];
    for (int p = 0; !transpose_a && p < k; ++p)
      for (int i = 0; i < m; ++i) sums[i] += a[(size_t)p * lda + i] * column[p];
    for (int i = 0; i < m; ++i) {
      T& y = c[(size_t)j * ldc + i];
      y = *alpha * sums[i] + (*beta ? *beta * y : 0);
    }
  }
  return 0;
}
}  // namespace

extern "C" {
int cublasCreate_v2(void** handle) { return *handle = &math_mode, 0; }
int cublasDestroy_v2(void*) { return 0; }
int cublasSetStream_v2(void*, void* chosen) { return stream = chosen, 0; }
int cublasGetVersion_v2(void*, int* version) { return *version = 130000, 0; }
int cublasGetMathMode(void*, int* mode) { return *mode = math_mode, 0; }
int cublasSetMathMode(void*, int mode) { return math_mode = mode, 0; }
int cublasGetPointerMode_v2(void*, int* mode) { return *mode = 0, 0; }
int cublasSetPointerMode_v2(void*, int mode) { return mode ? 15 : 0; }
int cublasSgemm_v2(
    void*, int transpose_a, int transpose_b, int m, int n, int k, const float* alpha, const float* a, int lda,
    const float* b, int ldb, const float* beta, float* c, int ldc
) {
  return product(transpose_a, transpose_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
int cublasSgemmStridedBatched(
    void*, int transpose_a, int transpose_b, int m, int n, int k, const float* alpha, const float* a, int lda,
    long long step_a, const float* b, int ldb, long long step_b, const float* beta, float* c, int ldc, long long step_c,
    int count
) {
  for (int i = 0; i < count; ++i)
    product(
        transpose_a, transpose_b, m, n, k, alpha, a + i * step_a, lda, b + i * step_b, ldb, beta, c + i * step_c, ldc
    );
  return 0;
}
}
