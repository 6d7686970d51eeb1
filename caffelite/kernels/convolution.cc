/* Convolution of 2-D images as one matrix product that never writes im2col out: (outputs x taps) times (taps x pixels),
   where a panel of WIDTH pixels is gathered from the image when it is needed.  A `tap` is one (channel, row, column) of
   the kernel.  The gradient to the data is the same product with the roles of bottom and top exchanged, one for each
   residue of the stride. */
#include <vector>
#include "vectors.h"
#include "geometry.h"
#include "microkernel.h"

namespace {

/* One axis of a correlation: output o reads input o * step + offset, for each tap's offset. */
struct Axis {
  int in, out, step;
  std::vector<int> offsets;
  std::vector<int> taps; /* of the kernel, one per offset */
};

Axis forward_axis(int in, int out, int kernel, int stride, int pad, int dilation) {
  Axis axis{in, out, stride, {}, {}};
  for (int i = 0; i < kernel; ++i) {
    axis.offsets.push_back(i * dilation - pad);
    axis.taps.push_back(i);
  }
  return axis;
}

/* From the top's gradient to those pixels of the bottom that leave `residue` when divided by the stride. */
Axis backward_axis(int in, int out, int kernel, int stride, int pad, int dilation, int residue) {
  Axis axis{out, (in - residue + stride - 1) / stride, 1, {}, {}};
  for (int i = 0; i < kernel; ++i)
    if ((residue + pad - i * dilation) % stride == 0) {
      axis.offsets.push_back((residue + pad - i * dilation) / stride);
      axis.taps.push_back(i);
    }
  return axis;
}

struct Planes { /* `channels` planes of an image */
  const float* at;
  long plane;
  int channels;
};

thread_local Scratch weight_memory, panel_memory, strip_memory, sum_memory, line_memory;

/* to (taps x n, at a pitch) = what the output pixels [first, first + n) see of the planes */
APART void gather(const Planes& x, const Axis& rows, const Axis& columns, int first, int n, float* to, long pitch) {
  const int kernel_h = rows.offsets.size(), kernel_w = columns.offsets.size();
  const int step = columns.step, reach = kernel_w ? columns.offsets.back() - columns.offsets[0] : 0;
  const int phase = n + reach / step + 2 * LANES;
  float* line = line_memory.get((size_t)2 * phase * step); /* a row of the image, then its every step-th pixels */
  for (int done = 0, length; done < n; done += length) {
    const int row = (first + done) / columns.out, column = (first + done) % columns.out;
    length = min(columns.out - column, n - done);
    float* out = to + done;
    for (int c = 0; c < x.channels; ++c)
      for (int i = 0; i < kernel_h; ++i) {
        const int y = row * rows.step + rows.offsets[i];
        const float* from = y >= 0 && y < rows.in ? x.at + c * x.plane + (long)y * columns.in : nullptr;
        if (step == 1) {
          for (int j = 0; j < kernel_w; ++j, out += pitch)
            read_row(from, columns.in, column + columns.offsets[j], length, out);
        } else if (kernel_w) {
          const int count = length + reach / step;
          read_row(from, columns.in, column * step + columns.offsets[0], (length - 1) * step + reach + 1, line);
          split(line, count, step, line + phase * step, phase);
          for (int j = 0; j < kernel_w; ++j, out += pitch) {
            const int ahead = columns.offsets[j] - columns.offsets[0];
            copy(out, line + (step + ahead % step) * phase + ahead / step, length);
          }
        }
      }
  }
  if (pitch == WIDTH && n % LANES)
    for (int k = 0; k < x.channels * kernel_h * kernel_w; ++k)
      std::fill(to + k * pitch + n, to + (k + 1) * pitch, 0.0f);
}

enum { DEEP = 1024 /* taps that a task of the weight's gradient takes at most */ };

struct Image { /* (images, groups, channels per group) planes */
  float* at;
  int channels;
  long plane;
  float* operator()(int image, int group, int groups) const {
    return at + ((long)image * groups + group) * channels * plane;
  }
};

/* y's pixels (first_row + row_step * r, first_column + column_step * c) = correlation of x with w (groups, rows of y,
 * taps) */
void correlate(int images, int groups, Image x, const float* w, const float* bias, Image y, const Axis& rows,
               const Axis& columns, float* first, int pitch, int column_step) {
  const int taps = rows.offsets.size() * columns.offsets.size(), pixels = rows.out * columns.out;
  const int together = taps ? max(1, CHUNK / taps) : x.channels; /* channels of a chunk */
  const long depth = (long)x.channels * taps;
  const int panels = (pixels + WIDTH - 1) / WIDTH;
  const bool dense = column_step == 1 && pitch == columns.out;
#pragma omp parallel for schedule(dynamic) collapse(3)
  for (int image = 0; image < images; ++image)
    for (int group = 0; group < groups; ++group)
      for (int p = 0; p < panels; ++p) {
        const int u = p * WIDTH, n = min((int)WIDTH, pixels - u);
        float* panel = panel_memory.get((size_t)min(together, x.channels) * max(taps, 1) * WIDTH);
        float* out = first + (y(image, group, groups) - y.at);
        Target target = {out + u, y.plane, false, nullptr};
        if (!dense) target = {sum_memory.get((size_t)y.channels * WIDTH), WIDTH, false, nullptr};
        for (int c = 0; c < x.channels; c += together) {
          const Planes planes = {x(image, group, groups) + c * x.plane, x.plane, min(together, x.channels - c)};
          gather(planes, rows, columns, u, n, panel, WIDTH);
          target.bias = bias && !c ? bias + group * y.channels : nullptr;
          target.add = c > 0;
          multiply(w + group * y.channels * depth + (long)c * taps, depth, y.channels, panel, WIDTH,
                   planes.channels * taps, n, target);
        }
        if (!dense)
          for (int o = 0; o < y.channels; ++o)
            for (int i = 0, length; i < n; i += length) {
              const int row = (u + i) / columns.out, column = (u + i) % columns.out;
              length = min(columns.out - column, n - i);
              float* to = out + o * y.plane + (long)row * pitch + (long)column * column_step;
              for (int c = 0; c < length; ++c) to[c * column_step] = target.at[o * WIDTH + i + c];
            }
      }
}

}  // namespace

