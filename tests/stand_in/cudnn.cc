/* A stand-in for libcudnn on machines without a GPU: the functions that the binding calls, computed on host pointers.
   With WITH_CUDNN_H the prototypes are cudnn.h's own, so that a wrong signature here does not compile.

   It offers algorithms of every kind, fastest first, and refuses what cuDNN refuses; each call is noted in a log that
   tests read. */
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>
#ifdef WITH_CUDNN_H
#include <cudnn.h>
#else
#include <cstddef>
extern "C" {
typedef int cudnnStatus_t, cudnnDataType_t, cudnnTensorFormat_t, cudnnConvolutionMode_t, cudnnMathType_t,
    cudnnDeterminism_t, cudnnConvolutionFwdAlgo_t, cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t;
typedef void *cudnnHandle_t, *cudaStream_t, *cudnnTensorDescriptor_t, *cudnnFilterDescriptor_t,
    *cudnnConvolutionDescriptor_t;
typedef struct {
  int algo;
  int status;
  float time;
  size_t memory;
  int determinism;
  int mathType;
  int reserved[3];
} cudnnConvolutionFwdAlgoPerf_t;
typedef cudnnConvolutionFwdAlgoPerf_t cudnnConvolutionBwdDataAlgoPerf_t, cudnnConvolutionBwdFilterAlgoPerf_t;
}
#endif

