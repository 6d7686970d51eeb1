"""ROIPooling."""

from __future__ import annotations

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels, warps
from caffelite.blob import Blob
from caffelite.layer import TEST, Layer, register
from caffelite.layers.pooling import fitting

# in kernels/roi_pooling.cu: numbers per bin; channels that roi_maxima pools together, and bins in a row that it can do
BIN, BESIDE, ACROSS = 8, 4, 8


@register("ROIPooling")
class ROIPooling(Layer):
    """Max-pool every region of interest to a fixed grid.

    Corners times `spatial_scale` are rounded to cells, half away from zero; a RoI is at least one cell; bin p of a side
    spans floor(p size) to ceil((p + 1) size); an empty bin is 0. RoIs get no gradient. Bottoms: feature maps (N, C, H,
    W); RoIs (R, 5) as (index of the image, x1, y1, x2, y2) in image pixels, both corners inside. Top: (R, C, pooled_h,
    pooled_w). Source: roi_pooling_layer.cu of the Fast R-CNN fork; Girshick, "Fast R-CNN", section 2.1.
    """

    exact_bottoms = 2
    exact_tops = 1
    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.roi_pooling_param
        self.pooled = param.pooled_h, param.pooled_w
        self.expect(min(self.pooled) > 0, f"pooled_h and pooled_w must be positive, actual {self.pooled}")
        self.argmax = None  # the winners; kept from the first backward pass on
        self.bins = None

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        maps, rois = bottom[0].shape, bottom[1].shape
        self.expect(len(maps) == 4, f"expected feature maps (N, C, H, W), actual {maps}")
        self.expect(
            len(rois) >= 2 and bottom[1].count == 5 * rois[0], f"expected RoIs (R, 5), actual a blob of shape {rois}"
        )
        top[0].reshape(rois[0], maps[1], *self.pooled)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.check(bottom[1].read().reshape(-1, 5), bottom[0].shape[0])
        rois, (height, width) = bottom[1].read_array().reshape(-1, 5), bottom[0].shape[2:]
        bins = len(rois) * self.pooled[0] * self.pooled[1]
        self.bins = fitting(self.bins, (bins, BIN), np.int32)
        scale = self.param.roi_pooling_param.spatial_scale
        kernels("roi_pooling").roi_bins(bins, rois, height, width, *self.pooled, scale, self.bins)
        if self.argmax is not None:
            self.argmax = fitting(self.argmax, top[0].shape, np.int32)
        self.pool(bottom, top[0].array, self.argmax)

    def check(self, rois: np.ndarray, images: int) -> None:
        """Raise where a RoI is of an image that is not there, or not a number."""
        wrong = ~((rois[:, 0] > -1) & (rois[:, 0] < images)) | np.isnan(rois).any(axis=1)
        if wrong.any():
            at = int(wrong.argmax())
            raise self.error(
                f"RoI {at} is (image, x1, y1, x2, y2) = {tuple(rois[at].tolist())}: expected numbers, and an image "
                f"from 0 to {images - 1}"
            )

    def pool(self, bottom: list[Blob], y, argmax) -> None:
        """The maxima of all bins, and where they are; `argmax` may be None."""
        x, rois = bottom[0].array, bottom[1].read_array()
        groups, size = -(-x.shape[1] // BESIDE), self.pooled[0] * self.pooled[1]
        if self.phase == TEST and argmax is None and self.pooled[1] <= ACROSS:
            work = warps(groups * len(y))
            kernels("roi_pooling").roi_maxima(work, x, rois, self.bins, len(y), *x.shape, *self.pooled, y)
        else:
            kernels("roi_pooling").roi_pool_forward(y.size, x, rois, self.bins, len(y), *x.shape, size, y, argmax)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[1]:
            bottom[1].gradient[...] = 0
        if not propagate_down[0]:
            return
        dy, dx = top[0].gradient, bottom[0].gradient
        if self.argmax is None:
            self.argmax = xp.empty(dy.shape, np.int32)
            self.pool(bottom, xp.empty_like(dy), self.argmax)
        images, channels, height, width = dx.shape
        planes, size = images * channels, self.pooled[0] * self.pooled[1]
        kernels("roi_pooling").roi_pool_backward(
            warps(planes), planes, dy, bottom[1].read_array(), self.argmax, len(dy), channels, height * width, size, dx
        )

    def allow_force_backward(self, bottom_index: int) -> bool:
        return bottom_index == 0