KERNEL(convolution_forward)(const int* geometry, const float* x, const float* w, const float* bias, float* y) {
  const Geometry& g = *(const Geometry*)geometry;
  const Axis rows = forward_axis(g.height, g.out_h, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h);
  const Axis columns = forward_axis(g.width, g.out_w, g.kernel_w, g.stride_w, g.pad_w, g.dilation_w);
  const Image bottom = {(float*)x, g.channels / g.groups, (long)g.height * g.width};
  const Image top = {y, g.outputs / g.groups, (long)g.out_h * g.out_w};
  correlate(g.images, g.groups, bottom, w, bias, top, rows, columns, y, g.out_w, 1);
}

KERNEL(convolution_backward_data)(const int* geometry, const float* dy, const float* w, float* dx) {
  const Geometry& g = *(const Geometry*)geometry;
  const Image bottom = {dx, g.channels / g.groups, (long)g.height * g.width};
  const Image top = {(float*)dy, g.outputs / g.groups, (long)g.out_h * g.out_w};
  for (int a = 0; a < min(g.stride_h, g.height); ++a)
    for (int b = 0; b < min(g.stride_w, g.width); ++b) {
      const Axis rows = backward_axis(g.height, g.out_h, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h, a);
      const Axis columns = backward_axis(g.width, g.out_w, g.kernel_w, g.stride_w, g.pad_w, g.dilation_w, b);
      const int kernel = g.kernel_h * g.kernel_w, taps = rows.taps.size() * columns.taps.size();
      float* turned = weight_memory.get((size_t)g.groups * bottom.channels * top.channels * taps);
#pragma omp parallel for
      for (int c = 0; c < g.channels; ++c) { /* (group, output, channel, tap) to (group, channel, output, tap) */
        const float* from =
            w + ((long)(c / bottom.channels) * top.channels * bottom.channels + c % bottom.channels) * kernel;
        float* to = turned + (long)c * top.channels * taps;
        for (int o = 0; o < top.channels; ++o, from += bottom.channels * kernel)
          for (int i : rows.taps)
            for (int j : columns.taps) *to++ = from[i * g.kernel_w + j];
      }
      correlate(g.images, g.groups, top, turned, nullptr, bottom, rows, columns, dx + a * g.width + b,
                g.stride_h * g.width, g.stride_w);
    }
}