namespace {
const int BAD = 2000, UNSUPPORTED = 3000, DEFAULT_MATH = 0, TENSOR_MATH = 1, HALF_MATH = 2, FMA_MATH = 3;
struct Offer {
  int algorithm, deterministic, math;
  size_t memory;
  bool query, runs;
};
/* in order: not deterministic; in half precision; with TF32; too much memory; refused when asked; refused when run */
const Offer OFFERS[] = {{0, 0, FMA_MATH, 128, true, true},    {7, 1, HALF_MATH, 128, true, true},
                        {6, 1, TENSOR_MATH, 192, true, true}, {5, 1, FMA_MATH, size_t(2) << 30, true, true},
                        {4, 1, FMA_MATH, 64, false, true},    {3, 1, FMA_MATH, 64, true, false},
                        {1, 1, FMA_MATH, 256, true, true}};
struct Shape {
  std::vector<int> size;
  long long count() const {
    long long n = 1;
    for (int s : size) n *= s;
    return n;
  }
  int operator()(int axis) const { /* 0, 1: as they are; 2, 3, 4: the spatial ones behind leading ones */
    const int missing = 5 - (int)size.size();
    return axis < 2 ? size[axis] : axis - 2 < missing ? 1 : size[axis - missing];
  }
};
struct Convolution {
  std::vector<int> pad, stride, dilation;
  int groups, math;
  int at(const std::vector<int>& values, int axis, int fill) const {
    const int missing = 3 - (int)values.size();
    return axis < missing ? fill : values[axis - missing];
  }
};
std::string notes;
bool refuses_all = false;

void note(const char* format, ...) {
  char line[200];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  notes += line;
  notes += "\n";
}

const Offer* offer(int algorithm) {
  for (const Offer& o : OFFERS)
    if (o.algorithm == algorithm) return &o;
  return nullptr;
}

template <class Perf>
cudnnStatus_t list(const char* how, const void* convolution, int most, int* count, Perf* found) {
  static_assert(sizeof(Perf) == 48, "the binding's Performance");
  note("%s math=%d", how, ((const Convolution*)convolution)->math);
  *count = 0;
  for (const Offer& o : OFFERS) {
    if (*count == most) break;
    Perf perf = Perf();
    memcpy(&perf.algo, &o.algorithm, sizeof(int));
    memcpy(&perf.mathType, &o.math, sizeof(int));
    memcpy(&perf.determinism, &o.deterministic, sizeof(int));
    perf.memory = o.memory;
    perf.time = float(*count + 1);
    found[(*count)++] = perf;
  }
  return (cudnnStatus_t)0;
}

cudnnStatus_t workspace(int algorithm, size_t* size) {
  const Offer* o = offer(algorithm);
  if (!o) return (cudnnStatus_t)BAD; /* there is no such algorithm */
  if (refuses_all || !o->query) return (cudnnStatus_t)UNSUPPORTED;
  *size = o->memory;
  return (cudnnStatus_t)0;
}

/* product 0: y = x * w, 1: dx = dy * w, 2: dw = x * dy, each plus beta times what was there */
cudnnStatus_t multiply(int product, int algorithm, void* scratch, size_t size, const float* alpha, const float* beta,
                       const void* xs, const void* ws, const void* conv, const void* ys, float* x, float* w, float* y) {
  const Shape &X = *(const Shape*)xs, &W = *(const Shape*)ws, &Y = *(const Shape*)ys;
  const Convolution& c = *(const Convolution*)conv;
  const Offer* o = offer(algorithm);
  const char* names[] = {"forward", "data", "filter"};
  note("%s algorithm=%d math=%d workspace=%d beta=%g", names[product], algorithm, c.math, (int)size, *beta);
  if (refuses_all || !o || !o->query || !o->runs) return (cudnnStatus_t)UNSUPPORTED;
  if (size < o->memory || (size && !scratch) || *alpha != 1 || !x || !w || !y) return (cudnnStatus_t)BAD;
  memset(scratch, 0x5A, size);
  float* out[] = {y, x, w};
  const Shape* shape[] = {&Y, &X, &W};
  for (long long i = 0; i < shape[product]->count(); ++i) out[product][i] = *beta ? *beta * out[product][i] : 0;
  const int outputs = W(0) / c.groups, inputs = W(1);
  long long at = 0;
  for (int n = 0; n < Y(0); ++n)
    for (int k = 0; k < Y(1); ++k)
      for (int d = 0; d < Y(2); ++d)
        for (int h = 0; h < Y(3); ++h)
          for (int v = 0; v < Y(4); ++v, ++at)
            for (int i = 0; i < inputs; ++i)
              for (int t = 0; t < W(2) * W(3) * W(4); ++t) {
                const int tap[] = {t / (W(3) * W(4)), t / W(4) % W(3), t % W(4)}, spot[] = {d, h, v};
                long long from = (long long)n * X(1) + k / outputs * inputs + i;
                bool inside = true;
                for (int a = 0; a < 3; ++a) {
                  const int place = spot[a] * c.at(c.stride, a, 1) - c.at(c.pad, a, 0) + tap[a] * c.at(c.dilation, a, 1);
                  inside = inside && place >= 0 && place < X(a + 2);
                  from = from * X(a + 2) + place;
                }
                if (!inside) continue;
                float& weight = w[((long long)k * inputs + i) * (W(2) * W(3) * W(4)) + t];
                if (product == 0) y[at] += x[from] * weight;
                if (product == 1) x[from] += y[at] * weight;
                if (product == 2) weight += x[from] * y[at];
              }
  return (cudnnStatus_t)0;
}

template <class Handle, class T>
cudnnStatus_t make(Handle* handle, T* object) {
  *handle = (Handle)object;
  return (cudnnStatus_t)0;
}
}  // namespace

#define OK (cudnnStatus_t)0
#define X_W_Y const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t w, const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t y
#define W_Y_X const cudnnFilterDescriptor_t w, const cudnnTensorDescriptor_t y, const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t x
#define X_Y_W const cudnnTensorDescriptor_t x, const cudnnTensorDescriptor_t y, const cudnnConvolutionDescriptor_t c, const cudnnFilterDescriptor_t w

