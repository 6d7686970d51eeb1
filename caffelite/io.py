"""Images in and out, the Transformer that prepares them for a net, and conversions between arrays and messages.

The interface is pycaffe's (python/caffe/io.py); images are read with OpenCV in place of scikit-image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from google.protobuf.message import DecodeError
from scipy import ndimage

from caffelite.errors import CaffeliteError, FileFormatError
from caffelite.images import decode, decode_image, read_bytes
from caffelite.proto import caffe_pb2, message  # noqa: F401 (pycaffe's scripts take caffe_pb2 from here)


class InputError(CaffeliteError, ValueError):
    """An array that does not fit what it is meant for; a ValueError too, as in pycaffe."""


def blobproto_to_array(blob, return_diff: bool = False) -> np.ndarray:
    """The data (or diff) of a BlobProto, float32 (float64 where it holds doubles). Raises FileFormatError."""
    doubles, floats = (blob.double_diff, blob.diff) if return_diff else (blob.double_data, blob.data)
    values = np.array(doubles, np.float64) if doubles else np.array(floats, np.float32)
    legacy = any(blob.HasField(name) for name in ("num", "channels", "height", "width"))
    shape = (blob.num, blob.channels, blob.height, blob.width) if legacy else tuple(blob.shape.dim)
    return _reshaped(values, shape, "BlobProto")


def array_to_blobproto(arr: np.ndarray, diff: np.ndarray | None = None):
    """A BlobProto of an array of any shape, and of a diff of the same shape."""
    if diff is not None and diff.shape != arr.shape:
        raise InputError(f"array_to_blobproto: data {arr.shape} and diff {diff.shape} differ in shape")
    blob = message("BlobProto")(data=arr.astype(np.float32).ravel())
    blob.shape.dim.extend(arr.shape)
    if diff is not None:
        blob.diff.extend(diff.astype(np.float32).ravel())
    return blob


def arraylist_to_blobprotovector_str(arraylist: Sequence[np.ndarray]) -> bytes:
    """A list of arrays as a serialized BlobProtoVector."""
    return message("BlobProtoVector")(blobs=[array_to_blobproto(arr) for arr in arraylist]).SerializeToString()


def blobprotovector_str_to_arraylist(data: bytes) -> list[np.ndarray]:
    """The arrays of a serialized BlobProtoVector. Raises FileFormatError."""
    try:
        vector = message("BlobProtoVector").FromString(data)
    except DecodeError as e:
        raise FileFormatError(f"not a BlobProtoVector: {e}") from None
    return [blobproto_to_array(blob) for blob in vector.blobs]


def array_to_datum(arr: np.ndarray, label: int | None = None):
    """A Datum of an array (channels, height, width): uint8 is stored as bytes, all else as floats."""
    if arr.ndim != 3:
        raise InputError(f"array_to_datum: expected an array of shape (channels, height, width), actual {arr.shape}")
    datum = message("Datum")(channels=arr.shape[0], height=arr.shape[1], width=arr.shape[2])
    if arr.dtype == np.uint8:
        datum.data = arr.tobytes()
    else:
        datum.float_data.extend(arr.astype(np.float32).ravel())
    if label is not None:
        datum.label = label
    return datum


def datum_to_array(datum) -> np.ndarray:
    """The array (channels, height, width) of a Datum: uint8, or float32 where it holds floats.

    An encoded image (PNG, JPEG) is decoded, colours in the order blue, green, red. The label is `datum.label`.
    Raises FileFormatError.
    """
    if datum.encoded:
        return decode_image(datum.data, None, "Datum").transpose(2, 0, 1)
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    return _reshaped(values, (datum.channels, datum.height, datum.width), "Datum")


def _reshaped(values: np.ndarray, shape: tuple[int, ...], kind: str) -> np.ndarray:
    if min(shape, default=0) < 0 or values.size != np.prod(shape, dtype=object):
        raise FileFormatError(f"{kind}: {values.size} values do not fill the shape {shape}")
    return values.reshape(shape)


class Transformer:
    """Prepares images (height, width, channels) for the inputs of a net, and turns inputs back into images.

    `inputs` maps names of input blobs to their shapes (batch, channels, height, width). Of the steps of `preprocess`,
    each happens where it was set for the input. Raises InputError for unknown inputs and settings that do not fit.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int]]):
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.transpose: dict[str, Sequence[int]] = {}
        self.channel_swap: dict[str, Sequence[int]] = {}
        self.raw_scale: dict[str, float] = {}
        self.mean: dict[str, np.ndarray] = {}
        self.input_scale: dict[str, float] = {}

    def _shape(self, in_: str) -> tuple[int, ...]:
        if in_ not in self.inputs:
            raise InputError(f"{in_!r} is not one of the net's inputs: {', '.join(self.inputs)}")
        return self.inputs[in_]

    def preprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """A float32 input (channels, height, width) from an image (height, width, channels), which stays as it is.

        Steps: resize to the input's height and width, transpose, swap channels, times raw scale, minus mean, times
        input scale.
        """
        size = self._shape(in_)[2:]
        result = data.astype(np.float32)
        if result.shape[:2] != size:
            result = resize_image(result, size)
        if in_ in self.transpose:
            result = result.transpose(self.transpose[in_])
        if in_ in self.channel_swap:
            result = result[list(self.channel_swap[in_])]
        if in_ in self.raw_scale:
            result *= self.raw_scale[in_]
        if in_ in self.mean:
            result -= self.mean[in_]
        if in_ in self.input_scale:
            result *= self.input_scale[in_]
        return result

    def deprocess(self, in_: str, data: np.ndarray) -> np.ndarray:
        """The image (height, width, channels) that `preprocess` made into this input, but for the resizing.

        `data` is an input (channels, height, width), or a batch of one.
        """
        self._shape(in_)
        result = data.astype(np.float32).reshape(data.shape[-3:])
        if in_ in self.input_scale:
            result /= self.input_scale[in_]
        if in_ in self.mean:
            result += self.mean[in_]
        if in_ in self.raw_scale:
            result /= self.raw_scale[in_]
        if in_ in self.channel_swap:
            result = result[np.argsort(self.channel_swap[in_])]
        if in_ in self.transpose:
            result = result.transpose(np.argsort(self.transpose[in_]))
        return result

    def set_transpose(self, in_: str, order: Sequence[int]) -> None:
        """Order of the image's axes in the input; (2, 0, 1) makes (height, width, channels) Caffe's order."""
        axes = len(self._shape(in_)) - 1
        if sorted(order) != list(range(axes)):
            raise InputError(f"transpose of {in_!r}: expected an order of the axes 0 to {axes - 1}, actual {order}")
        self.transpose[in_] = order

    def set_channel_swap(self, in_: str, order: Sequence[int]) -> None:
        """Order of the channels, after the transpose; (2, 1, 0) makes RGB into BGR."""
        channels = self._shape(in_)[1]
        if sorted(order) != list(range(channels)):
            raise InputError(f"channel swap of {in_!r}: expected an order of {channels} channels, actual {order}")
        self.channel_swap[in_] = order

    def set_raw_scale(self, in_: str, scale: float) -> None:
        """Factor before the mean is subtracted; 255 for nets that learned from 0..255, as images here are 0..1."""
        self._shape(in_)
        self.raw_scale[in_] = scale

    def set_mean(self, in_: str, mean: np.ndarray) -> None:
        """What to subtract: one value per channel, or an array of the input's (channels, height, width)."""
        shape = self._shape(in_)
        if isinstance(mean, (str, os.PathLike)):
            raise InputError(
                f"mean of {in_!r}: expected an array, as np.load({os.fspath(mean)!r}), actual a file's name"
            )
        mean = np.asarray(mean, np.float32)
        if mean.ndim == 1 and len(mean) == shape[1]:
            mean = mean[:, np.newaxis, np.newaxis]
        elif mean.ndim == 2:
            mean = mean[np.newaxis]
        if mean.shape not in (shape[1:], (shape[1], 1, 1)):
            ways = {3: "; mean.mean(1).mean(1) has one value per channel", 4: "; mean[0] has the axes of one image"}
            way = ways.get(mean.ndim, "")
            raise InputError(f"mean of {in_!r}: expected shape ({shape[1]},) or {shape[1:]}, actual {mean.shape}{way}")
        self.mean[in_] = mean

    def set_input_scale(self, in_: str, scale: float) -> None:
        """Factor after the mean is subtracted."""
        self._shape(in_)
        self.input_scale[in_] = scale


