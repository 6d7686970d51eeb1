"""Data sets in the layout of PASCAL VOC: JPEGImages, Annotations (XML), ImageSets/Main/<set>.txt."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from xml.etree.ElementTree import ParseError

from detection.datasets.annotation import Annotation, Finding, parse_xml, read_annotation
from detection.datasets.dataset import BACKGROUND, Dataset
from detection.datasets.image import EXTENSIONS
from detection.errors import DatasetError

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on


class VocDataset(Dataset):
    """One image set of a folder in VOC layout.

    Without `classes`, all class names of the folder's annotations are found and sorted, so that every image set of a
    folder numbers them alike.
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
        self.classes = (BACKGROUND, *(c for c in classes if c != BACKGROUND))

    @cached_property
    def has_annotations(self) -> bool:
        """Whether an image of the set has an annotation file; those of VOC's test sets after 2007 are secret."""
        return any(os.path.isfile(self.annotation_path(i)) for i in range(len(self)))

    def image_path(self, i: int) -> Path:
        """The file of image i. Raises DatasetError where there is none, or more than one."""
        name = self.image_index[i]
        files = self._files_of_stem.get(name, [])
        if len(files) == 1:
            return files[0]
        folder = self.folder / "JPEGImages"
        if files:
            raise DatasetError(f"{folder}: image {name} is there more than once: {', '.join(f.name for f in files)}")
        hint = ""
        if name.lower().endswith(EXTENSIONS):
            hint = "; write image names without the ending"
        elif re.search(r"\s-?[01]$", name):
            hint = "; a list of the images of one class, with 1 and -1 behind the names, is no image set"
        raise DatasetError(f"{folder / name}.jpg: image {i + 1} of {self.image_set}.txt is missing{hint}")

    def annotation_path(self, i: int) -> Path:
        """The annotation file of image i."""
        return self.folder / "Annotations" / f"{self.image_index[i]}.xml"

    def annotation(self, i: int) -> tuple[Annotation, list[Finding]]:
        """The annotation of image i without its faulty objects, and what was found in it. Raises DatasetError."""
        return read_annotation(self.annotation_path(i), self.image_size(i), self.classes[1:], self.zero_based)

    def _read_image_set(self) -> list[str]:
        folder = self.folder / "ImageSets" / "Main"
        path = folder / f"{self.image_set}.txt"
        if not self.folder.is_dir():
            raise DatasetError(f"{self.folder}: expected a folder with JPEGImages, Annotations and ImageSets")
        if not path.is_file():
            sets = ", ".join(sorted(p.stem for p in folder.glob("*.txt")))
            way = f"those of this data set: {sets}" if sets else "write one: a text, in each line an image's name"
            raise DatasetError(f"{path}: there is no such image set; {way}{' without the ending' * (not sets)}")
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
