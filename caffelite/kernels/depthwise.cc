/* Depthwise convolution: every channel has kernels of its own, outputs / channels of them.  There is nothing to share
   between channels, so it runs over one plane at a time, near the speed of memory.  The plane is copied into rows
   padded by zeros and split into one phase for each residue of the horizontal stride: every tap is then a row of
   consecutive numbers. */
#include <vector>
#include "vectors.h"
#include "geometry.h"

namespace {

thread_local Scratch plane_memory, line_memory, top_memory;

/* A padded, split plane: number (y, x) of the padded image lies at at[(y * stride_w + x % stride_w) * pitch + x /
 * stride_w] */
struct Phases {
  const Geometry& g;
  int rows, pitch;
  std::vector<long> offsets; /* of the taps */
  float *at, *line;
  Phases(const Geometry& g)
      : g(g),
        rows((g.out_h - 1) * g.stride_h + (g.kernel_h - 1) * g.dilation_h + 1),
        pitch((g.out_w + (g.kernel_w - 1) * g.dilation_w / g.stride_w) / LANES * LANES + 2 * LANES),
        at(plane_memory.get((size_t)rows * g.stride_w * pitch)),
        line(line_memory.get((size_t)g.stride_w * pitch)) {
    for (int i = 0; i < g.kernel_h; ++i)
      for (int j = 0; j < g.kernel_w; ++j) {
        const int x = j * g.dilation_w;
        offsets.push_back(((long)i * g.dilation_h * g.stride_w + x % g.stride_w) * pitch + x / g.stride_w);
      }
  }

  /* what the first tap of an output row sees */
  float* row(int y) const { return at + (long)y * g.stride_h * g.stride_w * pitch; }

  void read(const float* plane) const {
    for (int y = 0; y < rows; ++y) {
      float* to = at + (long)y * g.stride_w * pitch;
      const int from = y - g.pad_h;
      const float* source = from >= 0 && from < g.height ? plane + (long)from * g.width : nullptr;
      read_row(source, g.width, -g.pad_w, g.stride_w * pitch, g.stride_w == 1 ? to : line);
      if (g.stride_w > 1) split(line, pitch, g.stride_w, to, pitch);
    }
  }

  void write(float* plane) const {
    for (int y = 0; y < g.height; ++y, plane += g.width) {
      const int from = y + g.pad_h, n = from < rows ? max(0, min(g.width, g.stride_w * pitch - g.pad_w)) : 0;
      const float* padded = at + (long)from * g.stride_w * pitch;
      if (n && g.stride_w > 1) {
        join(padded, pitch, g.stride_w, line, pitch);
        padded = line;
      }
      if (n) std::copy(padded + g.pad_w, padded + g.pad_w + n, plane);
      std::fill(plane + n, plane + g.width, 0.0f); /* no output sees them */
    }
  }
};

/* `vectors` vectors of an output row at column c */
template <int vectors>
DEVICE void filter_columns(const Phases& x, const float* row, const float* weight, bool flip, float bias, bool add,
                           float* to, int n) {
  const int taps = x.offsets.size();
  vec sum[vectors];
  for (int q = 0; q < vectors; ++q) sum[q] = broadcast(bias);
  for (int k = 0; k < taps; ++k) {
    const float *from = row + x.offsets[k], w = weight[flip ? taps - 1 - k : k];
    for (int q = 0; q < vectors; ++q) sum[q] = multiply_add(broadcast(w), load(from + q * LANES), sum[q]);
  }
  for (int q = 0; q < vectors; ++q) {
    if (add) sum[q] += load_first(to + q * LANES, n - q * LANES);
    store_first(to + q * LANES, sum[q], n - q * LANES);
  }
}

/* to (out_h x out_w) = (or +=) the plane filtered with one kernel, plus bias */
void filter(const Phases& x, const float* weight, bool flip, float bias, bool add, float* to) {
  const int wide = x.g.out_w;
  for (int y = 0; y < x.g.out_h; ++y, to += wide) {
    const float* row = x.row(y);
    int c = 0;
    for (; c + 4 * LANES <= wide; c += 4 * LANES)
      filter_columns<4>(x, row + c, weight, flip, bias, add, to + c, 4 * LANES);
    for (; c < wide; c += LANES) filter_columns<1>(x, row + c, weight, flip, bias, add, to + c, wide - c);
  }
}

}  // namespace

