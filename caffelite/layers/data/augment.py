"""Augmentations of the SSD fork on images (height, width, channels) and their objects.

Objects are rows (label, instance id, xmin, ymin, xmax, ymax, difficult), float32, boxes as fractions of the image. The
original encodes the image as a JPEG between the steps; here it stays as it is. Source: im_transforms.cpp, sampler.cpp,
data_transformer.cpp.
"""

from __future__ import annotations

import cv2
import numpy as np

from caffelite.errors import CaffeliteError
from caffelite.images import MAX_PIXELS, resize_to
from caffelite.layers.ssd.boxes import areas, overlaps

BOX = slice(2, 6)
WARP, FIT_SMALL_SIZE, FIT_LARGE_SIZE_AND_PAD = 1, 2, 3  # ResizeParameter.Resize_mode
MAX_TRIALS = 10_000  # per image and sampler; the original's prototxts have 50
CENTER = 0  # EmitConstraint.EmitType
_INTERPOLATION = {  # ResizeParameter.Interp_mode
    1: cv2.INTER_LINEAR,
    2: cv2.INTER_AREA,
    3: cv2.INTER_NEAREST,
    4: cv2.INTER_CUBIC,
    5: cv2.INTER_LANCZOS4,
}
_BORDER = {1: cv2.BORDER_CONSTANT, 2: cv2.BORDER_REFLECT_101, 3: cv2.BORDER_REPLICATE}  # ResizeParameter.Pad_mode


def check_resize(param) -> None:
    """Raise CaffeliteError for a ResizeParameter without a size, or with what is not supported."""
    if not param.height or not param.width:
        raise CaffeliteError(
            f"resize_param: expected height and width above 0, actual {param.height} and {param.width}"
        )
    if param.height_scale or param.width_scale:
        raise CaffeliteError("resize_param: height_scale and width_scale are not supported; leave them out")