KERNEL(convolution_backward_weight)(const int* geometry, const float* x, const float* dy, float* dw) {
  const Geometry& g = *(const Geometry*)geometry;
  const Axis rows = forward_axis(g.height, g.out_h, g.kernel_h, g.stride_h, g.pad_h, g.dilation_h);
  const Axis columns = forward_axis(g.width, g.out_w, g.kernel_w, g.stride_w, g.pad_w, g.dilation_w);
  const Image bottom = {(float*)x, g.channels / g.groups, (long)g.height * g.width};
  const Image top = {(float*)dy, g.outputs / g.groups, (long)g.out_h * g.out_w};
  const int pixels = g.out_h * g.out_w, chunk = CHUNK / 2, chunks = (pixels + chunk - 1) / chunk;
  const int kernel = g.kernel_h * g.kernel_w, outputs = top.channels;
  const int taps = bottom.channels * kernel;
  /* the sum over images and pixels is cut into slabs that are added up in order: their number depends on the shape only
   */
  const long size = (long)g.groups * taps * outputs;
  const int steps = g.images * chunks, slabs = max(1, (int)min((1L << 20) / size, (long)min(16, steps)));
  const int tasks = max(1, 4 * max_threads() / (slabs * g.groups));
  const int together = max(1, min(DEEP / kernel, (bottom.channels + tasks - 1) / tasks)),
            blocks = (bottom.channels + together - 1) / together;
  float* sums = weight_memory.get((size_t)slabs * size); /* (slab, group, tap, output) */
#pragma omp parallel for schedule(dynamic) collapse(3)
  for (int slab = 0; slab < slabs; ++slab)
    for (int group = 0; group < g.groups; ++group)
      for (int block = 0; block < blocks; ++block) {
        const int c = block * together, channels = min(together, bottom.channels - c);
        float* strips = strip_memory.get((size_t)together * kernel * chunk);
        float* panel = panel_memory.get((size_t)WIDTH * chunk);
        float* sum = sums + slab * size + ((long)group * taps + (long)c * kernel) * outputs;
        const int begin = (int)((long)steps * slab / slabs), end = (int)((long)steps * (slab + 1) / slabs);
        for (int step = begin; step < end; ++step) {
          const int image = step / chunks, u = step % chunks * chunk, n = min(chunk, pixels - u);
          const Planes planes = {bottom(image, group, g.groups) + c * bottom.plane, bottom.plane, channels};
          gather(planes, rows, columns, u, n, strips, chunk);
          for (int o = 0; o < outputs; o += WIDTH) {
            const int wide = min((int)WIDTH, outputs - o);
            transpose(top(image, group, g.groups) + o * top.plane + u, top.plane, wide, n, panel, WIDTH);
            multiply(strips, chunk, channels * kernel, panel, WIDTH, n, wide,
                     {sum + o, outputs, step > begin, nullptr});
          }
        }
      }
#pragma omp parallel for collapse(2)
  for (int group = 0; group < g.groups; ++group)
    for (int o = 0; o < outputs; o += WIDTH) {
      const int wide = min((int)WIDTH, outputs - o);
      float* total = sums + (long)group * taps * outputs + o;
      for (int slab = 1; slab < slabs; ++slab)
        for (int k = 0; k < taps; ++k)
          for (int c = 0; c < wide; ++c) total[(long)k * outputs + c] += total[slab * size + (long)k * outputs + c];
      transpose(total, outputs, taps, wide, dw + ((long)group * outputs + o) * taps, taps, true);
    }
}

KERNEL(convolution_backward_bias)(const int images, const int outputs, const int pixels, const float* dy, float* db) {
#pragma omp parallel for
  for (int o = 0; o < outputs; ++o) {
    float total = 0;
    for (int image = 0; image < images; ++image) {
      const float* plane = dy + ((long)image * outputs + o) * pixels;
      vec sum[4] = {vec{}, vec{}, vec{}, vec{}};
      int i = 0;
      for (; i + 4 * LANES <= pixels; i += 4 * LANES)
        for (int q = 0; q < 4; ++q) sum[q] += load(plane + i + q * LANES);
      const vec s = (sum[0] + sum[1]) + (sum[2] + sum[3]);
      float rest = 0;
      for (; i < pixels; ++i) rest += plane[i];
      total += rest + add_up(s);
    }
    db[o] += total;
  }
}
