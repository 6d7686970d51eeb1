"""Data sets in the layout of PASCAL VOC: JPEGImages, Annotations (XML), ImageSets/Main/<set>.txt."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from xml.etree.ElementTree import ParseError

import numpy as np

from detection.datasets.annotation import Annotation, Finding, parse_xml, read_annotation
from detection.datasets.image import EXTENSIONS, image_size
from detection.errors import DatasetError

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on

log = logging.getLogger(__name__)


class VocDataset:
    """One image set of a folder in VOC layout; images and annotations are read when they are asked for.

    `classes` has "__background__" first; without it, all class names of the folder's annotations are found and sorted,
    so that every image set of a folder numbers them alike. `year` decides how AP is measured (11 points before 2010).
    Raises DatasetError for a folder or image set that does not exist, is empty or names an image twice.
    """

    def __init__(
        self,
        folder: str | Path,
        image_set: str,
        classes: Sequence[str] | None = None,
        name: str | None = None,
        year: int = 2007,
        zero_based: bool = False,
    ):
        self.folder, self.image_set, self.year, self.zero_based = Path(folder), image_set, year, zero_based
        self.name = name or f"{self.folder.resolve().name}_{image_set}"
        self.image_index = self._read_image_set()
        if classes is None:
            classes = self._find_classes()
        elif len(set(classes)) < len(classes):
            raise DatasetError(f"{self.name}: a class is named twice: {', '.join(classes)}")
        self.classes = ("__background__", *(c for c in classes if c != "__background__"))
        self.class_to_index = {c: i for i, c in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.image_index)

    @property
    def num_classes(self) -> int:
        """Classes, background included."""
        return len(self.classes)

    def image_path(self, i: int) -> Path:
        """The file of image i. Raises DatasetError where there is none, or more than one."""
        name = self.image_index[i]
        files = self._files_of_stem.get(name, [])
        if len(files) == 1:
            return files[0]
        folder = self.folder / "JPEGImages"
        if files:
            raise DatasetError(f"{folder}: image {name} is there more than once: {', '.join(f.name for f in files)}")
        hint = "; write image names without the ending" if (folder / name).is_file() else ""
        raise DatasetError(f"{folder / name}.jpg: image {i + 1} of {self.image_set}.txt is missing{hint}")

    def image_size(self, i: int) -> tuple[int, int]:
        """Width and height of image i in pixels, from the file's header. Raises DatasetError."""
        return image_size(self.image_path(i))

    def annotation_path(self, i: int) -> Path:
        """The annotation file of image i."""
        return self.folder / "Annotations" / f"{self.image_index[i]}.xml"

    def annotation(self, i: int) -> tuple[Annotation, list[Finding]]:
        """The annotation of image i without its faulty objects, and what was found in it. Raises DatasetError."""
        return read_annotation(self.annotation_path(i), self.image_size(i), self.classes[1:], self.zero_based)

    def gt_roidb(self) -> list[dict]:
        """The ground truth of every image; difficult objects are among it.

        Each entry: `boxes` (n, 4) float32 x1 y1 x2 y2 in pixels from 0, corners included; `gt_classes` (n,) int32;
        `difficult` (n,) bool; `width`, `height` of the image. Raises DatasetError with the first error found; says how
        many boxes were clipped.
        """
        return self._gt_roidb

    @cached_property
    def _gt_roidb(self) -> list[dict]:
        roidb, clipped = [], []
        for i in range(len(self)):
            annotation, findings = self.annotation(i)
            for finding in findings:
                if finding.is_error:
                    raise DatasetError(f"{finding}\n(tools/check_dataset.py lists all that is wrong)")
            clipped += [finding for finding in findings if finding.kind == "box clipped"]
            roidb.append(
                {
                    "boxes": np.array(annotation.boxes, np.float32).reshape(-1, 4),
                    "gt_classes": np.array([self.class_to_index[c] for c in annotation.names], np.int32),
                    "difficult": np.array(annotation.difficult, bool),
                    "width": annotation.width,
                    "height": annotation.height,
                }
            )
        if clipped:
            log.warning("%s: %d box(es) clipped by a pixel, the first: %s", self.name, len(clipped), clipped[0])
        return roidb

    def _read_image_set(self) -> list[str]:
        folder = self.folder / "ImageSets" / "Main"
        path = folder / f"{self.image_set}.txt"
        if not self.folder.is_dir():
            raise DatasetError(f"{self.folder}: expected a folder with JPEGImages, Annotations and ImageSets")
        if not path.is_file():
            sets = ", ".join(sorted(p.stem for p in folder.glob("*.txt"))) or "none"
            raise DatasetError(f"{path}: there is no such image set; those of this data set: {sets}")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise DatasetError(f"{path}: cannot be read as text: {e}") from None
        index = [line.strip() for line in lines if line.strip()]
        if not index:
            raise DatasetError(f"{path}: names no images")
        repeated = [f"{name} ({count} times)" for name, count in Counter(index).items() if count > 1]
        if repeated:
            raise DatasetError(f"{path}: names images more than once: {', '.join(repeated[:10])}")
        return index

    def _find_classes(self) -> list[str]:
        names = set()
        for path in (self.folder / "Annotations").glob("*.xml"):
            try:
                names.update((element.text or "").strip() for element in parse_xml(path).iterfind("object/name"))
            except (OSError, ParseError, ValueError, LookupError):
                continue  # told by name when this image is read
        names.discard("")
        if not names:
            raise DatasetError(f"{self.folder / 'Annotations'}: no annotation names a class")
        return sorted(names)

    @cached_property
    def _files_of_stem(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = {}
        folder = self.folder / "JPEGImages"
        if not folder.is_dir():
            raise DatasetError(f"{folder}: expected the folder of the images, there is none")
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in EXTENSIONS:
                files.setdefault(path.stem, []).append(path)
        return files
