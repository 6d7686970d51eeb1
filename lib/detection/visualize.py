"""Pictures: detections drawn on images, montages, training curves and precision-recall curves."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from caffelite.errors import FileFormatError
from detection.evaluation.voc import Evaluation
from detection.training_log import LAST, at_the_end, loss_names

_FONT = cv2.FONT_HERSHEY_DUPLEX
_PAPER = (32, 28, 26)
_FAR = 2**24  # pixels: outside any image, and drawn by OpenCV, which takes numbers of 32 bits
CELL = (400, 300)
"""Width and height in pixels that an image of a montage has at most."""


def class_colour(k: int) -> tuple[int, int, int]:
    """A bright BGR colour for class k, far from those of its neighbours."""
    hue = (0.04 + k * 0.61803398875) % 1  # steps of the golden ratio never come close to each other
    red, green, blue = colorsys.hls_to_rgb(hue, (0.5, 0.62, 0.72)[k % 3], 0.9)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: Sequence[int],
    labels: Sequence[str],
    zoom: float = 1.0,
    thin: bool = False,
) -> np.ndarray:
    """A copy of the BGR image (height, width, 3) uint8 with boxes and their labels.

    `boxes` (n, 4) are x1 y1 x2 y2 in pixels from 0 of the image before it was made `zoom` times as large, `classes`
    (n,) the numbers that choose the colours. Of eight places at the edges of its box a label takes the one where it
    covers least of other labels; the last choose first. `thin` boxes have lines of one pixel.
    """
    image = image.copy()
    diagonal = math.hypot(*image.shape[:2])
    line = 1 if thin else max(2, round(diagonal / 320))
    corners = np.nan_to_num(np.asarray(boxes, np.float64).reshape(-1, 4)).clip(-_FAR, _FAR)
    corners = np.rint((corners + (0, 0, 1, 1)) * zoom - (0, 0, 1, 1)).astype(int).tolist()
    for (x1, y1, x2, y2), k in zip(corners, classes):
        if not thin:
            cv2.rectangle(image, (x1, y1), (x2, y2), (0, 0, 0), line + 2)  # a dark rim, seen on bright ground
        cv2.rectangle(image, (x1, y1), (x2, y2), class_colour(k), line)
    plates: list[_Plate] = []
    for corner, k, label in list(zip(corners, classes, labels))[::-1]:
        if label:
            plates.append(_Plate(image, corner, label, class_colour(k), max(0.4, diagonal / 1500), plates))
    for plate in plates[::-1]:
        plate.draw(image)
    return image


def draw_detections(
    image: np.ndarray,
    dets: Sequence[np.ndarray],
    classes: Sequence[str],
    threshold: float = 0.5,
    zoom: float = 1.0,
) -> np.ndarray:
    """A copy of the image with the detections of every class, `dets[class]` (n, 5: x1 y1 x2 y2 score), best on top.

    Those with a score below `threshold` are left out. `classes` are all names, background first; `zoom` as in
    `draw_boxes`.
    """
    shown = [(det[4], k, det[:4]) for k in range(1, len(classes)) for det in dets[k] if det[4] >= threshold]
    shown.sort(key=lambda one: one[0])
    labels = [f"{classes[k]} {score:.2f}" for score, k, _ in shown]
    return draw_boxes(image, np.array([box for _, _, box in shown]), [k for _, k, _ in shown], labels, zoom)


class _Plate:
    """A label on a plate of its colour: where it lies beside its box, and how it is drawn."""

    def __init__(
        self,
        image: np.ndarray,
        box: Sequence[int],
        text: str,
        colour: tuple[int, int, int],
        size: float,
        others: Sequence[_Plate],
    ):
        self.text, self.colour, self.size = text, colour, size
        (width, height), self.below = cv2.getTextSize(text, _FONT, size, 1)
        self.margin = max(2, round(5 * size))
        self.width, self.height = width + 2 * self.margin, height + self.below + 2 * self.margin
        x1, y1, x2, y2 = box
        right = x2 + 1 - self.width
        # above the box, inside it at the top, below it, inside it at the bottom; on the left, then on the right
        places = [(x, y) for x in (x1, right) for y in (y1 - self.height, y1, y2 + 1, y2 + 1 - self.height)]
        free = [(x, y) for x, y in places if 0 <= y <= image.shape[0] - self.height]
        last = max(0, image.shape[1] - self.width)
        fitting = [(min(max(0, x), last), y) for x, y in free] or [(min(max(0, x1), last), 0)]
        self.left, self.top = min(fitting, key=lambda place: sum(self._shared(place, other) for other in others))

    def _shared(self, place: tuple[int, int], other: _Plate) -> int:
        """The pixels of another plate that this one would cover at a place."""
        wide = min(place[0] + self.width, other.left + other.width) - max(place[0], other.left)
        high = min(place[1] + self.height, other.top + other.height) - max(place[1], other.top)
        return max(0, wide) * max(0, high)

    def draw(self, image: np.ndarray) -> None:
        right, bottom = self.left + self.width, self.top + self.height
        cv2.rectangle(image, (self.left, self.top), (right - 1, bottom - 1), self.colour, cv2.FILLED)
        blue, green, red = self.colour
        ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 130 else (255, 255, 255)
        at = self.left + self.margin, bottom - self.below - self.margin
        cv2.putText(image, self.text, at, _FONT, self.size, ink, 1, cv2.LINE_AA)


def fit_cell(image: np.ndarray) -> tuple[np.ndarray, float]:
    """An image shrunk or enlarged to fit the cell of a montage, and how many times as large it is.

    What is drawn at that size keeps its lines and letters.
    """
    zoom = min(CELL[0] / image.shape[1], CELL[1] / image.shape[0])
    height, width = (max(1, round(length * zoom)) for length in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image, zoom
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC), zoom


def montage(images: Sequence[np.ndarray], columns: int = 4) -> np.ndarray:
    """One BGR picture of several, each shrunk or enlarged to fit a cell of CELL pixels."""
    width, height = CELL
    gap = 6
    rows = math.ceil(len(images) / columns)
    page = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), _PAPER, np.uint8)
    for n, image in enumerate(images):
        image, _ = fit_cell(image)
        row, column = divmod(n, columns)
        top = gap + row * (height + gap) + (height - image.shape[0]) // 2
        left = gap + column * (width + gap) + (width - image.shape[1]) // 2
        page[top : top + image.shape[0], left : left + image.shape[1]] = image
    return page


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write a BGR image; the ending of the path chooses the format. Raises FileFormatError where that fails."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written, code = cv2.imencode(path.suffix, image)
    except cv2.error:
        written = False
    if not written:
        raise FileFormatError(f"{path}: cannot be written as an image; the name should end with .png or .jpg")
    path.write_bytes(code.tobytes())


def plot_training(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: str | Path, title: str = ""
) -> None:
    """Write a picture of training curves: names with iterations and values, smoothed over 1/40 of their length.

    Values that are NaN are left out.
    """
    figure, axes = _figure(title, "iteration", "loss")
    for n, (name, (iterations, values)) in enumerate(curves.items()):
        iterations, values = np.asarray(iterations, float), np.asarray(values, float)
        label = f"{name}: {at_the_end(values)}, mean of the last {min(LAST, len(values))}"
        iterations, values = iterations[np.isfinite(values)], values[np.isfinite(values)]
        colour = f"C{n}"
        window = max(1, len(values) // 40)
        axes.plot(iterations, values, color=colour, alpha=0.2, linewidth=0.8)
        if len(values):
            kernel = np.ones(window)
            values = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
        axes.plot(iterations, values, color=colour, label=label)
    axes.set_ylim(bottom=0)
    _save(figure, axes, path, "upper right")


def plot_logs(logs: Mapping[str, Mapping[str, np.ndarray]], path: str | Path) -> None:
    """Write a picture of training logs (`detection.training_log.read_log`) by name: every loss of one log, or the
    objectives of several."""
    curves = {}
    for title, columns in logs.items():
        losses = loss_names(columns)
        for name in losses if len(logs) == 1 else losses[:1]:
            curves[name if len(logs) == 1 else title] = (columns["iter"], columns[name])
    plot_training(curves, path, title if len(logs) == 1 else "")


def plot_precision_recall(evaluation: Evaluation, path: str | Path) -> None:
    """Write a picture of the precision-recall curve of every class that has objects, with its AP."""
    title = f"{evaluation.dataset}: mAP {evaluation.mean_ap:.3f}"
    figure, axes = _figure(title, "recall", "precision")
    for n, result in enumerate(r for r in evaluation.classes if r.objects):
        style = ("-", "--", ":")[n // 10 % 3]
        recall = np.concatenate([[0.0], result.recall])
        precision = np.concatenate([result.precision[:1], result.precision])
        axes.plot(
            recall, precision if len(precision) else [0.0], f"C{n % 10}{style}", label=f"{result.name} {result.ap:.3f}"
        )
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.03)
    _save(figure, axes, path, "lower left")


def _figure(title: str, x_label: str, y_label: str):
    # imported here: it takes most of a second, and no state of pyplot is touched
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure, axes, path: str | Path, legend: str) -> None:
    if axes.lines:
        axes.legend(loc=legend, fontsize="small", ncol=2 if len(axes.get_legend_handles_labels()[0]) > 8 else 1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
