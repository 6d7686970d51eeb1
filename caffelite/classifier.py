"""Classifier: a net that takes images and gives class probabilities. Interface: python/caffe/classifier.py of Caffe."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from caffelite import io
from caffelite.net import TEST, Net


class Classifier(Net):
    """A net in the TEST phase with the preprocessing of its first input.

    Images are resized to `image_dims` (height, width; default: the input's size), of which crops of the input's size
    are taken. `mean`, `input_scale`, `raw_scale` and `channel_swap` are the settings of `io.Transformer`.
    """

    def __init__(
        self,
        model_file,
        pretrained_file,
        image_dims: Sequence[int] | None = None,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
    ):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.crop_dims = np.array(self.blobs[self.inputs[0]].shape[2:])
        self.image_dims = self.crop_dims if image_dims is None else np.array(image_dims)

    def predict(self, inputs: Sequence[np.ndarray], oversample: bool = True) -> np.ndarray:
        """Class probabilities (images, classes) of a list of images (height, width, channels).

        With `oversample` the mean over the four corners, the centre and their mirror images; else of the centre alone.
        Raises InputError.
        """
        self._check(inputs)
        images = np.stack([io.resize_image(image, self.image_dims) for image in inputs])
        if oversample:
            crops = io.oversample(images, self.crop_dims)
        else:
            y, x = (self.image_dims - self.crop_dims) // 2
            crops = images[:, y : y + self.crop_dims[0], x : x + self.crop_dims[1]]
        name = self.inputs[0]
        data = np.stack([self.transformer.preprocess(name, crop) for crop in crops])
        predictions = self.forward_all(**{name: data})[self.outputs[0]]
        if oversample:
            predictions = predictions.reshape(len(images), 10, -1).mean(axis=1)
        return predictions

    def _check(self, inputs) -> None:
        channels = self.blobs[self.inputs[0]].shape[1]
        if isinstance(inputs, (str, os.PathLike)) or len(inputs) == 0:
            raise io.InputError(f"expected a list of images, as [caffe.io.load_image(file)], actual {inputs!r}")
        for i, image in enumerate(inputs):
            shape = np.shape(image)
            if len(shape) != 3 or shape[2] != channels:
                hint = "; one image is a list of one, too" if len(shape) == 2 and np.ndim(inputs) == 3 else ""
                raise io.InputError(f"image {i}: expected (height, width, {channels}), actual shape {shape}{hint}")


def transformer(net: Net, mean, input_scale, raw_scale, channel_swap) -> io.Transformer:
    """The Transformer of a net's first input, for images (height, width, channels); None leaves a step out."""
    name = net.inputs[0]
    result = io.Transformer({name: net.blobs[name].shape})
    result.set_transpose(name, (2, 0, 1))
    for set_value, value in (
        (result.set_mean, mean),
        (result.set_input_scale, input_scale),
        (result.set_raw_scale, raw_scale),
        (result.set_channel_swap, channel_swap),
    ):
        if value is not None:
            set_value(name, value)
    return result
