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
    """A copy of the BGR image (height, width, 3) uint8, enlarged by `zoom`, with boxes and their labels.

    `boxes` (n, 4) are x1 y1 x2 y2 in pixels of `image` from 0, `classes` (n,) the numbers that choose the colours.
    Labels stand on their boxes, or inside them where the image ends. `thin` boxes have lines of one pixel.
    """
    if zoom != 1:
        image = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    else:
        image = image.copy()
    diagonal = math.hypot(*image.shape[:2])
    line = 1 if thin else max(2, round(diagonal / 320))
    corners = np.asarray(boxes, np.float64).reshape(-1, 4)
    corners = np.rint((corners + (0, 0, 1, 1)) * zoom - (0, 0, 1, 1)).astype(int).tolist()
    for (x1, y1, x2, y2), k in zip(corners, classes):
        if not thin:
            cv2.rectangle(image, (x1, y1), (x2, y2), (0, 0, 0), line + 2)  # a dark rim, seen on bright ground
        cv2.rectangle(image, (x1, y1), (x2, y2), class_colour(k), line)
    for corner, k, label in zip(corners, classes, labels):
        if label:
            _draw_label(image, corner[0], corner[1], label, class_colour(k), max(0.4, diagonal / 1500))
    return image


def draw_detections(
    image: np.ndarray,
    dets: Sequence[np.ndarray],
    classes: Sequence[str],
    threshold: float = 0.5,
    zoom: float = 1.0,
) -> np.ndarray:
    """A copy of the image with the detections of every class, `dets[class]` (n, 5: x1 y1 x2 y2 score), best on top.

    Those with a score below `threshold` are left out. `classes` are all names, background first.
    """
    shown = [(det[4], k, det[:4]) for k in range(1, len(classes)) for det in dets[k] if det[4] >= threshold]
    shown.sort(key=lambda one: one[0])
    labels = [f"{classes[k]} {score:.2f}" for score, k, _ in shown]
    return draw_boxes(image, np.array([box for _, _, box in shown]), [k for _, k, _ in shown], labels, zoom)


def _draw_label(image: np.ndarray, x: int, y: int, text: str, colour: tuple[int, int, int], size: float) -> None:
    """Text on a plate of the colour, above (x, y), moved so that it lies inside the image as far as it fits."""
    (width, height), below = cv2.getTextSize(text, _FONT, size, 1)
    margin = max(2, round(5 * size))
    left = max(0, min(x, image.shape[1] - width - 2 * margin))
    bottom = y if y >= height + below + 2 * margin else y + height + below + 2 * margin
    bottom = max(height + below + 2 * margin, min(bottom, image.shape[0]))
    top = bottom - height - below - 2 * margin
    cv2.rectangle(image, (left, top), (left + width + 2 * margin, bottom - 1), colour, cv2.FILLED)
    blue, green, red = colour
    ink = (0, 0, 0) if 0.114 * blue + 0.587 * green + 0.299 * red > 130 else (255, 255, 255)
    cv2.putText(image, text, (left + margin, bottom - below - margin), _FONT, size, ink, 1, cv2.LINE_AA)


def montage(images: Sequence[np.ndarray], columns: int = 4, cell: tuple[int, int] = (400, 300)) -> np.ndarray:
    """One BGR picture of several, each shrunk or enlarged to fit a cell of (width, height) pixels."""
    width, height = cell
    gap = 6
    rows = math.ceil(len(images) / columns)
    page = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), _PAPER, np.uint8)
    for n, image in enumerate(images):
        factor = min(width / image.shape[1], height / image.shape[0])
        size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
        row, column = divmod(n, columns)
        top = gap + row * (height + gap) + (height - size[1]) // 2
        left = gap + column * (width + gap) + (width - size[0]) // 2
        page[top : top + size[1], left : left + size[0]] = image
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
            smooth = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
            axes.plot(iterations, smooth, color=colour, label=label)
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
