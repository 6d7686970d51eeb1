"""transform_param: what happens to an image before it enters the net. Source: data_transformer.cpp."""

from __future__ import annotations

import numpy as np

from caffelite.errors import CaffeliteError, FileFormatError
from caffelite.layer import TRAIN
from caffelite.layers.data import augment
from caffelite.proto.weights import read_blobproto


class Transform:
    """An image (height, width, channels) -> float32 (channels, height, width) = (pixels - mean) * scale.

    In this order: resize (resize_param, SSD fork), crop (anywhere in TRAIN, the middle in TEST), subtract mean_file or
    mean_value, multiply by scale, mirror with probability 1/2. A mean file has the size of the image before the crop.
    Raises CaffeliteError.
    """

    def __init__(self, param, phase: int):
        """`param` is a TransformationParameter."""
        self.param, self.phase = param, phase
        expect(not (param.force_color and param.force_gray), "expected force_color or force_gray, actual both")
        expect(not (param.mean_file and param.mean_value), "expected mean_file or mean_value, actual both")
        expect(not param.HasField("noise_param"), "noise_param is not supported; leave it out")
        if param.HasField("resize_param"):
            augment.check_resize(param.resize_param)
        self.color = True if param.force_color else False if param.force_gray else None
        self.crop = (param.crop_size, param.crop_size) if param.crop_size else (param.crop_h, param.crop_w)
        expect(all(self.crop) or not any(self.crop), "expected crop_h and crop_w, actual only one")
        self.scale = np.float32(param.scale)
        self.mean = _read_mean(param.mean_file) if param.HasField("mean_file") else None
        self.mean_values = np.array(param.mean_value or [0], np.float32)

    @np.errstate(invalid="ignore", over="ignore")  # records of floats may hold anything
    def __call__(self, image: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, tuple, bool]:
        """The transformed image, the crop (xmin, ymin, xmax, ymax as fractions), and whether it is mirrored."""
        p = self.param
        mirrored = p.mirror and bool(generator.integers(2))
        if p.HasField("resize_param"):
            image = augment.resize(image, p.resize_param, generator)
        height, width = image.shape[:2]
        mean = self._mean_of(image) if self.mean is not None else self.mean_value_of(image.shape[2])
        y, x, h, w = 0, 0, height, width
        if self.crop[0]:
            h, w = self.crop
            expect(h <= height and w <= width, f"a crop of {h} x {w} does not fit into an image of {height} x {width}")
            if self.phase == TRAIN:
                y, x = int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1))
            else:
                y, x = (height - h) // 2, (width - w) // 2
        result = image[y : y + h, x : x + w].transpose(2, 0, 1).astype(np.float32, order="C")
        result -= mean[:, y : y + h, x : x + w] if self.mean is not None else mean[:, None, None]
        result *= self.scale
        if mirrored:
            result = result[:, :, ::-1]
        return result, (x / width, y / height, (x + w) / width, (y + h) / height), mirrored

    def mean_value_of(self, channels: int) -> np.ndarray:
        """mean_value as one number, or one for each channel; 0 without it."""
        values = self.mean_values
        expect(
            len(values) in (1, channels),
            f"expected mean_value once or for each of {channels} channel(s), actual {len(values)} values",
        )
        return values

    def _mean_of(self, image: np.ndarray) -> np.ndarray:
        height, width, channels = image.shape
        expect(
            self.mean.shape == (channels, height, width),
            f"expected images of the mean's shape {self.mean.shape} (channels, height, width), actual "
            f"{(channels, height, width)}",
        )
        return self.mean


def expect(condition: bool, message: str) -> None:
    """Raise CaffeliteError unless the condition holds; the net adds the name of the layer."""
    if not condition:
        raise CaffeliteError(f"transform_param: {message}")


def _read_mean(path: str) -> np.ndarray:
    try:
        mean = read_blobproto(path)
    except FileFormatError as e:
        raise FileFormatError(f"transform_param.mean_file: {e}") from e
    expect(
        mean.ndim >= 3 and mean.size == np.prod(mean.shape[-3:]),
        f"mean_file {path}: expected one image 1 x channels x height x width, actual {mean.shape}",
    )
    return mean.reshape(mean.shape[-3:]).astype(np.float32, copy=False)
