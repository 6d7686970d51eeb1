"""PriorBox: the default boxes of a feature map."""

from __future__ import annotations

import numpy as np

from caffelite.blob import Blob
from caffelite.layer import Layer, register


@register("PriorBox")
class PriorBox(Layer):
    """Boxes of given sizes and aspect ratios around the centre of every cell.

    A cell has, per min_size, a square of min_size, one of sqrt(min_size * max_size) where max_size is given, then
    min_size * (sqrt(r), 1 / sqrt(r)) for every aspect ratio r, each followed by its reciprocal if `flip`. Sizes are in
    pixels of the net's input.
    Bottoms: features (N, C, H, W); the net's input (N, 3, height, width). Top: (1, 2, H * W * boxes per cell * 4):
    corners as fractions of the image, and their variances. Source: prior_box_layer.cpp of the SSD fork.
    """

    exact_bottoms = 2
    exact_tops = 1
    in_place = False

    def setup(self, bottom, top):
        param = self.param.prior_box_param
        self.expect(len(param.min_size) > 0, "expected a min_size, actual none")
        self.expect(all(s > 0 for s in param.min_size), f"expected positive min_size, actual {list(param.min_size)}")
        sizes = [*param.min_size, *param.max_size]
        self.expect(all(s < 2**31 for s in sizes), f"expected sizes below 2^31 pixels, actual {sizes}")
        if param.max_size:
            self.expect(
                len(param.max_size) == len(param.min_size),
                f"expected one max_size per min_size, actual {len(param.max_size)} and {len(param.min_size)}",
            )
            for low, high in zip(param.min_size, param.max_size):
                self.expect(high > low, f"expected max_size greater than min_size, actual {high} and {low}")
        self.expect(
            len(param.variance) in (0, 1, 4) and all(v > 0 for v in param.variance),
            f"expected 1 or 4 positive variances, actual {list(param.variance)}",
        )
        self.image = self._height_width("img_size", "img_h", "img_w")
        self.step = self._height_width("step", "step_h", "step_w")
        self.sizes = self._cell_sizes(param)
        self.variances = np.broadcast_to(np.array(param.variance or [0.1], np.float32), 4)
        self.boxes, self.made_for = Blob(), None  # they depend on shapes only

    def _height_width(self, both: str, height: str, width: str) -> tuple[float, float] | None:
        """An option that is given once for both axes or once per axis; None if it is not given."""
        param = self.param.prior_box_param
        if param.HasField(height) or param.HasField(width):
            self.expect(not param.HasField(both), f"expected either {both} or {height} and {width}, actual both")
            values = getattr(param, height), getattr(param, width)
        elif param.HasField(both):
            values = (getattr(param, both),) * 2
        else:
            return None
        self.expect(min(values) > 0, f"expected positive {both} ({height}, {width}), actual {values}")
        return values

    def _cell_sizes(self, param) -> np.ndarray:
        """Widths and heights [boxes per cell, 2] in pixels, in their order."""
        ratios = [np.float32(1)]
        for ratio in map(np.float32, param.aspect_ratio):
            self.expect(0 < ratio < np.inf, f"expected positive and finite aspect_ratio, actual {ratio}")
            if all(abs(ratio - known) >= 1e-6 for known in ratios):
                ratios += [ratio, np.float32(1) / ratio] if param.flip else [ratio]
        sizes = []
        for i, size in enumerate(map(int, param.min_size)):  # the original cuts sizes to integers
            sizes.append((size, size))
            if param.max_size:
                sizes.append((np.sqrt(float(size * int(param.max_size[i]))),) * 2)
            # numpy 1 would make float64 of a Python integer and a float32
            sizes += [(np.float32(size) * np.sqrt(r), np.float32(size) / np.sqrt(r)) for r in ratios[1:]]
        return np.array(sizes, np.float32)

    def reshape(self, bottom, top):
        count = bottom[0].height * bottom[0].width * len(self.sizes) * 4
        self.expect(count > 0, f"expected a feature map with at least one cell, actual shape {bottom[0].shape}")
        top[0].reshape(1, 2, count)

    def forward(self, bottom, top):
        cells = bottom[0].height, bottom[0].width
        image = self.image or (bottom[1].height, bottom[1].width)
        if (cells, image) != self.made_for:
            self.boxes.reshape(*top[0].shape)
            self._make(cells, image)
            self.made_for = cells, image
        top[0].array[...] = self.boxes.array

    def _make(self, cells: tuple[int, int], image: tuple[float, float]) -> None:
        priors, variances = self.boxes.data[0].reshape(2, *cells, len(self.sizes), 4)
        for axis, shape in ((0, (-1, 1, 1)), (1, (1, -1, 1))):
            step = np.float32(self.step[axis]) if self.step else np.float32(image[axis]) / np.float32(cells[axis])
            offset = np.float32(self.param.prior_box_param.offset)
            centers = ((np.arange(cells[axis], dtype=np.float32) + offset) * step).reshape(shape).astype(np.float64)
            half = self.sizes[:, 1 - axis].astype(np.float64) / 2
            priors[..., 1 - axis] = (centers - half) / image[axis]
            priors[..., 3 - axis] = (centers + half) / image[axis]
        if self.param.prior_box_param.clip:
            np.clip(priors, 0, 1, out=priors)
        variances[...] = self.variances

    def backward(self, top, propagate_down, bottom):
        for blob, wanted in zip(bottom, propagate_down):
            if wanted:  # priors depend on shapes only
                blob.gradient[...] = 0
