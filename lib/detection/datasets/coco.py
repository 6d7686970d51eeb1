"""Data sets of COCO: one JSON file of images, categories and annotations, and a folder of images."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from caffelite.paths import leads_outside
from detection.datasets.annotation import Annotation, Finding
from detection.datasets.dataset import BACKGROUND, Dataset
from detection.datasets.image import image_size
from detection.errors import DatasetError

_IMAGES_OF = {"minival": "val", "valminusminival": "val", "test-dev": "test"}
"""Image sets that are parts of another one's images."""


LARGEST = 1e12
"""Coordinates and areas are below this."""


@dataclass(frozen=True)
class CocoObjects:
    """The objects of one image as COCO's evaluation takes them, (n,) each and `boxes` (n, 4): x, y, width, height."""

    classes: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray


class CocoDataset(Dataset):
    """The images of a JSON file in COCO's format, in the order of their ids, with their boxes.

    Classes are numbered in the order of the file's categories. Boxes are made from x, y, width, height as
    py-faster-rcnn does: x2 = x + width - 1, clipped to the image. Raises DatasetError for a file that does not say
    which images, categories and annotations there are; a single annotation's faults are findings.
    """

    def __init__(self, file: str | Path, images: str | Path, name: str | None = None, year: int = 2014):
        self.file, self.folder, self.year = Path(file), Path(images), year
        self.name = name or self.file.stem
        self.image_set = self.file.stem.removeprefix("instances_").removeprefix("image_info_")
        content = _load(self.file)
        if not self.folder.is_dir():
            raise DatasetError(f"{self.folder}: expected the folder of the images of {self.file}, there is none")
        self._read_categories(content)
        self._read_images(content)
        self._read_annotations(content)

    @property
    def has_annotations(self) -> bool:
        """Whether the file has the list `annotations`."""
        return self._annotations is not None

    def image_path(self, i: int) -> Path:
        """The file of image i. Raises DatasetError where there is none."""
        path = self.folder / self._images[i]["file_name"]
        if not os.path.isfile(path):  # False too for names that no file can have
            raise DatasetError(f"{path}: image {self.image_ids[i]} of {self.file} is missing")
        return path

    def annotation(self, i: int) -> tuple[Annotation, list[Finding]]:
        """The annotation of image i without its faulty objects, and what was found in it. Raises DatasetError."""
        width, height = self._images[i]["width"], self._images[i]["height"]
        annotation, findings = Annotation(width, height), []

        def found(kind: str, message: str, is_error: bool = True) -> None:
            findings.append(Finding(kind, str(self.file), f"image {self.image_ids[i]}, {message}", is_error))

        size = image_size(self.image_path(i))
        if size != (width, height):
            found("size mismatch", f"says width {width} height {height}, the image has {size[0]} x {size[1]}")
        of_image = (self._annotations or {}).get(self.image_ids[i], [])
        if not of_image:
            found("no objects", "has no object", is_error=False)
        for one in of_image:
            if fault := self._fault(one):
                found(*fault)
                continue
            name = self.classes[self.class_of_category[one["category_id"]]]
            box, beyond = _corners(one["bbox"], width, height)
            label = f"annotation {one['number']} ({name}): the box {one['bbox']} (x, y, width, height)"
            if box is None or _area(one) <= 0:
                found("degenerate box", f"{label} has no area in the image of {width} x {height}; left out", False)
                continue
            if beyond > 0:
                found("box clipped", f"{label} leaves the image of {width} x {height} by {beyond:.2f} pixels", False)
            if one["iscrowd"]:
                annotation.crowd_names.append(name)
                annotation.crowd_boxes.append(box)
            else:
                annotation.names.append(name)
                annotation.boxes.append(box)
                annotation.difficult.append(False)
        return annotation, findings

    def objects(self, i: int) -> CocoObjects:
        """The objects of image i as they stand in the file. Raises DatasetError for a faulty one."""
        of_image = (self._annotations or {}).get(self.image_ids[i], [])
        for one in of_image:
            if fault := self._fault(one):
                raise DatasetError(f"{self.file}: image {self.image_ids[i]}, {fault[1]}")
        return CocoObjects(
            np.array([self.class_of_category[one["category_id"]] for one in of_image], int),
            np.array([one["bbox"] for one in of_image], np.float64).reshape(-1, 4),
            np.array([_area(one) for one in of_image], np.float64),
            np.array([one["iscrowd"] for one in of_image], bool),
        )

    @cached_property
    def category_of_class(self) -> dict[int, int]:
        """COCO's category id of every class but the background."""
        return {k: category for category, k in self.class_of_category.items()}

    def _fault(self, one: dict) -> tuple[str, str] | None:
        """Kind and message of what makes an annotation unusable, None where nothing does."""
        label = f"annotation {one['number']}"
        if not _is_integer(one["category_id"]) or one["category_id"] not in self.class_of_category:
            return "unknown class", f"{label}: category_id {one['category_id']!r} is none of the file's categories"
        box = one["bbox"]
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
            return "bad coordinates", f"{label}: expected bbox as four numbers, found {str(box)[:80]}"
        if one["iscrowd"] not in (0, 1):
            return "bad crowd flag", f"{label}: iscrowd is {one['iscrowd']!r}, expected 0 or 1"
        if one["area"] is not None and not _is_number(one["area"]):
            return "bad area", f"{label}: expected area as a number, found {one['area']!r}"
        return None

    def _read_categories(self, content: dict) -> None:
        self.class_of_category: dict[int, int] = {}
        names = []
        for number, one in enumerate(self._list(content, "categories"), 1):
            name = one.get("name")
            if not (_is_integer(one.get("id")) and isinstance(name, str) and name.strip()):
                self._refuse(f"category {number}: expected id and name, found {str(one)[:80]}")
            if one["id"] in self.class_of_category or name in names or name == BACKGROUND:
                self._refuse(f"category {number}: id {one['id']} or name {name!r} is taken")
            names.append(name)
            self.class_of_category[one["id"]] = len(names)
        if not names:
            self._refuse("has no categories")
        self.classes = (BACKGROUND, *names)

    def _read_images(self, content: dict) -> None:
        images = self._list(content, "images")
        for number, one in enumerate(images, 1):
            if not (_is_integer(one.get("id")) and all(_is_integer(one.get(key)) for key in ("width", "height"))):
                self._refuse(f"image {number}: expected whole numbers id, width and height, found {str(one)[:80]}")
            if not all(1 <= one[key] < LARGEST for key in ("width", "height")):
                self._refuse(f"image {one['id']}: has the size {str(one['width'])[:20]} x {str(one['height'])[:20]}")
            name = one.get("file_name")
            if not (isinstance(name, str) and name.strip() and "\0" not in name and not leads_outside(name)):
                self._refuse(f"image {one['id']}: expected a file_name in the folder of images, found {name!r}")
        if not images:
            self._refuse("has no images")
        # in the order of pycocotools' evaluation, which decides between equal scores
        self._images = sorted(
            ({key: one[key] for key in ("id", "width", "height", "file_name")} for one in images), key=lambda i: i["id"]
        )
        self.image_ids = [one["id"] for one in self._images]
        self.image_index = [PurePosixPath(one["file_name"]).with_suffix("").as_posix() for one in self._images]
        for what, values in (("id", self.image_ids), ("file_name", self.image_index)):
            repeated = [str(value) for value, count in Counter(values).items() if count > 1]
            if repeated:
                self._refuse(f"{len(repeated)} images share their {what} with another, the first: {repeated[0]}")

    def _read_annotations(self, content: dict) -> None:
        self._annotations: dict[int, list[dict]] | None = None
        if "annotations" not in content:
            return
        self._annotations = {image: [] for image in self.image_ids}
        for number, one in enumerate(self._list(content, "annotations"), 1):
            image = one.get("image_id")
            if not _is_integer(image) or image not in self._annotations:
                self._refuse(f"annotation {number}: image_id {str(image)[:80]} is none of the file's images")
            kept = {key: one.get(key) for key in ("category_id", "bbox", "area")}
            number = one["id"] if _is_integer(one.get("id")) else number
            self._annotations[image].append({"number": number, "iscrowd": one.get("iscrowd", 0), **kept})

    def _list(self, content: dict, key: str) -> list[dict[str, Any]]:
        value = content.get(key)
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            self._refuse(f"expected a list of objects {key!r}, found {str(value)[:80]}")
        return value

    def _refuse(self, message: str) -> None:
        raise DatasetError(f"{self.file}: {message}")


