"""MemoryData: images and labels that a program gives."""

from __future__ import annotations

import logging

import numpy as np

from caffelite.layer import register
from caffelite.layers.input import Source

log = logging.getLogger("caffelite")


@register("MemoryData")
class MemoryData(Source):
    """Images and labels from arrays given by `set_arrays` (net.set_input_arrays), over and over.

    Tops: data (batch_size, channels, height, width); label (batch_size,). Source: memory_data_layer.cpp.
    """

    exact_tops = 2

    def setup(self, bottom, top):
        p = self.param.memory_data_param
        self.shape = (p.batch_size, p.channels, p.height, p.width)
        self.expect(
            all(self.shape), f"expected batch_size, channels, height and width above 0, actual {list(self.shape)}"
        )
        self.give_shape(top[0], self.shape)
        self.give_shape(top[1], self.shape[:1])
        self.data = self.labels = None
        self.position = 0

    def set_arrays(self, data: np.ndarray, labels: np.ndarray) -> None:
        """Give the images [N, channels, height, width] and labels (N numbers) for the passes to come.

        N is a multiple of the batch size. Float32 arrays are not copied: changes to them show in later passes.
        """
        data, labels = np.asarray(data, np.float32), np.asarray(labels, np.float32)
        batch, *image = self.shape
        self.expect(
            data.ndim == 4 and data.shape[1:] == tuple(image) and len(data) > 0 and len(data) % batch == 0,
            f"expected images [a multiple of {batch}, {', '.join(map(str, image))}], actual {list(data.shape)}",
        )
        self.expect(
            labels.size == len(data) and labels.shape[:1] == data.shape[:1],
            f"expected {len(data)} labels, actual an array of shape {labels.shape}",
        )
        if self.param.HasField("transform_param"):
            log.warning("layer %r: transform_param does not apply to arrays, as in Caffe", self.name)
        self.data, self.labels, self.position = data, labels.reshape(len(data)), 0

    def forward(self, bottom, top):
        self.expect(self.data is not None, "no data yet: call net.set_input_arrays(data, labels) first")
        rows = slice(self.position, self.position + self.shape[0])
        top[0].assign(self.data[rows])
        top[1].assign(self.labels[rows])
        self.position = rows.stop % len(self.data)
