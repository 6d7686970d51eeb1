"""Fixtures that all tests of detection share."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.config import cfg


@pytest.fixture
def default_cfg():
    """The options with their defaults, which the test may change."""
    cfg.reset()
    yield cfg
    cfg.reset()


@pytest.fixture
def voc_folder(tmp_path) -> Callable[..., Path]:
    """Writes a folder in VOC layout: image names with objects (class, box from 1, difficult), one size for all."""

    def write(images: dict[str, list[tuple]], width: int = 60, height: int = 40, image_set: str = "all") -> Path:
        folder = tmp_path / "voc"
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for n, (name, objects) in enumerate(images.items()):
            pixels = np.random.default_rng(n).integers(0, 256, (height // 10, width // 10, 3)).astype(np.uint8)
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)
            cv2.imwrite(str(folder / "JPEGImages" / f"{name}.png"), pixels)
            (folder / "Annotations" / f"{name}.xml").write_text(annotation_xml(width, height, objects))
        (folder / "ImageSets" / "Main" / f"{image_set}.txt").write_text("".join(f"{name}\n" for name in images))
        return folder

    return write


def annotation_xml(width: int, height: int, objects: list[tuple]) -> str:
    """The text of an annotation."""
    text = f"<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    for name, (x1, y1, x2, y2), difficult in objects:
        text += f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox>"
        text += f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
    return text + "</annotation>"