def load_image(filename: str | os.PathLike, color: bool = True) -> np.ndarray:
    """An image file as float32 in [0, 1], RGB (height, width, 3), or gray (height, width, 1) without `color`.

    Gray images are repeated for colour, colours become gray by 0.2125 R + 0.7154 G + 0.0721 B (as in scikit-image), an
    alpha channel is dropped. Raises FileFormatError.
    """
    path = os.fspath(filename)
    image = decode(read_bytes(path), cv2.IMREAD_UNCHANGED, path)
    if image.dtype.kind == "u":
        image = image.astype(np.float32) / np.iinfo(image.dtype).max
    image = np.atleast_3d(image).astype(np.float32, copy=False)
    if image.shape[2] >= 3:
        image = image[:, :, 2::-1]
        if not color:
            image = image @ np.array([[0.2125], [0.7154], [0.0721]], np.float32)
    elif color:
        image = np.repeat(image[:, :, :1], 3, axis=2)
    return np.ascontiguousarray(image)


def resize_image(im: np.ndarray, new_dims: Sequence[int], interp_order: int = 1) -> np.ndarray:
    """An image (height, width, channels) resized to new_dims = (height, width), float32.

    The order of interpolation is that of the spline: 0 nearest, 1 linear, 3 cubic. As in pycaffe there is no smoothing
    when an image shrinks, and images of 1 or 3 channels align the outer edges of the outermost pixels, all others their
    centres. At the border the outermost pixels are repeated, where the scikit-image of Caffe's time darkened them.
    """
    height, width = (int(d) for d in new_dims)
    if im.ndim != 3 or 0 in im.shape or min(height, width) < 1:
        raise InputError(f"resize_image: cannot resize an image of shape {im.shape} to {(height, width)}")
    im = im.astype(np.float32, copy=False)
    if im.shape[2] not in (1, 3):
        return ndimage.zoom(im, (height / im.shape[0], width / im.shape[1], 1), order=interp_order)
    if interp_order == 1:
        return cv2.resize(im, (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, -1)
    zoom = (height / im.shape[0], width / im.shape[1], 1)
    result = ndimage.zoom(im, zoom, order=interp_order, mode="nearest", grid_mode=True)
    return result.clip(im.min(), im.max())


def oversample(images: Sequence[np.ndarray], crop_dims: Sequence[int]) -> np.ndarray:
    """The four corners, the centre and their mirror images of every image: (10 * N, height, width, channels), float32.

    `crop_dims` is (height, width) of the crops; all images are of one size. Raises InputError.
    """
    height, width, channels = images[0].shape
    h, w = (int(d) for d in crop_dims)
    if not (0 < h <= height and 0 < w <= width):
        raise InputError(f"oversample: crops of {h} x {w} do not fit into images of {height} x {width}")
    corners = [(y, x) for y in (0, height - h) for x in (0, width - w)] + [((height - h) // 2, (width - w) // 2)]
    crops = np.empty((len(images), 2, len(corners), h, w, channels), np.float32)
    for image, (crop, mirrored) in zip(images, crops):
        for i, (y, x) in enumerate(corners):
            crop[i] = image[y : y + h, x : x + w]
        mirrored[...] = crop[:, :, ::-1]
    return crops.reshape(-1, h, w, channels)