def named(name: str, year: int, image_set: str, data: Path) -> CocoDataset:
    """`coco_<year>_<image_set>` of the folder `data`/coco: annotations/instances_SETYEAR.json (or image_info_...) with
    the images in SETYEAR or images/SETYEAR. Raises DatasetError."""
    folder = data / "coco"
    files = [folder / "annotations" / f"{kind}_{image_set}{year}.json" for kind in ("instances", "image_info")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise DatasetError(f"{name}: expected {files[0]} or {files[1].name} (see data/README.md)")
    of_set = f"{_IMAGES_OF.get(image_set, image_set)}{year}"
    places = [folder / of_set, folder / "images" / of_set]
    images = next((place for place in places if place.is_dir()), None)
    if images is None:
        raise DatasetError(f"{name}: expected its images in {places[0]} or {places[1]} (see data/README.md)")
    return CocoDataset(file, images, name, year)


def _load(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DatasetError(f"{file}: there is no such file") from None
    except (OSError, ValueError, RecursionError) as e:  # ValueError: JSON's and the encoding's errors, and huge numbers
        raise DatasetError(f"{file}: cannot be read as JSON: {e}") from None
    if not isinstance(content, dict):
        raise DatasetError(f"{file}: expected an object with images, categories and annotations, found {type(content)}")
    return content


def _corners(bbox: list[float], width: int, height: int) -> tuple[tuple[float, float, float, float] | None, float]:
    """x1, y1, x2, y2 in the image, None where nothing is left; and by how many pixels the box leaves the image.

    Source: coco.py of py-faster-rcnn.
    """
    x, y, w, h = bbox
    x1, y1 = max(0.0, x), max(0.0, y)
    x2, y2 = min(width - 1.0, x1 + max(0.0, w - 1)), min(height - 1.0, y1 + max(0.0, h - 1))
    beyond = max(0.0, -x, -y, x + w - width, y + h - height)
    return (None if x2 < x1 or y2 < y1 or w <= 0 or h <= 0 else (x1, y1, x2, y2)), beyond


def _area(one: dict) -> float:
    """The area that the file states, that of the segment; the box's where it states none."""
    return one["bbox"][2] * one["bbox"][3] if one["area"] is None else one["area"]


def _is_number(value: Any) -> bool:
    """A number of a size that pixels and areas can have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
