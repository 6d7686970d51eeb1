"""The table of an evaluation, for people and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from detection.evaluation.voc import ClassResult, Evaluation


def rules(evaluation: Evaluation) -> str:
    """By which rules AP was measured, in words."""
    metric = "11 points (VOC07)" if evaluation.use_07_metric else "area under the curve (VOC10)"
    difficult = "counted" if evaluation.count_difficult else "ignored"
    return f"AP: {metric}, IoU > {evaluation.overlap:g} with inclusive pixels, difficult objects {difficult}"


def table(evaluation: Evaluation) -> str:
    """A line per class with objects, ignored difficult ones, detections and AP, the mean below, and the rules.

    Below that the band of chance and COCO's measures, where the evaluation has them.
    """
    width = max(len("mean"), *(len(result.name) for result in evaluation.classes))
    lines = [f"{evaluation.dataset}, {evaluation.images} images", rules(evaluation), ""]
    lines.append(f"{'class':<{width}} {'objects':>9} {'difficult':>10} {'detections':>11} {'AP':>7}")
    for result in evaluation.classes:
        ap = f"{result.ap:.4f}" if result.objects else "-"
        counts = f"{result.objects:>9} {result.difficult:>10} {result.detections:>11}"
        lines.append(f"{result.name:<{width}} {counts} {ap:>7}")
    sums = (sum(getattr(r, key) for r in evaluation.classes) for key in ("objects", "difficult", "detections"))
    lines.append("{:<{}} {:>9} {:>10} {:>11} {:>7.4f}".format("mean", width, *sums, evaluation.mean_ap))
    nothing = [result.name for result in evaluation.classes if not result.objects]
    if nothing:
        lines.append(f"without objects, and not in the mean: {', '.join(nothing)}")
    if band := evaluation.band:
        interval = f"mAP from {band.low:.4f} to {band.high:.4f}"
        lines.append(f"chance: {100 * band.level:g} % of {band.replicates} draws of the test images give an {interval}")
    if evaluation.coco:
        lines.append("COCO: " + "  ".join(f"{name} {value:.4f}" for name, value in evaluation.coco.summary.items()))
    return "\n".join(lines)


def write_json(evaluation: Evaluation, path: str | Path) -> None:
    """The evaluation as JSON: `mAP`, `AP` per class (null where there is nothing to find), counts, rules, the points
    (recall, precision) of the curves; `band` {low, high, deviation, classes, level, replicates, seed} and `coco`
    {measure: value}, or null."""
    content = {
        "dataset": evaluation.dataset,
        "images": evaluation.images,
        "rules": rules(evaluation),
        "mAP": _number(evaluation.mean_ap),
        "AP": {result.name: _number(result.ap) for result in evaluation.classes},
        "objects": {result.name: result.objects for result in evaluation.classes},
        "detections": {result.name: result.detections for result in evaluation.classes},
        "precision_recall": {result.name: curve(result) for result in evaluation.classes if result.objects},
        "band": asdict(evaluation.band) if evaluation.band else None,
        "coco": {name: _number(value) for name, value in evaluation.coco.summary.items()} if evaluation.coco else None,
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content, indent=1) + "\n")


def curve(result: ClassResult, points: int = 100) -> list[tuple[float, float]]:
    """At most so many points (recall, precision) of a class's curve: those where recall rises, evenly chosen."""
    true = np.flatnonzero(result.true)
    if len(true) > points:
        true = true[np.linspace(0, len(true) - 1, points).round().astype(int)]
    return [(round(float(result.recall[n]), 4), round(float(result.precision[n]), 4)) for n in true]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
