"""What every data set can tell, whatever its files look like, and the union of several."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from detection.datasets.annotation import Annotation, Finding
from detection.datasets.image import image_size
from detection.errors import DatasetError

log = logging.getLogger(__name__)

BACKGROUND = "__background__"

_ALL = "(tools/check_dataset.py lists all that is wrong)"
_SAID = ("box clipped", "degenerate box")
"""Kinds of warnings that tell of objects changed or left out: said once for a data set, with their number."""


class Dataset(ABC):
    """Images in a fixed order with their objects; both are read when they are asked for.

    `name`; `folder`, where it lies; `image_set`, the part of it, which names result files; `image_index`, the images'
    names; `classes`, "__background__" first; `year`, which decides how AP is measured (11 points before 2010).
    """

    name: str
    folder: Path
    image_set: str
    year: int
    image_index: list[str]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def num_classes(self) -> int:
        """Classes, background included."""
        return len(self.classes)

    @cached_property
    def class_to_index(self) -> dict[str, int]:
        """The number of each class; the background is 0."""
        return {c: i for i, c in enumerate(self.classes)}

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """The data sets whose images follow each other in this one: itself alone unless it is a union."""
        return (self,)

    @property
    @abstractmethod
    def has_annotations(self) -> bool:
        """Whether the objects are known: those of most competitions' test images are not."""

    @abstractmethod
    def image_path(self, i: int) -> Path:
        """The file of image i. Raises DatasetError where there is none, or more than one."""

    @abstractmethod
    def annotation(self, i: int) -> tuple[Annotation, list[Finding]]:
        """The annotation of image i without its faulty objects, and what was found in it. Raises DatasetError."""

    def image_size(self, i: int) -> tuple[int, int]:
        """Width and height of image i in pixels, from the file's header. Raises DatasetError."""
        return image_size(self.image_path(i))

    def gt_roidb(self) -> list[dict]:
        """The ground truth of every image; difficult objects are among it, crowds stand apart.

        Each entry: `boxes` (n, 4) float32 x1 y1 x2 y2 in pixels from 0, corners included; `gt_classes` (n,) int32;
        `difficult` (n,) bool; `crowd_boxes` (m, 4) and `crowd_classes` (m,) of crowds, which are no examples; `width`,
        `height` of the image. Raises DatasetError with the first error found; says how many boxes were clipped or left
        out.
        """
        return self._gt_roidb

    @cached_property
    def _gt_roidb(self) -> list[dict]:
        if not self.has_annotations:
            raise DatasetError(f"{self.name}: no annotations are there for {self.folder}: nothing to learn or measure")
        roidb, said, first = [], Counter(), {}
        for i in range(len(self)):
            try:
                annotation, findings = self.annotation(i)
            except DatasetError as e:
                raise DatasetError(f"{e}\n{_ALL}") from None
            for finding in findings:
                if finding.is_error:
                    raise DatasetError(f"{finding}\n{_ALL}")
                if finding.kind in _SAID:
                    said[finding.kind] += 1
                    first.setdefault(finding.kind, finding)
            roidb.append(self._entry(annotation))
        for kind, count in said.items():
            log.warning("%s: %s: %d, the first: %s", self.name, kind, count, first[kind])
        crowds = sum(len(entry["crowd_boxes"]) for entry in roidb)
        if crowds:
            log.info("%s: %d crowds are no examples, and proposals in them neither", self.name, crowds)
        return roidb

    def _entry(self, annotation: Annotation) -> dict:
        return {
            "boxes": np.array(annotation.boxes, np.float32).reshape(-1, 4),
            "gt_classes": self._numbers(annotation.names),
            "difficult": np.array(annotation.difficult, bool),
            "crowd_boxes": np.array(annotation.crowd_boxes, np.float32).reshape(-1, 4),
            "crowd_classes": self._numbers(annotation.crowd_names),
            "width": annotation.width,
            "height": annotation.height,
        }

    def _numbers(self, names: Sequence[str]) -> np.ndarray:
        return np.array([self.class_to_index[name] for name in names], np.int32)


class UnionDataset(Dataset):
    """Several data sets of the same classes as one, their images one after the other.

    Images that are named alike in two parts get their part's name in front. The year is the latest. Raises
    DatasetError where the classes differ, or an image's file is in two parts.
    """

    def __init__(self, parts: Sequence[Dataset], name: str | None = None):
        self._parts = tuple(part for whole in parts for part in whole.parts)
        first = self._parts[0]
        for part in self._parts[1:]:
            if part.classes != first.classes:
                raise DatasetError(
                    f"{first.name} + {part.name}: cannot be united, their classes differ: "
                    f"{', '.join(first.classes[1:])} and {', '.join(part.classes[1:])}"
                )
        self.name = name or "+".join(whole.name for whole in parts)
        self.folder, self.classes = first.folder, first.classes
        self.image_set = "+".join(dict.fromkeys(part.image_set for part in self._parts))
        self.year = max(part.year for part in self._parts)
        self._place = [(part, i) for part in self._parts for i in range(len(part))]
        places = Counter((part.folder.resolve(), part.image_index[i]) for part, i in self._place)
        twice = [str(folder / image) for (folder, image), count in places.items() if count > 1]
        if twice:
            raise DatasetError(f"{self.name}: {len(twice)} image(s) are in two of the parts, the first: {twice[0]}")
        names = Counter(part.image_index[i] for part, i in self._place)
        self.image_index = [
            part.image_index[i] if names[part.image_index[i]] == 1 else f"{part.name}/{part.image_index[i]}"
            for part, i in self._place
        ]

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """The data sets that are united; none of them is a union."""
        return self._parts

    @property
    def has_annotations(self) -> bool:
        """Whether those of all parts are known."""
        return all(part.has_annotations for part in self._parts)

    def image_path(self, i: int) -> Path:
        """The file of image i. Raises DatasetError where there is none, or more than one."""
        part, i = self._place[i]
        return part.image_path(i)

    def image_size(self, i: int) -> tuple[int, int]:
        """Width and height of image i in pixels. Raises DatasetError."""
        part, i = self._place[i]
        return part.image_size(i)

    def annotation(self, i: int) -> tuple[Annotation, list[Finding]]:
        """The annotation of image i and what was found in it, as its part tells. Raises DatasetError."""
        part, i = self._place[i]
        return part.annotation(i)

    @cached_property
    def _gt_roidb(self) -> list[dict]:
        return [entry for part in self._parts for entry in part.gt_roidb()]
