"""Data sets in COCO's format for tests."""

import json
from pathlib import Path

import cv2
import numpy as np

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "traffic light"}]


def write_coco(folder: Path, annotations: list[dict] | None = None, **changes) -> Path:
    """A JSON file beside a folder `images` of 60 x 40 pixels, ids from 10 down; annotations get ids and iscrowd 0."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    listed = []
    for n in range(2):
        cv2.imwrite(str(folder / "images" / f"{n}.png"), np.full((40, 60, 3), 40 * n, np.uint8))
        listed.append({"id": 10 - n, "width": 60, "height": 40, "file_name": f"{n}.png"})
    content = {"images": listed, "categories": CATEGORIES}
    if annotations is not None:
        content["annotations"] = [{"id": n, "iscrowd": 0, **one} for n, one in enumerate(annotations, 1)]
    file = folder / "instances_some.json"
    file.write_text(json.dumps(content | changes))
    return file
