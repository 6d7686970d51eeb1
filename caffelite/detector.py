"""Detector: classifies windows of images, as R-CNN does. Interface: python/caffe/detector.py of Caffe."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np

from caffelite import io
from caffelite.classifier import transformer
from caffelite.net import TEST, Net


class Detector(Net):
    """A net in the TEST phase that is run on windows of images, warped to the size of its first input.

    With `context_pad`, a border of that many pixels of the warped window shows what surrounds it in the image (the
    mean where there is nothing). The other settings are those of `io.Transformer`.
    """

    def __init__(
        self,
        model_file,
        pretrained_file,
        mean: np.ndarray | None = None,
        input_scale: float | None = None,
        raw_scale: float | None = None,
        channel_swap: Sequence[int] | None = None,
        context_pad: int | None = None,
    ):
        super().__init__(model_file, TEST, weights=pretrained_file)
        self.transformer = transformer(self, mean, input_scale, raw_scale, channel_swap)
        self.configure_crop(context_pad)

    def detect_windows(self, images_windows: Iterable[tuple[str, Sequence]]) -> list[dict]:
        """Run the net on windows (y1, x1, y2, x2; the ends excluded) of image files.

        Takes pairs of a file name and its windows. Gives one dict per window: `window`, `prediction`, `filename`.
        """
        name = self.inputs[0]
        detections, inputs = [], []
        for filename, windows in images_windows:
            image = io.load_image(filename)
            for window in windows:
                inputs.append(self.transformer.preprocess(name, self.crop(image, window)))
                detections.append({"window": window, "filename": filename})
        if inputs:
            predictions = self.forward_all(**{name: np.stack(inputs)})[self.outputs[0]]
            for detection, prediction in zip(detections, predictions):
                detection["prediction"] = prediction
        return detections

    def detect_selective_search(
        self, image_fnames: Sequence[str], get_windows: Callable[[list[str]], list] | None = None
    ) -> list[dict]:
        """Run the net on proposals: `get_windows` gives the windows of each of a list of absolute file names.

        Without it, the proposals are those of OpenCV's selective search in its fast mode.
        """
        image_fnames = [os.path.abspath(name) for name in image_fnames]
        windows = (get_windows or selective_search)(image_fnames)
        return self.detect_windows(zip(image_fnames, windows))

    def crop(self, im: np.ndarray, window: Sequence[int]) -> np.ndarray:
        """A window (y1, x1, y2, x2) of an image (height, width, channels), with its context if one is configured.

        Raises InputError for a window that is empty or outside the image.
        """
        y1, x1, y2, x2 = (int(v) for v in window)
        if not (0 <= y1 < y2 <= im.shape[0] and 0 <= x1 < x2 <= im.shape[1]):
            raise io.InputError(f"window {(y1, x1, y2, x2)} is empty or not inside the image of shape {im.shape}")
        if not self.context_pad:
            return im[y1:y2, x1:x2]
        size = int(self.crop_dims[1])  # the input is taken to be square
        box = context_box((y1, x1, y2, x2), size / (size - 2 * self.context_pad))
        scale_h, scale_w = size / (box[2] - box[0] + 1), size / (box[3] - box[1] + 1)
        pad_y, pad_x = round(max(0, -box[0]) * scale_h), round(max(0, -box[1]) * scale_w)

        inside = np.clip(box, 0, (*im.shape[:2], *im.shape[:2]))
        height = min(round((inside[2] - inside[0] + 1) * scale_h), size - pad_y)
        width = min(round((inside[3] - inside[1] + 1) * scale_w), size - pad_x)
        crop = np.broadcast_to(self.crop_mean, self.crop_dims).astype(np.float32)
        content = im[inside[0] : inside[2], inside[1] : inside[3]]
        crop[pad_y : pad_y + height, pad_x : pad_x + width] = io.resize_image(content, (height, width))
        return crop

    def configure_crop(self, context_pad: int | None) -> None:
        """Set how many pixels of context surround the windows, and the mean that fills what lies outside the image."""
        name = self.inputs[0]
        back = np.argsort(self.transformer.transpose[name])
        self.crop_dims = np.array(self.blobs[name].shape[1:])[back]
        self.context_pad = context_pad or 0
        if not 0 <= 2 * self.context_pad < self.crop_dims[1]:
            raise io.InputError(
                f"context_pad {context_pad}: expected less than half of the input's {self.crop_dims[1]}"
            )
        mean = self.transformer.mean.get(name, np.zeros(1, np.float32).reshape(1, 1, 1)).transpose(back)
        if name in self.transformer.channel_swap and mean.shape[2] > 1:
            mean = mean[:, :, np.argsort(self.transformer.channel_swap[name])]
        self.crop_mean = mean / self.transformer.raw_scale.get(name, 1)


def context_box(window: Sequence[int], scale: float) -> np.ndarray:
    """A window (y1, x1, y2, x2) scaled about its centre, as whole numbers; it may leave the image."""
    y1, x1, y2, x2 = window
    half = np.array([(y2 - y1 + 1) / 2, (x2 - x1 + 1) / 2])
    centre = np.array([y1, x1]) + half
    return np.round(np.concatenate([centre - scale * half, centre + scale * half])).astype(int)


def selective_search(image_fnames: Sequence[str]) -> list[np.ndarray]:
    """Windows (y1, x1, y2, x2), int, of each image file by OpenCV's selective search in its fast mode."""
    result = []
    for filename in image_fnames:
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage((io.load_image(filename)[:, :, ::-1] * 255).round().astype(np.uint8))
        search.switchToSelectiveSearchFast()
        x, y, w, h = search.process().T
        # OpenCV ranks the boxes by chance; sorted, they are the same every time
        result.append(np.unique(np.stack([y, x, y + h, x + w], axis=1), axis=0))
    return result
