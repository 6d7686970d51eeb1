"""Everything that is wrong with a data set, and what is in it."""

from __future__ import annotations

import numpy as np

from detection.datasets.annotation import Finding
from detection.datasets.dataset import Dataset
from detection.datasets.image import read_image
from detection.errors import DatasetError


def check(dataset: Dataset, decode: bool = False) -> list[Finding]:
    """All findings, image by image. With `decode` the images' pixels are read too, which finds damaged files."""
    findings = []
    for i in range(len(dataset)):
        kind = "missing image"
        try:
            path = dataset.image_path(i)
            kind = "unreadable image"
            if decode:
                read_image(path)
            findings += dataset.annotation(i)[1]
        except DatasetError as e:
            where, _, message = str(e).partition(": ")
            findings.append(Finding(kind, where, message))
    return findings


def summary(dataset: Dataset) -> str:
    """A table of objects per class with their share of difficult ones and their sizes, and the sizes of the images.

    Raises DatasetError: the data set must be free of errors.
    """
    roidb = dataset.gt_roidb()
    classes = np.concatenate([entry["gt_classes"] for entry in roidb])
    boxes = np.concatenate([entry["boxes"] for entry in roidb])
    difficult = np.concatenate([entry["difficult"] for entry in roidb])
    side = np.sqrt((boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1))

    row = "{:<24}{:>8}{:>8}{:>11}   {}".format
    lines = [row("class", "images", "objects", "difficult", "sqrt(area) in pixels: least, median, most")]
    for k, name in enumerate(dataset.classes[1:], 1):
        of_class = classes == k
        images = sum(k in entry["gt_classes"] for entry in roidb)
        lines.append(row(name, images, of_class.sum(), difficult[of_class].sum(), _spread(side[of_class])))
    lines.append(row("all", len(roidb), len(classes), difficult.sum(), _spread(side)))
    widths, heights = (np.array([entry[key] for entry in roidb]) for key in ("width", "height"))
    crowds = sum(len(entry["crowd_boxes"]) for entry in roidb)
    if crowds:
        lines.append(f"crowds, which are no examples: {crowds}")
    lines.append(f"images without objects: {sum(len(entry['boxes']) == 0 for entry in roidb)}")
    lines.append(f"image widths: {_spread(widths)}; heights: {_spread(heights)}")
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    return f"{values.min():.0f}, {np.median(values):.0f}, {values.max():.0f}" if len(values) else "none"
