"""LRN, MVN, BatchNorm and Normalize."""

from __future__ import annotations

import numpy as np

from caffelite.backend import xp
from caffelite.backend.kernels import kernels
from caffelite.blob import Blob
from caffelite.layer import TEST, Layer, register
from caffelite.proto import message

LRNParameter = message("LRNParameter")
SEGMENT = 256  # elements that one thread adds up
SPAN = 32  # channels that a GPU's thread walks along in kernels/lrn.cu
WORTH_PIXELS = 2**14  # with fewer, threads of their own for each plane are more


@register("LRN")
class LRN(Layer):
    """y = x / (k + alpha / n sum x^2)^beta, the sum over the n elements of a window.

    ACROSS_CHANNELS: n = local_size channels around each. WITHIN_CHANNEL: local_size x local_size cells of the plane, n
    = local_size^2, and k is 1. Bottom and top: (N, C, H, W). Source: lrn_layer.cpp; Krizhevsky et al., "ImageNet
    classification with deep convolutional neural networks", section 3.3.
    """

    exact_bottoms = 1
    exact_tops = 1
    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.lrn_param
        size = param.local_size
        self.expect(size % 2 == 1, f"local_size must be odd, actual {size}")
        self.across = param.norm_region == LRNParameter.ACROSS_CHANNELS
        self.alpha = param.alpha / (size if self.across else size * size)
        self.k = param.k if self.across else 1.0  # the original ignores k within a channel

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.expect(len(shape) == 4, f"expected a bottom (N, C, H, W), actual {shape}")
        top[0].reshape(*shape)
        (images, channels, height, width), half = shape, self.param.lrn_param.local_size // 2
        self.planes = images * channels
        self.window = channels, height, width, self.across, half
        # kernels of their own for windows that registers hold, where pixels are many: a thread walks along channels
        pixels = images * height * width
        walks = self.across and half in (1, 2) and pixels >= WORTH_PIXELS
        self.walk = (pixels * -(-channels // SPAN), pixels) if walks else None
        self.along = channels, height * width, half

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, y, constants = bottom[0].array, top[0].array, (self.alpha, self.param.lrn_param.beta, self.k)
        if self.walk:
            kernels("lrn").lrn_forward_across(*self.walk, x, *self.along, *constants, y)
        else:
            kernels("lrn").lrn_forward(x.size, self.planes, x, *self.window, *constants, y)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        x, dy, dx, beta = bottom[0].array, top[0].gradient, bottom[0].gradient, self.param.lrn_param.beta
        constants, two_alpha_beta = (self.alpha, beta, self.k), 2 * self.alpha * beta
        if self.walk:
            kernels("lrn").lrn_backward_across(*self.walk, x, dy, *self.along, *constants, two_alpha_beta, dx)
            return
        ratios = xp.empty_like(x)
        kernels("lrn").lrn_backward_ratios(x.size, self.planes, x, dy, *self.window, *constants, ratios, dx)
        kernels("lrn").lrn_backward_windows(x.size, self.planes, x, ratios, *self.window, two_alpha_beta, dx)


def group_means(planes: int, size: int, groups: int, a, mean_a=None, b=None, mean_b=None):
    """Means over all planes of a group of (a - mean_a) (b - mean_b), float64 (groups,); what is None is left out.

    The mean of nothing is 0.
    """
    segments, rows = max(1, -(-size // SEGMENT)), planes // max(1, groups)
    sums = xp.empty((rows, groups, segments), np.float64)
    kernels("normalization").segment_sums(sums.size, segments, SEGMENT, size, groups, a, mean_a, b, mean_b, sums)
    return sums.sum(axis=2).sum(axis=0) / max(1, rows * size)


class Standardizing(Layer):
    """What BatchNorm and MVN share: y = (x - mean) / deviation, with a mean and a deviation for each group of planes.

    Nothing is kept for the backward pass but these, unless the layer works in place and so overwrites its input.
    """

    exact_bottoms = 1
    exact_tops = 1

    def geometry(self, planes: int, size: int, groups: int) -> None:
        """Say how the blob falls into planes and groups: plane p is of group p % groups."""
        self.planes, self.size, self.groups = planes, size, groups

    @property
    def zeros(self):
        """A mean that takes nothing off."""
        return xp.zeros(self.groups, np.float32)

    @property
    def ones(self):
        """A deviation that divides nothing."""
        return xp.ones(self.groups, np.float32)

    def moments(self, x):
        """Mean and (biased) variance of every group, float32 (groups,)."""
        mean = group_means(self.planes, self.size, self.groups, x).astype(np.float32)
        return mean, group_means(self.planes, self.size, self.groups, x, mean, x, mean).astype(np.float32)

    def standardize(self, x, mean, deviation, y) -> None:
        """y = (x - mean) / deviation; y may be x."""
        kernels("normalization").standardize(x.size, self.planes, self.size, self.groups, x, mean, deviation, y)

    def forward_standardized(self, bottom: list[Blob], top: list[Blob], mean, deviation, keep: bool) -> None:
        """Compute the top; `keep` it for the backward pass where the layer works in place."""
        self.mean, self.deviation = mean, deviation
        y = top[0].array
        self.standardize(bottom[0].array, mean, deviation, y)
        self.kept = None
        if keep and bottom[0] is top[0]:
            self.kept = y.copy()

    def backward_standardized(self, top: list[Blob], bottom: list[Blob]) -> None:
        """dx = (dy - mean(dy) - mean(dy y) y) / deviation, where mean and deviation are those of x."""
        dy, dx = top[0].gradient, bottom[0].gradient
        if self.kept is None:
            x, shift, scale = bottom[0].array, self.mean, self.deviation
        else:
            x, shift, scale = self.kept, self.zeros, self.ones
        shape = self.planes, self.size, self.groups
        mean_dy = group_means(*shape, dy).astype(np.float32)
        mean_dy_y = (group_means(*shape, dy, None, x, shift) / scale).astype(np.float32)
        kernels("normalization").standardize_backward(
            dx.size, *shape, x, shift, scale, dy, mean_dy, mean_dy_y, self.deviation, dx
        )  # fmt: skip


@register("BatchNorm")
class BatchNorm(Standardizing):
    """y = (x - mean) / sqrt(variance + eps), per channel, over the batch and the plane.

    Phase TRAIN uses the statistics of the batch and adds them to the running sums, TEST (or use_global_stats) uses the
    running sums. Bottom and top: (N, C, ...). Parameters: sum of means (C,); sum of variances with the correction
    m / (m - 1) (C,); the scale factor (1,) that both are divided by; none of them is learnt. Source:
    batch_norm_layer.cpp; Ioffe and Szegedy, "Batch normalization".
    """

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.batch_norm_param
        self.global_stats = param.use_global_stats if param.HasField("use_global_stats") else self.phase == TEST
        self.channels = self._channels(bottom[0])
        self.expect(self.channels > 0, f"expected a bottom (N, C, ...) with channels, actual shape {bottom[0].shape}")
        for shape in ((self.channels,), (self.channels,), (1,)):
            self.blobs.add_blob(*shape)
        for i in range(len(self.blobs)):
            if len(self.param.param) == i:
                self.param.param.add().lr_mult = 0
            self.expect(
                self.param.param[i].lr_mult == 0,
                f"the statistics are not learnt: param {i} must have lr_mult 0, actual {self.param.param[i].lr_mult}",
            )

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        blob = bottom[0]
        channels = self._channels(blob)
        self.expect(channels == self.channels, f"expected {self.channels} channels, actual shape {blob.shape}")
        top[0].reshape(*blob.shape)
        self.geometry(blob.shape[0] * channels, blob.count_from(2), channels)

    @staticmethod
    def _channels(blob: Blob) -> int:
        """Number of channels; one where there is no axis for them, and none in a scalar."""
        return blob.shape[1] if blob.ndim > 1 else blob.ndim

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        param, factor = self.param.batch_norm_param, self.blobs[2].array
        if self.global_stats:
            scale = xp.where(factor == 0, np.float32(0), 1 / xp.where(factor == 0, np.float32(1), factor))
            mean, variance = self.blobs[0].array * scale, self.blobs[1].array * scale
        else:
            mean, variance = self.moments(bottom[0].array)
            fraction = np.float32(param.moving_average_fraction)
            count = self.planes // self.channels * self.size
            correction = np.float32(count / (count - 1) if count > 1 else 1)
            factor *= fraction
            factor += 1
            for blob, values in ((self.blobs[0], mean), (self.blobs[1], correction * variance)):
                blob.array[...] = values + fraction * blob.array
        deviation = xp.sqrt(variance + np.float32(param.eps))
        self.forward_standardized(bottom, top, mean, deviation, keep=not self.global_stats)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        if self.global_stats:
            self.standardize(top[0].gradient, self.zeros, self.deviation, bottom[0].gradient)
        else:
            self.backward_standardized(top, bottom)


@register("MVN")
class MVN(Standardizing):
    """y = (x - mean) / (sqrt(variance) + eps) over each plane, or each image with across_channels.

    With normalize_variance false only the mean is taken off. As in the original the gradient is that of eps = 0. Bottom
    and top: (N, C, ...). Source: mvn_layer.cpp.
    """

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        blob = bottom[0]
        top[0].reshape(*blob.shape)
        rows = blob.count_from(0, 1 if self.param.mvn_param.across_channels else 2)
        self.geometry(rows, blob.count // max(rows, 1), rows)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.mvn_param
        mean, variance = self.moments(bottom[0].array)
        deviation = xp.sqrt(variance) + np.float32(param.eps) if param.normalize_variance else self.ones
        self.forward_standardized(bottom, top, mean, deviation, keep=param.normalize_variance)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        if self.param.mvn_param.normalize_variance:
            self.backward_standardized(top, bottom)
        else:
            dy = top[0].gradient
            mean = group_means(self.planes, self.size, self.groups, dy).astype(np.float32)
            self.standardize(dy, mean, self.ones, bottom[0].gradient)


@register("Normalize")
class Normalize(Layer):
    """y = scale x / |x|, the norm over the channels of each position, or over a whole image with across_spatial.

    Bottom and top: (N, C, ...). Parameter: one scale (), or one per channel (C,) unless channel_shared. Source:
    normalize_layer.cpp of the SSD fork; Liu et al., "ParseNet", section 3.2.
    """

    exact_bottoms = 1
    exact_tops = 1
    in_place = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        param = self.param.norm_param
        self.expect(bottom[0].ndim >= 2, f"expected a bottom (N, C, ...), actual shape {bottom[0].shape}")
        self.channels = bottom[0].shape[1]
        ones = message("FillerParameter")(type="constant", value=1)
        filler = param.scale_filler if param.HasField("scale_filler") else ones
        self.add_param(() if param.channel_shared else (self.channels,), filler)

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        blob = bottom[0]
        self.expect(
            blob.ndim >= 2 and blob.shape[1] == self.channels,
            f"expected {self.channels} channels, actual shape {blob.shape}",
        )
        top[0].reshape(*blob.shape)
        self.images, self.size = blob.shape[0], blob.count_from(2)
        self.planes = self.images * self.channels
        self.across_channels = not self.param.norm_param.across_spatial  # the norm of a position, not of an image

    def dots(self, a, b):
        """Sums of a b over what has one norm, float32: (images x size,) or (images,)."""
        if not self.across_channels:
            means = group_means(self.planes, self.size, self.planes, a, None, b)
            return means.reshape(self.images, self.channels).sum(axis=1).astype(np.float32) * np.float32(self.size)
        sums = xp.empty(self.images * self.size, np.float32)
        kernels("normalization").channel_sums(sums.size, self.channels, self.size, a, b, sums)
        return sums

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x, scale = bottom[0].array, self.blobs[0].array.reshape(-1)
        self.norms = xp.sqrt(self.dots(x, x) + np.float32(self.param.norm_param.eps))
        kernels("normalization").normalize_forward(
            x.size, self.planes, self.size, self.channels, self.across_channels, scale.size, x, self.norms, scale,
            top[0].array,
        )  # fmt: skip

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        x, dy, scale = bottom[0].array, top[0].gradient, self.blobs[0].array.reshape(-1)
        if self.param_propagate_down[0]:
            sums = xp.empty((self.images, self.channels), np.float64)
            kernels("normalization").normalize_backward_scale(
                self.planes, self.size, self.channels, self.across_channels, x, self.norms, dy, sums
            )  # fmt: skip
            sums = sums.sum(axis=0)
            self.blobs[0].gradient[...] += sums if self.blobs[0].ndim else sums.sum()
        if propagate_down[0]:
            kernels("normalization").normalize_backward(
                x.size, self.planes, self.size, self.channels, self.across_channels, scale.size, x, self.norms,
                self.dots(x, dy), scale, dy, bottom[0].gradient,
            )  # fmt: skip
