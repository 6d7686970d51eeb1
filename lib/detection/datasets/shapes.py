"""The generated data set `shapes`: six kinds of objects on cluttered, textured backgrounds, in VOC layout.

Colours, textures and sizes say nothing about the class. Objects overlap; things of no class lie behind them.
The same options give the same files, byte for byte (with the same versions of OpenCV and NumPy).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from detection.datasets import shapes_drawing
from detection.datasets.shapes_drawing import Random, mask_of, outline, paint, place
from detection.errors import DatasetError
from detection.progress import watched

CLASSES = ("box", "circle", "cross", "ring", "star", "triangle")
CLUTTER = ("blob", "crescent", "bar")
SURFACES = ("plain", "gradient", "stripes", "waves", "checks", "dots", "noise")
BACKGROUNDS = ("gradient", "stripes", "waves", "checks", "noise", "patches", "noise", "patches")

_MANIFEST = "manifest.json"
_STREAMS = {"train": 0, "test": 1}


@dataclass(frozen=True)
class ShapesOptions:
    """How many images there are, and how hard they are; sizes in pixels, contrasts in grey levels of 255."""

    train: int = 300
    test: int = 100
    seed: int = 3
    width: tuple[int, int] = (224, 320)
    height: tuple[int, int] = (176, 240)
    objects: tuple[int, int] = (2, 6)
    side: tuple[int, int] = (32, 120)
    max_aspect: float = 1.6
    clutter: tuple[int, int] = (1, 6)
    object_contrast: float = 100.0
    surface_contrast: float = 26.0
    background_contrast: float = 32.0
    noise: float = 6.0
    min_visible: float = 0.65
    jpeg_quality: tuple[int, int] = (75, 95)
    difficult_visible: float = 0.75
    difficult_side: int = 22


@dataclass(frozen=True)
class Thing:
    """One object of a scene: class, box x1 y1 x2 y2 (from 0) of its visible pixels, and how much is visible."""

    name: str
    box: tuple[int, int, int, int]
    visible: float
    truncated: bool

    def is_difficult(self, options: ShapesOptions) -> bool:
        """Mostly hidden, or so small that its class is hard to tell."""
        side = min(self.box[2] - self.box[0], self.box[3] - self.box[1]) + 1
        return self.visible < options.difficult_visible or side < options.difficult_side


def draw_scene(random: Random, options: ShapesOptions) -> tuple[np.ndarray, list[Thing]]:
    """A picture (height, width, 3) uint8 BGR and the objects in it."""
    width, height = _draw_number(random, options.width), _draw_number(random, options.height)
    base = random.uniform(40, 215, 3)
    image = paint(str(random.choice(BACKGROUNDS)), random, height, width, base, options.background_contrast)
    for _ in range(_draw_number(random, options.clutter)):
        kind = str(random.choice(CLUTTER))
        contours = _random_contours(kind, random, height, width, random.uniform(10, 60), options.max_aspect)
        _draw(image, mask_of(contours, height, width), random, options.object_contrast / 2, options)

    owner = np.zeros((height, width), int)
    names, areas, inside = [], [], []
    for _ in range(_draw_number(random, options.objects)):
        name = str(random.choice(CLASSES))
        low, high = options.side
        side = low * (min(high, 0.65 * height) / low) ** random.uniform()
        for _ in range(20):
            contours = _random_contours(name, random, height, width, side, options.max_aspect)
            mask = mask_of(contours, height, width)
            area = _whole_area(contours)
            claimed = np.where(mask > 127, len(names) + 1, owner)
            seen = np.bincount(claimed.ravel(), minlength=len(names) + 2)[1:] / np.array([*areas, area])
            if seen.min() >= options.min_visible:
                _draw(image, mask, random, options.object_contrast, options)
                owner = claimed
                names.append(name)
                areas.append(area)
                inside.append(bool((mask > 127).sum() > 0.98 * area))
                break

    things = []
    for k, (name, area) in enumerate(zip(names, areas), 1):
        y, x = np.nonzero(owner == k)
        box = tuple(int(value) for value in (x.min(), y.min(), x.max(), y.max()))
        things.append(Thing(name, box, len(x) / area, not inside[k - 1]))
    return _photograph(image, random, options), things


def _draw_number(random: Random, limits: tuple[int, int]) -> int:
    """A whole number between two, both included."""
    return int(random.integers(limits[0], limits[1] + 1))


def _random_contours(
    kind: str, random: Random, height: int, width: int, side: float, max_aspect: float
) -> list[np.ndarray]:
    aspect = max_aspect ** random.uniform()
    centre = random.uniform(0.3 * side, np.array((width, height)) - 0.3 * side)
    return place(outline(kind, random), centre, side, aspect, random.uniform(0, 2 * np.pi))


def _whole_area(contours: list[np.ndarray]) -> float:
    """Pixels inside the first contour and outside the second, whether in the image or not."""
    areas = [abs(np.sum(c[:, 0] * np.roll(c[:, 1], -1) - c[:, 1] * np.roll(c[:, 0], -1))) / 2 for c in contours]
    return areas[0] - sum(areas[1:])


def _draw(image: np.ndarray, mask: np.ndarray, random: Random, contrast: float, options: ShapesOptions) -> None:
    """Paint a surface over the masked pixels, in a colour that differs from what is there by at least `contrast`."""
    y, x = np.nonzero(mask)
    if not len(x):
        return
    window = slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)
    behind, cover = image[window], mask[window][..., None] / 255
    mean = (behind * cover).sum(axis=(0, 1)) / cover.sum()
    colour = random.uniform(10, 245, 3)
    while np.sqrt(((colour - mean) ** 2).sum()) < contrast:
        colour = random.uniform(10, 245, 3)
    kind = str(random.choice(SURFACES))
    surface = paint(kind, random, *cover.shape[:2], colour, random.uniform(0.3, 1) * options.surface_contrast)
    image[window] = behind * (1 - cover) + surface * cover


def _photograph(image: np.ndarray, random: Random, options: ShapesOptions) -> np.ndarray:
    """Uneven light, sensor noise and 8 bits."""
    height, width = image.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = random.uniform(-0.22, 0.22, 2)
    light = random.uniform(0.85, 1.1) + slope[0] * x + slope[1] * y
    noise = random.normal(0, random.uniform(0.2, 1) * options.noise, image.shape)
    return np.clip(np.rint(image * light[..., None] + noise), 0, 255).astype(np.uint8)


def make(folder: str | Path, options: ShapesOptions = ShapesOptions(), force: bool = False) -> bool:
    """Write the data set to a folder; False if it is there already, made with the same options.

    Raises DatasetError if the folder holds something else.
    """
    folder = Path(folder)
    if options.seed < 0:
        raise DatasetError(f"{folder}: expected a seed of at least 0, actual {options.seed}")
    if min(options.train, options.test) < 1:
        raise DatasetError(
            f"{folder}: expected at least one image of each set, found {options.train} and {options.test}"
        )
    source = hashlib.sha256(b"".join(Path(file).read_bytes() for file in (__file__, shapes_drawing.__file__)))
    versions = {"generator": source.hexdigest()[:16], "opencv": cv2.__version__, "numpy": np.__version__}
    manifest = json.loads(json.dumps({**versions, "options": asdict(options)}))  # lists for tuples, as when read back
    if folder.exists() and _read_manifest(folder) == manifest and not force:
        return False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DatasetError(f"{folder}: its folder cannot be made: {e.strerror}") from None
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
        work = Path(place) / folder.name
        _write(work, options)
        (work / _MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        if folder.exists() and (force or _read_manifest(folder) != manifest):
            shutil.rmtree(folder)
        try:
            work.rename(folder)
        except OSError:  # another process was sooner
            if _read_manifest(folder) != manifest:
                raise
            return False
    return True


def _write(folder: Path, options: ShapesOptions) -> None:
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    scenes = [(split, i) for split in _STREAMS for i in range(getattr(options, split))]
    for split, i in watched(scenes, len(scenes), folder.name):
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([options.seed, _STREAMS[split], i])))
        image, things = draw_scene(random, options)
        quality = _draw_number(random, options.jpeg_quality)
        name = f"{split}_{i:05d}"
        jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        (folder / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg.tobytes())
        (folder / "Annotations" / f"{name}.xml").write_text(_annotation(name, image, things, options))
    for split in _STREAMS:
        names = "".join(f"{split}_{i:05d}\n" for i in range(getattr(options, split)))
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(names)


def _read_manifest(folder: Path) -> dict:
    """The manifest of a folder that this module made: what else lies there must not be replaced."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        if "generator" not in manifest or "options" not in manifest:
            raise ValueError
        return manifest
    except (OSError, TypeError, ValueError, RecursionError):
        raise DatasetError(f"{folder}: holds something else than shapes; move it, or name another folder") from None


def _annotation(name: str, image: np.ndarray, things: list[Thing], options: ShapesOptions) -> str:
    height, width, depth = image.shape
    lines = [
        "<annotation>",
        f"\t<filename>{name}.jpg</filename>",
        f"\t<size><width>{width}</width><height>{height}</height><depth>{depth}</depth></size>",
    ]
    for thing in things:
        x1, y1, x2, y2 = (value + 1 for value in thing.box)
        lines += [
            "\t<object>",
            f"\t\t<name>{thing.name}</name>",
            f"\t\t<truncated>{int(thing.truncated)}</truncated>",
            f"\t\t<difficult>{int(thing.is_difficult(options))}</difficult>",
            f"\t\t<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>",
            "\t</object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])
