"""Data sets by name: `get("shapes_train")`, `get("voc_2007_trainval")`, `get("my/folder:train")`."""

from __future__ import annotations

import re
from pathlib import Path

from detection.datasets import shapes
from detection.datasets.voc import VOC_CLASSES, VocDataset
from detection.errors import DatasetError

_CHECKOUT = Path(__file__).resolve().parents[3]
# an installed package is no place for data: without a checkout around it, they lie where the user works
DATA = _CHECKOUT / "data" if (_CHECKOUT / "pyproject.toml").is_file() else Path("data")

NAMES = "shapes_SET, voc_YEAR_SET, FOLDER:SET or FOLDER:SET:CLASS,CLASS,..."


def get(name: str, data: str | Path = DATA) -> VocDataset:
    """The data set of a name, looked for in the folder `data`.

    * `shapes_train`, `shapes_test`: the generated set, `data`/shapes.
    * `voc_2007_trainval` and the like: `data`/VOCdevkit2007/VOC2007, or `data`/VOCdevkit/VOC2007.
    * `FOLDER:SET` or `FOLDER:SET:CLASS,CLASS,...`: any folder in VOC layout; its classes are found, and sorted, if not
      named. With `:zero-based` at the end its XML files count pixels from 0, else from 1 as PASCAL's do.

    Raises DatasetError.
    """
    data = Path(data)
    if match := re.fullmatch(r"shapes_(\w+)", name):
        folder = data / "shapes"
        if not folder.is_dir():
            raise DatasetError(f"{folder}: is not there; tools/make_shapes.py makes it")
        return VocDataset(folder, match[1], shapes.CLASSES, name)
    if match := re.fullmatch(r"voc_(\d{4})_(\w+)", name):
        year, image_set = match.groups()
        places = [data / f"VOCdevkit{year}" / f"VOC{year}", data / "VOCdevkit" / f"VOC{year}"]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise DatasetError(f"{name}: expected the data set in {places[0]} or {places[1]} (see data/README.md)")
        return VocDataset(folder, image_set, VOC_CLASSES, name, int(year))
    plain = name.removesuffix(":zero-based")
    if match := re.fullmatch(r"(.+?):([^:/\\]+)(?::([^:]+))?", plain):
        folder, image_set, classes = match.groups()
        names = [c.strip() for c in classes.split(",") if c.strip()] if classes else None
        return VocDataset(folder, image_set, names, zero_based=plain != name)
    raise DatasetError(f"{name}: not the name of a data set; expected {NAMES}")
