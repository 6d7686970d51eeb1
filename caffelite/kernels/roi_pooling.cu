/* RoI max pooling, as roi_pooling_layer.cu of the Fast R-CNN fork of Caffe.  A RoI is (image, x1, y1, x2, y2).

   The bins of all RoIs are computed first, eight numbers each: the cells [h0, h1) x [w0, w1) that the forward pass
   looks at, and those [g_h0, g_h1) x [g_w0, g_w1) that get a gradient.  The two differ where the original's backward
   pass, which goes from cells to bins, does not find every bin that the forward pass filled: a RoI with x2 < x1 is one
   cell wide forward and gets no gradient, and roundings of p * size may include a cell that (cell + 1) / size does not. */

#if !GATHER
#include <vector>
#endif

#define BIN 8
#define FARTHEST 268435456.0f /* 2^28: farther than any map reaches, near enough for differences to stay integers */

/* C round(), half away from zero, of any float; NaN goes to the far left */
DEVICE int cell_of(const float v) {
  const float cell = roundf(v);
  return cell >= -FARTHEST ? (cell <= FARTHEST ? (int)cell : (int)FARTHEST) : -(int)FARTHEST;
}

/* bin p of an axis: start and end of the RoI in cells, `size` cells on the map; writes [0], [1] and, 4 on, [4], [5] */
DEVICE void axis_bin(const int start, const int end, const int p, const int pooled, const int size, int* bin) {
  const float cells = (float)max(end - start + 1, 1) / (float)pooled;
  int first = min(max((int)floorf((float)p * cells) + start, 0), size);
  int last = min(max((int)ceilf((float)(p + 1) * cells) + start, 0), size);
  bin[0] = first;
  bin[1] = last;
  /* a cell finds bin p if floor((cell - start) / cells) <= p < ceil((cell - start + 1) / cells) */
  while (first < last && (first < start || first > end || (int)ceilf((float)(first - start + 1) / cells) <= p)) ++first;
  while (last > first && (last - 1 > end || (int)floorf((float)(last - 1 - start) / cells) > p)) --last;
  bin[4] = first;
  bin[5] = last;
}

KERNEL(roi_bins)(const int n, const float* rois, const int height, const int width, const int pooled_h,
                 const int pooled_w, const float spatial_scale, int* bins) {
  KERNEL_LOOP(i, n) {
    const int q = i % pooled_w, p = i / pooled_w % pooled_h;
    const float* roi = rois + i / pooled_w / pooled_h * 5;
    axis_bin(cell_of(roi[2] * spatial_scale), cell_of(roi[4] * spatial_scale), p, pooled_h, height, bins + i * BIN);
    axis_bin(cell_of(roi[1] * spatial_scale), cell_of(roi[3] * spatial_scale), q, pooled_w, width, bins + i * BIN + 2);
  }
}

/* whether the gradient of a bin reaches a cell */
DEVICE bool reaches(const int* bin, const int cell, const int width) {
  const int h = cell / width, w = cell - h * width;
  return h >= bin[4] && h < bin[5] && w >= bin[6] && w < bin[7];
}

#if !GATHER
#define LANES 16
/* aligned like their elements: std::vector promises no more before C++17 */
typedef float Floats __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));
typedef int Ints __attribute__((vector_size(LANES * sizeof(int)), aligned(sizeof(int))));
#endif

