"""One annotation file of PASCAL VOC: what it says, and everything that is wrong with it."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

CORNERS = ("xmin", "ymin", "xmax", "ymax")
SIDES = ("width", "height")
MAX_BYTES = 2**22  # some 10,000 objects


@dataclass(frozen=True)
class Finding:
    """Something that a person should look at: an error makes the data set unusable, a warning does not.

    `kind` is one word for counting, `path` the file, `message` names the object and the values.
    """

    kind: str
    path: str
    message: str
    is_error: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


@dataclass
class Annotation:
    """The objects of one image; boxes are x1, y1, x2, y2 in pixels from 0, corners included.

    Crowds, boxes around many objects of a class (COCO), stand apart.
    """

    width: int = 0
    height: int = 0
    names: list[str] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    crowd_names: list[str] = field(default_factory=list)
    crowd_boxes: list[tuple[float, float, float, float]] = field(default_factory=list)


class _PlainTree(ElementTree.TreeBuilder):
    """Builds the tree of a document that declares no document type, and so no entities."""

    def doctype(self, name: str, public_id: str | None, system: str | None) -> None:
        raise ValueError(f"declares a document type ({name}): not needed here, and it could define entities")


def parse_xml(path: Path) -> ElementTree.Element:
    """The root element. Raises OSError, ElementTree.ParseError, ValueError (size, document types, encodings)."""
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES} bytes")
    return ElementTree.fromstring(data, ElementTree.XMLParser(target=_PlainTree()))


def read_annotation(
    path: Path, image_size: tuple[int, int], classes: Collection[str], zero_based: bool = False
) -> tuple[Annotation, list[Finding]]:
    """The annotation of an image of (width, height) pixels, and the findings; objects with an error are left out.

    Coordinates in the file count pixels from 1, as in PASCAL VOC, unless `zero_based`. A box that leaves the image by
    at most one pixel is clipped, which is a warning; one that leaves it by more is an error.
    """
    width, height = image_size
    annotation, findings = Annotation(width, height), []

    def found(kind: str, message: str, is_error: bool = True) -> None:
        findings.append(Finding(kind, str(path), message, is_error))

    try:
        root = parse_xml(path)
    except FileNotFoundError:
        found("missing annotation", "expected an annotation here, there is none")
        return annotation, findings
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as e:
        found("unreadable XML", f"cannot be read as XML: {e}")
        return annotation, findings

    size = root.find("size")
    if size is not None:
        stated = tuple(_number(size, key) for key in SIDES)
        if stated != (width, height):
            turned = ": turned by the camera's orientation tag?" if stated == (height, width) else ""
            found("size mismatch", f"says {_show(SIDES, stated)}, the image has {width} x {height}{turned}")

    objects = root.findall("object")
    if not objects:
        found("no objects", "has no object", is_error=False)
    for number, element in enumerate(objects, 1):
        name = (element.findtext("name") or "").strip()
        label = f"object {number} ({name or 'without a name'})"
        if name not in classes:
            found("unknown class", f"{label}: expected one of the classes {', '.join(classes)}")
            continue
        difficult = (element.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            found("bad difficult flag", f"{label}: difficult is {difficult!r}, expected 0 or 1")
            continue
        corners = [_number(element, f"bndbox/{key}") for key in CORNERS]
        if None in corners:
            texts = [element.findtext(f"bndbox/{key}") for key in CORNERS]
            found("bad coordinates", f"{label}: expected four numbers, found {_show(CORNERS, texts)}")
            continue
        values = _show(CORNERS, corners)
        x1, y1, x2, y2 = (c - (not zero_based) for c in corners)
        if x2 < x1 or y2 < y1:
            found("inverted box", f"{label}: the box ends before it begins: {values}")
            continue
        if min(x1, y1) < -1 or x2 > width or y2 > height:
            found("box outside", f"{label}: the box leaves the image of {width} x {height}: {values}")
            continue
        if min(x1, y1) < 0 or x2 > width - 1 or y2 > height - 1:
            found("box clipped", f"{label}: the box leaves the image of {width} x {height} by a pixel: {values}", False)
            x1, x2 = (min(max(x, 0.0), width - 1.0) for x in (x1, x2))
            y1, y2 = (min(max(y, 0.0), height - 1.0) for y in (y1, y2))
        box = (x1, y1, x2, y2)
        if x1 == x2 or y1 == y2:
            found("thin box", f"{label}: the box is one pixel wide or high: {values}", False)
        if (name, box) in zip(annotation.names, annotation.boxes):
            found("repeated object", f"{label}: the same class and box as an object before it: {values}", False)
        annotation.names.append(name)
        annotation.boxes.append(box)
        annotation.difficult.append(difficult == "1")
    return annotation, findings


def _number(element: ElementTree.Element, path: str) -> float | None:
    """The finite number in the text of a child element, None where there is none."""
    try:
        value = float(element.findtext(path) or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _show(names: Iterable[str], values: Iterable[float | str | None]) -> str:
    """Names with values for a message: `xmin 3 xmax nothing`."""
    return " ".join(
        f"{name} {'nothing' if value is None else f'{value:g}' if isinstance(value, float) else repr(value)}"
        for name, value in zip(names, values)
    )
