"""Data sets by name: `get("shapes_train")`, `get("voc_2007_trainval+voc_2012_trainval")`, `get("my/folder:train")`."""

from __future__ import annotations

import re
from pathlib import Path

from detection.datasets import coco, shapes
from detection.datasets.coco import CocoDataset
from detection.datasets.dataset import Dataset, UnionDataset
from detection.datasets.voc import VOC_CLASSES, VocDataset
from detection.errors import DatasetError

__all__ = ["DATA", "NAMES", "CocoDataset", "Dataset", "UnionDataset", "VocDataset", "get", "parts"]

_CHECKOUT = Path(__file__).resolve().parents[3]
# an installed package is no place for data: without a checkout around it, they lie where the user works
DATA = _CHECKOUT / "data" if (_CHECKOUT / "pyproject.toml").is_file() else Path("data")

NAMES = (
    "shapes_SET, voc_YEAR_SET, coco_YEAR_SET, FOLDER:SET, FOLDER:SET:CLASS,CLASS,... or FILE.json:FOLDER; "
    "several with + between them"
)
_SHAPES = r"shapes_(\w+)"
_VOC = r"voc_(\d{4})_(\w+)"
_COCO = r"coco_(\d{4})_([\w-]+)"
_JSON = r"(.+\.json):(.+)"
_FOLDER = r"(.+?):([^:/\\]+)(?::([^:]+))?"


def get(name: str, data: str | Path = DATA) -> Dataset:
    """The data set of a name, looked for in the folder `data`.

    * `shapes_train`, `shapes_test`: the generated set, `data`/shapes.
    * `voc_2007_trainval` and the like: `data`/VOCdevkit2007/VOC2007, or `data`/VOCdevkit/VOC2007.
      `voc_2007_trainvaltest` is the union of trainval and test.
    * `coco_2014_train` and the like: `data`/coco/annotations/instances_train2014.json, images in `data`/coco/train2014.
    * `FOLDER:SET` or `FOLDER:SET:CLASS,CLASS,...`: any folder in VOC layout; its classes are found, and sorted, if not
      named. With `:zero-based` at the end its XML files count pixels from 0, else from 1 as PASCAL's do.
    * `FILE.json:FOLDER`: annotations in COCO's format, and the folder of the images.
    * several of these with `+` between them: their union.

    Raises DatasetError.
    """
    data = Path(data)
    union = parts(name)
    if len(union) > 1:
        return UnionDataset([get(part, data) for part in union])
    if match := re.fullmatch(_SHAPES, name):
        folder = data / "shapes"
        if not folder.is_dir():
            raise DatasetError(f"{folder}: is not there; tools/make_shapes.py makes it")
        return VocDataset(folder, match[1], shapes.CLASSES, name)
    if match := re.fullmatch(_VOC, name):
        return _voc(name, int(match[1]), match[2], data)
    if match := re.fullmatch(_COCO, name):
        return coco.named(name, int(match[1]), match[2], data)
    if match := re.fullmatch(_JSON, name):
        return CocoDataset(match[1], match[2])
    plain = name.removesuffix(":zero-based")
    if match := re.fullmatch(_FOLDER, plain):
        folder, image_set, classes = match.groups()
        names = [c.strip() for c in classes.split(",") if c.strip()] if classes else None
        return VocDataset(folder, image_set, names, zero_based=plain != name)
    raise DatasetError(f"{name}: not the name of a data set; expected {NAMES}")


def parts(name: str) -> list[str]:
    """The names of the data sets that one of this name is the union of; itself where it is none, as a folder's name may
    hold a + too."""
    split = name.split("+")
    return split if all(map(_is_name, split)) else [name]


def _is_name(name: str) -> bool:
    return any(re.fullmatch(form, name.removesuffix(":zero-based")) for form in (_SHAPES, _VOC, _COCO, _JSON, _FOLDER))


def _voc(name: str, year: int, image_set: str, data: Path) -> Dataset:
    places = [data / f"VOCdevkit{year}" / f"VOC{year}", data / "VOCdevkit" / f"VOC{year}"]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise DatasetError(f"{name}: expected the data set in {places[0]} or {places[1]} (see data/README.md)")
    if image_set == "trainvaltest" and not (folder / "ImageSets" / "Main" / "trainvaltest.txt").is_file():
        return UnionDataset([_voc(f"voc_{year}_{half}", year, half, data) for half in ("trainval", "test")], name)
    return VocDataset(folder, image_set, VOC_CLASSES, name, year)