/* argmax holds, for every output, the cell h * width + w that gets its gradient, or -1; it may be NULL */
KERNEL(roi_pool_forward)(const int n, const float* x, const float* rois, const int* bins, const int num_rois,
                         const int images, const int channels, const int height, const int width, const int size,
                         float* y, int* argmax) {
  const int area = height * width;
#if GATHER
  PLANE_LOOP(p, k, num_rois * channels, size) {
    const int r = p / channels;
    const float* plane = x + ((int)rois[r * 5] * channels + p % channels) * area;
    const int* bin = bins + (r * size + k) * BIN;
    float best = bin[1] > bin[0] && bin[3] > bin[2] ? -FLT_MAX : 0.0f;
    int at = -1;
    for (int h = bin[0]; h < bin[1]; ++h)
      for (int w = bin[2]; w < bin[3]; ++w)
        if (plane[h * width + w] > best) {
          at = h * width + w;
          best = plane[at];
        }
    y[p * size + k] = best;
    if (argmax) argmax[p * size + k] = at >= 0 && reaches(bin, at, width) ? at : -1;
  }
#else
  /* a thread lays 16 channels of an image side by side, and pools them together for all RoIs of that image */
  const int blocks = (channels + LANES - 1) / LANES;
  KERNEL_LOOP(task, images * blocks) {
    const int image = task % images, first = task / images * LANES, count = min(channels - first, LANES);
    std::vector<Floats> cells(area), best(size);
    std::vector<Ints> at(size);
    for (int c = 0; c < count; ++c) {
      const float* plane = x + (image * channels + first + c) * area;
      for (int cell = 0; cell < area; ++cell) cells[cell][c] = plane[cell];
    }
    for (int r = 0; r < num_rois; ++r) {
      if ((int)rois[r * 5] != image) continue;
      const int* bin = bins + r * size * BIN;
      for (int k = 0; k < size; ++k, bin += BIN) {
        Floats most = {};
        Ints winner = Ints{} - 1;
        if (bin[1] > bin[0] && bin[3] > bin[2]) most -= FLT_MAX;
        for (int h = bin[0]; h < bin[1]; ++h)
          for (int w = bin[2]; w < bin[3]; ++w) {
            const Floats v = cells[h * width + w];
            const Ints wins = v > most;
            most = wins ? v : most;
            winner = wins ? (Ints{} + (h * width + w)) : winner;
          }
        best[k] = most;
        at[k] = winner;
      }
      for (int c = 0; c < count; ++c) {
        const int out = (r * channels + first + c) * size;
        for (int k = 0; k < size; ++k) y[out + k] = best[k][c];
        if (argmax)
          for (int k = 0; k < size; ++k) argmax[out + k] = at[k][c];
      }
      for (int k = 0; argmax && k < size; ++k) {
        bin = bins + (r * size + k) * BIN;
        if (bin[0] == bin[4] && bin[1] == bin[5] && bin[2] == bin[6] && bin[3] == bin[7]) continue;
        for (int c = 0; c < count; ++c)
          if (at[k][c] >= 0 && !reaches(bin, at[k][c], width)) argmax[(r * channels + first + c) * size + k] = -1;
      }
    }
  }
#endif
}

#define BESIDE 4 /* channels that a warp pools together */
#define ACROSS 8 /* bins in a row, at most */
#define WARPS 8  /* of a block */

/* The maxima alone, where there are up to 8 bins in a row: on a GPU faster, but of zeros of either sign it takes the
   positive one.  A warp pools one RoI in four channels, and the next warp the next RoI in the same ones, so that their
   planes stay in the cache.  In a row of bins it takes the maxima of the columns first, a lane for a column, and of those
   the maxima of the bins, a lane for a bin of a channel. */