extern "C" {
const char* stand_in_notes() { return notes.c_str(); }
void stand_in_clear() { notes.clear(); }
void stand_in_refuse(int all) { refuses_all = all; }

size_t cudnnGetVersion() { return 91002; }
const char* cudnnGetErrorString(cudnnStatus_t) { return "STAND_IN_ERROR"; }
void cudnnGetLastErrorString(char* message, size_t size) { snprintf(message, size, "as the test wants it"); }
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) { return make(handle, new int(0)); }
cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t stream) {
  note("stream %lld", (long long)(size_t)stream);
  return OK;
}
cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* d) { return make(d, new Shape()); }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d) {
  delete (Shape*)d;
  return OK;
}
cudnnStatus_t cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t d, cudnnDataType_t type, int axes, const int size[],
                                         const int stride[]) {
  int packed = 1;
  for (int i = axes - 1; i >= 0; packed *= size[i--])
    if (stride[i] != packed || size[i] < 1) return (cudnnStatus_t)BAD;
  if (type || axes < 4 || axes > 5) return (cudnnStatus_t)BAD;
  ((Shape*)d)->size.assign(size, size + axes);
  return OK;
}
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* d) { return make(d, new Shape()); }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t d) {
  delete (Shape*)d;
  return OK;
}
cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type, cudnnTensorFormat_t format,
                                         int axes, const int size[]) {
  if (type || format || axes < 4 || axes > 5) return (cudnnStatus_t)BAD;
  ((Shape*)d)->size.assign(size, size + axes);
  return OK;
}
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* d) {
  return make(d, new Convolution{{}, {}, {}, 1, 0});
}
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t d) {
  delete (Convolution*)d;
  return OK;
}
cudnnStatus_t cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t d, int axes, const int pad[],
                                              const int stride[], const int dilation[], cudnnConvolutionMode_t mode,
                                              cudnnDataType_t type) {
  if (mode != 1 || type || axes < 2 || axes > 3) return (cudnnStatus_t)BAD;
  Convolution& c = *(Convolution*)d;
  c.pad.assign(pad, pad + axes);
  c.stride.assign(stride, stride + axes);
  c.dilation.assign(dilation, dilation + axes);
  return OK;
}
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t d, int groups) {
  ((Convolution*)d)->groups = groups;
  return OK;
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t d, cudnnMathType_t math) {
  ((Convolution*)d)->math = math;
  return OK;
}
cudnnStatus_t cudnnGetConvolutionNdForwardOutputDim(const cudnnConvolutionDescriptor_t d,
                                                    const cudnnTensorDescriptor_t x, const cudnnFilterDescriptor_t w,
                                                    int axes, int size[]) {
  const Convolution& c = *(const Convolution*)d;
  const std::vector<int>&X = ((const Shape*)x)->size, &W = ((const Shape*)w)->size;
  if (axes != (int)X.size() || X[1] != W[1] * c.groups) return (cudnnStatus_t)BAD;
  size[0] = X[0];
  size[1] = W[0];
  for (int i = 2; i < axes; ++i)
    size[i] = (X[i] + 2 * c.pad[i - 2] - c.dilation[i - 2] * (W[i] - 1) - 1) / c.stride[i - 2] + 1;
  return OK;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, X_W_Y, const int most, int* count,
                                                     cudnnConvolutionFwdAlgoPerf_t* found) {
  return list("heuristics forward", c, most, count, found);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t, W_Y_X, const int most, int* count,
                                                          cudnnConvolutionBwdDataAlgoPerf_t* found) {
  return list("heuristics data", c, most, count, found);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t, X_Y_W, const int most, int* count,
                                                            cudnnConvolutionBwdFilterAlgoPerf_t* found) {
  return list("heuristics filter", c, most, count, found);
}
cudnnStatus_t cudnnFindConvolutionForwardAlgorithmEx(
    cudnnHandle_t, const cudnnTensorDescriptor_t x, const void*, const cudnnFilterDescriptor_t w, const void*,
    const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t y, void* out, const int most, int* count,
    cudnnConvolutionFwdAlgoPerf_t* found, void* scratch, size_t size) {
  memset(out, 0x5A, 4 * ((const Shape*)y)->count());
  memset(scratch, 0x5A, size < 4096 ? size : 4096);
  return list("measured forward", c, most, count, found);
}
cudnnStatus_t cudnnFindConvolutionBackwardDataAlgorithmEx(
    cudnnHandle_t, const cudnnFilterDescriptor_t w, const void*, const cudnnTensorDescriptor_t y, const void*,
    const cudnnConvolutionDescriptor_t c, const cudnnTensorDescriptor_t x, void* out, const int most, int* count,
    cudnnConvolutionBwdDataAlgoPerf_t* found, void* scratch, size_t size) {
  memset(out, 0x5A, 4 * ((const Shape*)x)->count());
  memset(scratch, 0x5A, size < 4096 ? size : 4096);
  return list("measured data", c, most, count, found);
}
cudnnStatus_t cudnnFindConvolutionBackwardFilterAlgorithmEx(
    cudnnHandle_t, const cudnnTensorDescriptor_t x, const void*, const cudnnTensorDescriptor_t y, const void*,
    const cudnnConvolutionDescriptor_t c, const cudnnFilterDescriptor_t w, void* out, const int most, int* count,
    cudnnConvolutionBwdFilterAlgoPerf_t* found, void* scratch, size_t size) {
  memset(out, 0x5A, 4 * ((const Shape*)w)->count());
  memset(scratch, 0x5A, size < 4096 ? size : 4096);
  return list("measured filter", c, most, count, found);
}
cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, X_W_Y, cudnnConvolutionFwdAlgo_t a, size_t* size) {
  return workspace(a, size);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, W_Y_X, cudnnConvolutionBwdDataAlgo_t a,
                                                           size_t* size) {
  return workspace(a, size);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t, X_Y_W, cudnnConvolutionBwdFilterAlgo_t a,
                                                             size_t* size) {
  return workspace(a, size);
}
cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t, const void* alpha, const cudnnTensorDescriptor_t xd, const void* x,
                                      const cudnnFilterDescriptor_t wd, const void* w,
                                      const cudnnConvolutionDescriptor_t c, cudnnConvolutionFwdAlgo_t a, void* scratch,
                                      size_t size, const void* beta, const cudnnTensorDescriptor_t yd, void* y) {
  return multiply(0, a, scratch, size, (const float*)alpha, (const float*)beta, xd, wd, c, yd, (float*)x, (float*)w,
                  (float*)y);
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t, const void* alpha, const cudnnFilterDescriptor_t wd,
                                           const void* w, const cudnnTensorDescriptor_t yd, const void* y,
                                           const cudnnConvolutionDescriptor_t c, cudnnConvolutionBwdDataAlgo_t a,
                                           void* scratch, size_t size, const void* beta,
                                           const cudnnTensorDescriptor_t xd, void* x) {
  return multiply(1, a, scratch, size, (const float*)alpha, (const float*)beta, xd, wd, c, yd, (float*)x, (float*)w,
                  (float*)y);
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t, const void* alpha, const cudnnTensorDescriptor_t xd,
                                             const void* x, const cudnnTensorDescriptor_t yd, const void* y,
                                             const cudnnConvolutionDescriptor_t c, cudnnConvolutionBwdFilterAlgo_t a,
                                             void* scratch, size_t size, const void* beta,
                                             const cudnnFilterDescriptor_t wd, void* w) {
  return multiply(2, a, scratch, size, (const float*)alpha, (const float*)beta, xd, wd, c, yd, (float*)x, (float*)w,
                  (float*)y);
}
cudnnStatus_t cudnnConvolutionBackwardBias(cudnnHandle_t, const void* alpha, const cudnnTensorDescriptor_t yd,
                                           const void* y, const void* beta, const cudnnTensorDescriptor_t bd, void* b) {
  note("bias gradient beta=%g", *(const float*)beta);
  const Shape &Y = *(const Shape*)yd, &B = *(const Shape*)bd;
  if (*(const float*)alpha != 1 || B.count() != Y(1) || B(1) != Y(1)) return (cudnnStatus_t)BAD;
  const long long plane = Y.count() / Y(0) / Y(1);
  for (int k = 0; k < Y(1); ++k) ((float*)b)[k] *= *(const float*)beta;
  for (long long i = 0; i < Y.count(); ++i) ((float*)b)[i / plane % Y(1)] += ((const float*)y)[i];
  return OK;
}
}
