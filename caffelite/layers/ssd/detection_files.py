"""Result files of DetectionOutput in the forms of VOC, COCO and ILSVRC, and boxes in pixels of the original images."""

from __future__ import annotations

import json
import logging
import os
import re

import numpy as np

from caffelite import proto
from caffelite.layers.ssd import boxes
from caffelite.paths import leads_outside

log = logging.getLogger("caffelite")


def read_name_sizes(path: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Names and (height, width) of images, from a file of lines `name height width`. Raises OSError, ValueError."""
    with open(path) as f:
        words = f.read().split()
    if len(words) % 3:
        raise ValueError(f"{path}: expected lines of name, height and width, actual {len(words)} words")
    return words[::3], [(int(h), int(w)) for h, w in zip(words[1::3], words[2::3])]


def to_pixels(box: np.ndarray, size: tuple[int, int], resize=None) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N, 4] of the net's input in pixels of an image of size (height, width), clipped to it, and their areas.

    `resize` is the ResizeParameter by which the image became the input, or None for plain warping. (OutputBBox)
    """
    height, width = size
    mode = resize.resize_mode if resize else None
    if resize and mode == resize.FIT_SMALL_SIZE and resize.height_scale and resize.width_scale:
        scaled = _scale(box, resize.height_scale, resize.width_scale)
        limit = np.array([width, height, width, height], np.float32)
        scaled = np.maximum(np.minimum(scaled, limit), 0)
        return scaled, boxes.areas(scaled)  # without the +1 of pixels below, as in the original
    if resize and mode == resize.FIT_LARGE_SIZE_AND_PAD:
        box = _remove_padding(box, np.float32(width) / np.float32(height), resize)
    scaled = _scale(np.clip(box, 0, 1), height, width)
    return scaled, boxes.areas(scaled, plus_one=width > 1 or height > 1)


def _scale(box: np.ndarray, height: int, width: int) -> np.ndarray:
    return box * np.array([width, height, width, height], np.float32)


def _remove_padding(box: np.ndarray, aspect: np.float32, resize) -> np.ndarray:
    """Boxes relative to the part of the padded input that shows the image; those outside of it are left as they are."""
    height, width = np.float32(resize.height), np.float32(resize.width)
    if not (height > 0 and width > 0):
        raise ValueError(f"expected positive height and width of resize_param, actual {height:g} and {width:g}")
    x = y = np.float32(0)
    if aspect > width / height:
        y = (height - width / aspect) / 2 / height
    else:
        x = (width - height * aspect) / 2 / width
    low, high = np.array([x, y], np.float32), np.array([1 - x, 1 - y], np.float32)
    outside = ((box[:, :2] >= high) | (box[:, 2:] <= low)).any(1)
    projected = (box - np.tile(low, 2)) / np.tile(high - low, 2)
    return np.where(outside[:, None], box, projected)


class DetectionFiles:
    """Collects detections image by image and writes them after every `count` images.

    VOC: a file per class, lines `name score xmin ymin xmax ymax`; ILSVRC: one file, lines `name label score xmin ymin
    xmax ymax`; COCO: one JSON list. Coordinates are in pixels, in lines cut to integers. Unlike the original, nothing
    but the files themselves is deleted from the output directory.
    """

    def __init__(self, param, names: list[str], sizes: list[tuple[int, int]], labels: dict[int, str], background: int):
        self.directory, self.prefix, self.format = param.output_directory, param.output_name_prefix, param.output_format
        self.resize = param.resize_param if param.HasField("resize_param") else None
        self.names, self.sizes, self.labels = names, sizes, labels
        self.count = param.num_test_image if param.HasField("num_test_image") else len(names)
        if not 0 < self.count <= len(names):
            raise ValueError(f"expected num_test_image from 1 to the {len(names)} names, actual {self.count}")
        if self.format not in ("VOC", "COCO", "ILSVRC"):
            log.warning("output_format %r is none of VOC, COCO, ILSVRC: no detections are written", self.format)
        self.background = background
        self.images: list[np.ndarray] = []
        os.makedirs(self.directory, exist_ok=True)

    @classmethod
    def from_param(cls, param) -> DetectionFiles | None:
        """What a DetectionOutputParameter asks for: None without output directory, label map or image sizes.

        Those files that are named must be there even if nothing is written, as in the original. Raises OSError,
        ValueError or PrototxtError.
        """
        save, labels, names, sizes = param.save_output_param, {}, [], []
        if save.label_map_file:
            items = proto.read_text(save.label_map_file, "LabelMap").item
            labels = {item.label: item.name for item in items}
            if len(labels) != len(items) or len(set(labels.values())) != len(items):
                raise ValueError(f"{save.label_map_file}: expected each label and name once")
            outside = [name for name in labels.values() if leads_outside(f"{save.output_name_prefix}{name}.txt")]
            if outside:
                raise ValueError(f"{save.label_map_file}: {outside[0]!r} names a file out of {save.output_directory}")
        if save.name_size_file:
            names, sizes = read_name_sizes(save.name_size_file)
        if not (save.output_directory and save.label_map_file and save.name_size_file):
            return None
        return cls(save, names, sizes, labels, param.background_label_id)

    def add(self, rows: np.ndarray) -> None:
        """Take the detections [N, 7] of the next image; write the files when it was the last of a round."""
        unknown = set(rows[:, 1].astype(int).tolist()) - set(self.labels)
        if unknown:
            raise ValueError(f"found labels {sorted(unknown)} that are not in the label map")
        self.images.append(rows)
        if len(self.images) == self.count:
            self._write()
            self.images.clear()

    def _results(self):
        """(image name, label, score, xmin, ymin, width, height) of all detections, rounded to hundredths."""
        for name, size, rows in zip(self.names, self.sizes, self.images):
            box = to_pixels(rows[:, 3:], size, self.resize)[0]
            box[:, 2:] -= box[:, :2]
            hundredths = box * np.float32(100)
            # C round(), half away from zero: np.round differs
            hundredths = np.trunc(hundredths + np.copysign(0.5, hundredths, dtype=np.float64))
            for row, values in zip(rows, (hundredths / 100).astype(np.float32)):
                yield name, int(row[1]), row[2], *values

    def _write(self) -> None:
        if self.format == "VOC":
            lines = {label: [] for label in self.labels if label != self.background}
            for name, label, *values in self._results():
                lines[label].append(f"{name} {_line(*values)}")
            for label, text in lines.items():
                self._save(f"{self.prefix}{self.labels[label]}.txt", text)
        elif self.format == "ILSVRC":
            self._save(f"{self.prefix}.txt", [f"{name} {label} {_line(*v)}" for name, label, *v in self._results()])
        elif self.format == "COCO":
            results = [
                {
                    "image_id": _number(name),
                    "category_id": _number(self.labels[label]),
                    "bbox": [float(str(v)) for v in box],  # the shortest decimal that is this float32
                    "score": float(str(score)),
                }
                for name, label, score, *box in self._results()
            ]
            self._save(f"{self.prefix}.json", ["[", ",\n".join(map(json.dumps, results)), "]"])

    def _save(self, name: str, lines: list[str]) -> None:
        with open(os.path.join(self.directory, name), "w") as f:
            f.writelines(f"{line}\n" for line in lines)


def _line(score: float, *box: float) -> str:
    x, y, width, height = map(int, box)
    return f"{score:g} {x} {y} {x + width} {y + height}"


def _number(text: str) -> int | str:
    """COCO's ids are numbers, names of other image sets are not."""
    return int(text) if re.fullmatch(r"-?\d+", text) else text