KERNEL(roi_maxima)(const int n, const float* x, const float* rois, const int* bins, const int num_rois,
                   const int images, const int channels, const int height, const int width, const int pooled_h,
                   const int pooled_w, float* y) {
#ifdef __CUDACC__
  __shared__ float columns[WARPS][BESIDE][WARP + 1]; /* + 1: lanes of different channels read different banks */
  float(*most)[WARP + 1] = columns[threadIdx.x / WARP];
  const int area = height * width, size = pooled_h * pooled_w;
  WARP_LOOP(work, lane, (channels + BESIDE - 1) / BESIDE * num_rois) {
    const int r = work % num_rois, c = work / num_rois * BESIDE, q = lane % ACROSS, mine = lane / ACROSS;
    const float* planes = x + ((int)rois[r * 5] * channels + c) * area;
    const int* row = bins + r * size * BIN;
    const int start = row[2], end = row[(pooled_w - 1) * BIN + 3], own = min(q, pooled_w - 1) * BIN;
    const int from = row[own + 2], to = row[own + 3];
    const bool writes = q < pooled_w && c + mine < channels;
    float* out = y + (r * channels + c + mine) * size + q;
    int step[BESIDE]; /* to the planes of the channels; the last channel again where there are no more */
#pragma unroll
    for (int j = 0; j < BESIDE; ++j) step[j] = min(j, channels - 1 - c) * area;
    for (int p = 0; p < pooled_h; ++p, row += pooled_w * BIN, out += pooled_w) {
      const int top = row[0], bottom = row[1];
      float best = bottom > top && to > from ? -FLT_MAX : 0.0f;
      for (int left = start; left < end && bottom > top; left += WARP) {
        float v[BESIDE];
#pragma unroll
        for (int j = 0; j < BESIDE; ++j) v[j] = -FLT_MAX;
        const float* cell = planes + top * width + min(left + lane, width - 1);
#pragma unroll 1 /* a bin has few cells: more text would take more time than it saves */
        for (int h = top; h < bottom; ++h, cell += width) {
#pragma unroll
          for (int j = 0; j < BESIDE; ++j) v[j] = fmaxf(v[j], cell[step[j]]);
        }
#pragma unroll
        for (int j = 0; j < BESIDE; ++j) most[j][lane] = v[j];
        __syncwarp(ALL_LANES);
        const int last = min(to - left, WARP);
#pragma unroll 1
        for (int k = max(from - left, 0); k < last; ++k) best = fmaxf(best, most[mine][k]);
        __syncwarp(ALL_LANES);
      }
      if (writes) *out = best;
    }
  }
#else
  roi_pool_forward(n, x, rois, bins, num_rois, images, channels, height, width, pooled_h * pooled_w, y, 0);
#endif
}

/* planes: images * channels; every cell adds up in the order of the RoIs and their bins.  On a GPU a warp owns a plane:
   it adds up 32 bins at a time, those of one cell in turns. */
KERNEL(roi_pool_backward)(const int n, const int planes, const float* dy, const float* rois, const int* argmax,
                          const int num_rois, const int channels, const int area, const int size, float* dx) {
#ifdef __CUDACC__
  WARP_LOOP(p, lane, planes) {
    const int image = p / channels, c = p % channels;
    float* plane = dx + p * area;
    for (int cell = lane; cell < area; cell += WARP) plane[cell] = 0.0f;
    __syncwarp(ALL_LANES);
    for (int r = 0; r < num_rois; ++r) {
      if ((int)rois[r * 5] != image) continue;
      const int out = (r * channels + c) * size;
      int next = lane < size ? argmax[out + lane] : -1;
      float next_gradient = lane < size ? dy[out + lane] : 0.0f;
      for (int k = lane; k - lane < size; k += WARP) {
        const int cell = next;
        const float gradient = next_gradient;
        next = k + WARP < size ? argmax[out + k + WARP] : -1; /* read ahead, while the sums wait for memory */
        next_gradient = k + WARP < size ? dy[out + k + WARP] : 0.0f;
        const int turn = __popc(__match_any_sync(ALL_LANES, cell) & ((1u << lane) - 1));
        for (int now = 0; __ballot_sync(ALL_LANES, cell >= 0 && turn >= now); ++now) {
          if (cell >= 0 && turn == now) plane[cell] += gradient;
          __syncwarp(ALL_LANES);
        }
      }
    }
  }
#else
  KERNEL_LOOP(p, planes) {
    const int image = p / channels, c = p % channels;
    float* plane = dx + p * area;
    for (int cell = 0; cell < area; ++cell) plane[cell] = 0.0f;
    for (int r = 0; r < num_rois; ++r) {
      if ((int)rois[r * 5] != image) continue;
      const int out = (r * channels + c) * size;
      for (int k = out; k < out + size; ++k)
        if (argmax[k] >= 0) plane[argmax[k]] += dy[k];
    }
  }
#endif
}