def resize(image: np.ndarray, param, generator: np.random.Generator) -> np.ndarray:
    """An image resized as a ResizeParameter says; one of its interpolation modes is drawn."""
    interpolation = cv2.INTER_LINEAR
    if param.interp_mode:
        interpolation = _INTERPOLATION[param.interp_mode[int(generator.integers(len(param.interp_mode)))]]
    old, new = image.shape[:2], (param.height, param.width)
    if param.resize_mode == WARP:
        return resize_to(image, new, interpolation)
    size = fitted_size(old, new, param.resize_mode)
    image = resize_to(image, size, interpolation)
    if param.resize_mode == FIT_LARGE_SIZE_AND_PAD:
        rows, columns = new[0] - size[0], new[1] - size[1]
        values = list(param.pad_value) or [0]
        if len(values) not in (1, image.shape[2]):
            raise CaffeliteError(f"expected pad_value once or for each of {image.shape[2]} channel(s), actual {values}")
        borders = rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
        values = values * (4 // len(values))  # OpenCV takes four
        image = cv2.copyMakeBorder(image, *borders, _BORDER[param.pad_mode], value=values).reshape(*new, -1)
    return image


def fitted_size(old: tuple[int, int], new: tuple[int, int], mode: int) -> tuple[int, int]:
    """Height and width in proportion to `old` that cover `new` (FIT_SMALL_SIZE) or fit into it (the other mode)."""
    aspect = np.float32(old[1]) / np.float32(old[0])
    wider = aspect > np.float32(new[1]) / np.float32(new[0])
    if wider == (mode == FIT_LARGE_SIZE_AND_PAD):
        return max(1, int(np.float32(new[1]) / aspect)), new[1]
    return new[0], max(1, int(aspect * np.float32(new[0])))


def resize_objects(objects: np.ndarray, param, old: tuple[int, int]) -> np.ndarray:
    """The objects of an image of size `old` = (height, width) after `resize`."""
    objects = objects.copy()
    new = np.array([param.width, param.height], np.float32)
    size = new
    if param.resize_mode == FIT_LARGE_SIZE_AND_PAD:
        aspect = np.float32(old[1]) / np.float32(old[0])
        wider = aspect > new[0] / new[1]
        size = np.array([new[0], new[0] / aspect] if wider else [new[1] * aspect, new[1]], np.float32)
    padding = (new - size) / 2
    low, high = objects[:, 2:4], objects[:, 4:6]
    low[...] = (padding + np.maximum(low * size, 0)) / new
    high[...] = (padding + np.minimum(high * size, new)) / new
    return objects


def project(objects: np.ndarray, box, emit) -> np.ndarray:
    """The objects in coordinates of the part `box` of the image, cut to it; without those that are outside of it.

    `emit` is an EmitConstraint that objects must fulfil, or None.
    """
    box = np.array(box, np.float32)
    boxes = objects[:, BOX]
    keep = (boxes[:, :2] < box[2:]).all(1) & (boxes[:, 2:] > box[:2]).all(1)
    if emit is not None:
        if emit.emit_type == CENTER:
            center = (boxes[:, :2] + boxes[:, 2:]) / 2
            keep &= (center >= box[:2]).all(1) & (center <= box[2:]).all(1)
        else:
            keep &= coverage(boxes, box) > np.float32(emit.emit_overlap)
    kept = objects[keep]
    kept[:, BOX] = np.clip((kept[:, BOX] - np.tile(box[:2], 2)) / np.tile(box[2:] - box[:2], 2), 0, 1)
    return kept[areas(kept[:, BOX]) > 0]


def mirror(objects: np.ndarray) -> np.ndarray:
    """The objects of the image turned left to right."""
    objects = objects.copy()
    objects[:, 2], objects[:, 4] = 1 - objects[:, 4], 1 - objects[:, 2].copy()
    return objects


def coverage(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The share of each box [N, 4] that lies in `box` [4]."""
    area = areas(boxes)
    return np.divide(_common_areas(boxes, box), area, out=np.zeros_like(area), where=area > 0)


def _common_areas(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    return areas(np.concatenate([np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])], 1))


def distort(image: np.ndarray, param, generator: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation, hue and the order of channels changed at random (DistortionParameter)."""

    def chance(probability: float) -> bool:
        return generator.random() < probability

    def contrast(image):
        if chance(param.contrast_prob):
            image = _linear(image, generator.uniform(param.contrast_lower, param.contrast_upper), 0)
        return image

    contrast_first = chance(0.5)
    if chance(param.brightness_prob):
        image = _linear(image, 1, generator.uniform(-param.brightness_delta, param.brightness_delta))
    if contrast_first:
        image = contrast(image)
    if chance(param.saturation_prob):
        image = _in_hsv(image, 1, generator.uniform(param.saturation_lower, param.saturation_upper), 0)
    if chance(param.hue_prob):
        image = _in_hsv(image, 0, 1, generator.uniform(-param.hue_delta, param.hue_delta))
    if not contrast_first:
        image = contrast(image)
    if chance(param.random_order_prob):
        image = image[:, :, generator.permutation(image.shape[2])]
    return image


def _linear(values: np.ndarray, factor: float, offset: float) -> np.ndarray:
    """Bytes * factor + offset, rounded and kept within bytes (convertTo of OpenCV)."""
    return np.clip(np.rint(values * np.float32(factor) + np.float32(offset)), 0, 255).astype(np.uint8)


def _in_hsv(image: np.ndarray, channel: int, factor: float, offset: float) -> np.ndarray:
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2HSV)
    hsv[:, :, channel] = _linear(hsv[:, :, channel], factor, offset)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def expand(image: np.ndarray, param, fill: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, tuple]:
    """The image somewhere on a larger canvas of colour `fill`; and the canvas (xmin, ymin, xmax, ymax) in the image's
    fractions, (0, 0, 1, 1) where it was left alone (ExpansionParameter)."""
    if generator.random() > param.prob or abs(param.max_expand_ratio - 1) < 1e-2:
        return image, (0, 0, 1, 1)
    ratio = generator.uniform(1, param.max_expand_ratio)
    old_height, old_width, channels = image.shape
    height, width = int(old_height * ratio), int(old_width * ratio)
    if height * width > MAX_PIXELS:
        raise CaffeliteError(f"expand_param: a canvas of {width} x {height}: at most {MAX_PIXELS:,} pixels")
    y, x = int(generator.uniform(0, height - old_height)), int(generator.uniform(0, width - old_width))
    canvas = np.empty((height, width, channels), image.dtype)
    canvas[...] = np.clip(np.rint(fill), 0, 255)
    canvas[y : y + old_height, x : x + old_width] = image
    return canvas, (-x / old_width, -y / old_height, (width - x) / old_width, (height - y) / old_height)


def cut(image: np.ndarray, box) -> np.ndarray:
    """The pixels of a part (xmin, ymin, xmax, ymax) of the image, at least one."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = np.clip(np.array(box, np.float32), 0, 1) * np.array([width, height] * 2, np.float32)
    x, y = min(int(x0), width - 1), min(int(y0), height - 1)
    return image[y : y + max(1, int(y1 - y0)), x : x + max(1, int(x1 - x0))]


def sample(objects: np.ndarray, samplers, generator: np.random.Generator) -> tuple | None:
    """A part of the image (xmin, ymin, xmax, ymax), one of those that the BatchSamplers find; None if there is none."""
    found = []
    for sampler in samplers:
        kept = 0
        for _ in range(sampler.max_trials if sampler.use_original_image else 0):
            if sampler.HasField("max_sample") and kept >= sampler.max_sample:
                break
            box = _draw_box(sampler.sampler, generator)
            if _fulfils(box, objects[:, BOX], sampler.sample_constraint):
                kept += 1
                found.append(box)
    return tuple(found[int(generator.integers(len(found)))]) if found else None


def check_samplers(layer, samplers) -> None:
    """Raise LayerError for BatchSamplers whose ranges are empty or leave the image."""
    for i, batch_sampler in enumerate(samplers):
        s = batch_sampler.sampler
        layer.expect(
            0 < s.min_scale <= s.max_scale <= 1 and 0 < s.min_aspect_ratio <= s.max_aspect_ratio < np.inf,
            f"batch_sampler {i}: expected 0 < min_scale <= max_scale <= 1, 0 < min_aspect_ratio <= max_aspect_ratio, "
            f"actual {s.min_scale:g}, {s.max_scale:g}, {s.min_aspect_ratio:g}, {s.max_aspect_ratio:g}",
        )
        layer.expect(
            batch_sampler.max_trials <= MAX_TRIALS,
            f"batch_sampler {i}: expected max_trials of at most {MAX_TRIALS}, actual {batch_sampler.max_trials}",
        )


def _draw_box(sampler, generator: np.random.Generator) -> np.ndarray:
    scale = generator.uniform(sampler.min_scale, sampler.max_scale)
    aspect = generator.uniform(sampler.min_aspect_ratio, sampler.max_aspect_ratio)
    aspect = min(max(aspect, scale**2), 1 / scale**2)
    width, height = min(scale * aspect**0.5, 1), min(scale / aspect**0.5, 1)
    x, y = generator.uniform(0, 1 - width), generator.uniform(0, 1 - height)
    return np.array([x, y, x + width, y + height], np.float32)


def _fulfils(box: np.ndarray, boxes: np.ndarray, constraint) -> bool:
    """Whether a part meets a SampleConstraint with any object; without bounds it does.

    As in the original, of the three kinds of bounds the first that is given decides.
    """
    for kind, measure in _MEASURES.items():
        low, high = f"min_{kind}", f"max_{kind}"
        if constraint.HasField(low) or constraint.HasField(high):
            values = measure(box, boxes)
            meets = np.ones(len(boxes), bool)
            if constraint.HasField(low):
                meets &= values >= np.float32(getattr(constraint, low))
            if constraint.HasField(high):
                meets &= values <= np.float32(getattr(constraint, high))
            return bool(meets.any())
    return True


_MEASURES = {
    "jaccard_overlap": lambda box, boxes: overlaps(box[None], boxes)[0],
    "sample_coverage": lambda box, boxes: _common_areas(boxes, box) / areas(box[None]),
    "object_coverage": lambda box, boxes: coverage(boxes, box),
}