KERNEL(depthwise_forward)(const int* geometry, const float* x, const float* w, const float* bias, float* y) {
  const Geometry& g = *(const Geometry*)geometry;
  const int multiplier = g.outputs / g.channels, kernel = g.kernel_h * g.kernel_w;
#pragma omp parallel
  {
    const Phases phases(g);
#pragma omp for
    for (int p = 0; p < g.images * g.channels; ++p) {
      phases.read(x + (long)p * g.height * g.width);
      for (int m = 0; m < multiplier; ++m) {
        const int o = p % g.channels * multiplier + m;
        filter(phases, w + (long)o * kernel, false, bias ? bias[o] : 0.0f, false,
               y + ((long)p * multiplier + m) * g.out_h * g.out_w);
      }
    }
  }
}

KERNEL(depthwise_backward_data)(const int* geometry, const float* dy, const float* w, float* dx) {
  const Geometry& g = *(const Geometry*)geometry;
  const int multiplier = g.outputs / g.channels, kernel = g.kernel_h * g.kernel_w;
  const bool gather = g.stride_h == 1 && g.stride_w == 1; /* then it is a convolution of dy with the flipped kernel */
  Geometry turned = g;
  turned.height = g.out_h, turned.width = g.out_w, turned.out_h = g.height, turned.out_w = g.width;
  turned.pad_h = (g.kernel_h - 1) * g.dilation_h - g.pad_h, turned.pad_w = (g.kernel_w - 1) * g.dilation_w - g.pad_w;
#pragma omp parallel
  {
    const Phases phases(gather ? turned : g);
#pragma omp for
    for (int p = 0; p < g.images * g.channels; ++p) {
      float* to = dx + (long)p * g.height * g.width;
      if (!gather) std::fill(phases.at, phases.row(0) + (long)phases.rows * g.stride_w * phases.pitch, 0.0f);
      for (int m = 0; m < multiplier; ++m) {
        const float* weight = w + (long)(p % g.channels * multiplier + m) * kernel;
        const float* from = dy + ((long)p * multiplier + m) * g.out_h * g.out_w;
        if (gather) {
          phases.read(from);
          filter(phases, weight, true, 0, m > 0, to);
          continue;
        }
        for (int y = 0; y < g.out_h; ++y, from += g.out_w)
          for (int c = 0; c < g.out_w; c += LANES) {
            const vec d = load_first(from + c, g.out_w - c);
            for (int k = 0; k < kernel; ++k) {
              float* sum = phases.row(y) + phases.offsets[k] + c;
              store(sum, load(sum) + weight[k] * d);
            }
          }
      }
      if (!gather) phases.write(to);
    }
  }
}

KERNEL(depthwise_backward_weight)(const int* geometry, const float* x, const float* dy, float* dw) {
  const Geometry& g = *(const Geometry*)geometry;
  const int multiplier = g.outputs / g.channels, kernel = g.kernel_h * g.kernel_w;
  const int pitch = (g.out_w + LANES - 1) / LANES * LANES, step = g.stride_h * g.stride_w;
#pragma omp parallel
  {
    const Phases phases(g);
    float* top = top_memory.get((size_t)g.out_h * pitch);
#pragma omp for
    for (int c = 0; c < g.channels; ++c)
      for (int image = 0; image < g.images; ++image) {
        const long p = (long)image * g.channels + c;
        phases.read(x + p * g.height * g.width);
        for (int m = 0; m < multiplier; ++m) {
          const float* plane = dy + (p * multiplier + m) * g.out_h * g.out_w;
          for (int y = 0; y < g.out_h; ++y)
            read_row(plane + (long)y * g.out_w, g.out_w, 0, pitch, top + (long)y * pitch);
          for (int k = 0; k < kernel; ++k) {
            vec sum[4] = {vec{}, vec{}, vec{}, vec{}};
            for (int y = 0; y < g.out_h; y += 4) {
              const float *from = top + (long)y * pitch, *seen = phases.row(y) + phases.offsets[k];
              const long next = (long)step * phases.pitch;
              const int rows = min(4, g.out_h - y);
              for (int u = 0; u < pitch; u += LANES)
                for (int r = 0; r < rows; ++r)
                  sum[r] = multiply_add(load(from + r * pitch + u), load(seen + r * next + u), sum[r]);
            }
            dw[(long)(c * multiplier + m) * kernel + k] += add_up((sum[0] + sum[1]) + (sum[2] + sum[3]));
          }
        }
      }
  }
}
