"""What an experiment needs that is not in the repository: where it comes from, and where it must lie."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from detection import datasets
from detection.datasets import DATA
from detection.experiments.study import ROOT, Row, StudyError

FAST_RCNN = "https://github.com/rbgirshick/fast-rcnn (data/scripts/fetch_{}.sh)"
VOC = "http://host.robots.ox.ac.uk/pascal/VOC/voc{}/{}"
VOC_ARCHIVES = {
    (2007, "trainval"): ("VOCtrainval_06-Nov-2007.tar", "md5 c52e279531787c972589f7e41ab4ae64"),
    (2007, "test"): ("VOCtest_06-Nov-2007.tar", "md5 b6e924de25625d8de591ea690078ad9f"),
    (2010, "trainval"): ("VOCtrainval_03-May-2010.tar", "md5 da459979d0c395079b5c75ee67908abb"),
    (2012, "trainval"): ("VOCtrainval_11-May-2012.tar", "md5 6cd6e144f989b92b3379bac3b3de84fd"),
}
"""Archives of PASCAL VOC; test images since 2010 are given to registered users only."""

PROPOSALS = "proposals"

PUBLISHED_YEARS = (2007, 2012)
"""The years of VOC whose proposals the authors published."""


@dataclass(frozen=True)
class Requirement:
    """A file or folder: `places` are where it may lie, the first is where to put it."""

    what: str
    places: tuple[Path, ...]
    source: str
    checksum: str = "none published"

    @property
    def found(self) -> Path | None:
        """The place where it lies, None if nowhere."""
        return next((place for place in self.places if place.exists()), None)

    def __str__(self) -> str:
        places = " or ".join(map(str, self.places))
        return f"{self.what}\n    get it from: {self.source}\n    checksum: {self.checksum}\n    expected at: {places}"


def proposals_file(row: Row, dataset: str) -> str | None:
    """The authors' files of proposals for a data set as tools take them (--proposals), None where they are made here.

    A union has one per part; where one part has none, all are made here.
    """
    if row.proposals == "search":
        return None
    files = []
    for part in parts(dataset):
        match = re.fullmatch(r"voc_(\d{4})_\w+", part)
        if not match or int(match[1]) not in PUBLISHED_YEARS:
            return None
        files.append(str(DATA / "selective_search_data" / f"{part}.mat"))
    return ",".join(files)


def parts(dataset: str) -> list[str]:
    """The names of the data sets that one is the union of."""
    split = []
    for part in datasets.parts(dataset):
        match = re.fullmatch(r"(voc_\d{4}_)trainvaltest", part)
        split += [f"{match[1]}trainval", f"{match[1]}test"] if match else [part]
    return split


def of_row(row: Row) -> list[Requirement]:
    """All that a row needs."""
    needed = [one for dataset in (row.train, row.test) for part in parts(dataset) for one in _of_dataset(part)]
    if row.weights:
        needed.append(_weights(row.weights))
    for dataset in (row.train, row.test):
        for file in (proposals_file(row, dataset) or "").split(","):
            if file:
                source = f"selective_search_data.tgz, {FAST_RCNN.format('selective_search_data')}"
                checksum = "md5 7078c1db87a7851b31966b96774cd9b9 (of the archive)"
                needed.append(Requirement(f"{PROPOSALS} {Path(file).name}", (Path(file),), source, checksum))
    return needed


def missing(rows: Iterable[Row]) -> list[Requirement]:
    """What the rows need and does not lie in any of its places, each once."""
    return [one for one in dict.fromkeys(one for row in rows for one in of_row(row)) if one.found is None]


def told(rows: Iterable[Row]) -> str:
    """All that is missing, as text; nothing where nothing is."""
    lacking = missing(rows)
    if not lacking:
        return ""
    listed, proposals = "\n".join(f"  {one}" for one in lacking), any(one.what.startswith(PROPOSALS) for one in lacking)
    count = f"{len(lacking)} {'is' if len(lacking) == 1 else 'are'}"
    return (
        f"of what these rows need {count} missing (a link to where you have it is enough):\n{listed}\n"
        + "--selective-search makes the proposals here; " * proposals
        + "--scale-down tries the whole way without any of this"
    )


def check(rows: Iterable[Row]) -> None:
    """Raise StudyError that names all that is missing."""
    if text := told(rows):
        raise StudyError(text)


def _of_dataset(name: str) -> list[Requirement]:
    if name.startswith("shapes_"):
        return []  # generated where it is missing
    if match := re.fullmatch(r"voc_(\d{4})_(\w+)", name):
        return [_voc(int(match[1]), match[2])]
    if match := re.fullmatch(r"coco_(\d{4})_([\w-]+)", name):
        return _coco(int(match[1]), match[2])
    if match := re.fullmatch(r"(.+\.json):(.+)", name):
        source = "yourself: annotations in COCO's format, and the folder of their images"
        return [Requirement(f"data set {name}", (Path(place),), source) for place in match.groups()]
    path, _, image_set = name.partition(":")
    folder = Path(path)
    file = Path("ImageSets", "Main", f"{image_set.split(':')[0]}.txt")
    source = "yourself: a folder in VOC layout, data/README.md says how"
    if folder.name == "raccoon":
        source = "https://github.com/datitran/raccoon_dataset, its images as JPEGImages and annotations as Annotations"
    return [Requirement(f"data set {folder.name}:{image_set}", (folder / file,), source)]


def _voc(year: int, image_set: str) -> Requirement:
    archive, checksum = VOC_ARCHIVES.get((year, image_set), (None, "none published"))
    if archive:
        source = VOC.format(year, archive)
    else:
        source = "http://host.robots.ox.ac.uk:8080 (PASCAL's evaluation server, after registration)"
    inside = Path(f"VOC{year}", "ImageSets", "Main", f"{image_set}.txt")
    places = DATA / f"VOCdevkit{year}" / inside, DATA / "VOCdevkit" / inside
    return Requirement(f"PASCAL VOC {year} {image_set}", places, source, checksum)


def _coco(year: int, image_set: str) -> list[Requirement]:
    folder, source = DATA / "coco", "https://cocodataset.org/#download"
    annotations = folder / "annotations"
    files = [annotations / f"{kind}_{image_set}{year}.json" for kind in ("instances", "image_info")]
    if image_set.startswith("test"):
        files.reverse()
    file_source = source
    if image_set == "minival":
        file_source = (
            "https://github.com/rbgirshick/py-faster-rcnn (data/README.md links to instances_minival2014.json)"
        )
    images = {"minival": "val", "valminusminival": "val", "test-dev": "test"}.get(image_set, image_set)
    places = folder / f"{images}{year}", folder / "images" / f"{images}{year}"
    return [
        Requirement(f"COCO annotations {image_set} {year}", tuple(files), file_source),
        Requirement(f"COCO images {images} {year}", places, source),
    ]


def _weights(file: str) -> Requirement:
    name = Path(file).name
    if name.startswith("squeezenet"):
        source = "https://github.com/forresti/SqueezeNet, SqueezeNet_v1.0"
        checksum = "sha256 1276a3a1f22f9aec37c809ec0985a01c62e0734454ce914219476a1cb91aec96"
        return Requirement(f"weights {name}", (ROOT / file,), source, checksum)
    source = f"imagenet_models.tgz, {FAST_RCNN.format('imagenet_models')}"
    checksum = "md5 8b1d4b9da0593fc70ef403284f810adc (of the archive)"
    return Requirement(f"weights {name}", (ROOT / file,), source, checksum)
