"""The table of an evaluation, for people and as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path

from detection.evaluation.voc import Evaluation


def rules(evaluation: Evaluation) -> str:
    """By which rules AP was measured, in words."""
    metric = "11 points (VOC07)" if evaluation.use_07_metric else "area under the curve (VOC10)"
    difficult = "counted" if evaluation.count_difficult else "ignored"
    return f"AP: {metric}, IoU > {evaluation.overlap:g} with inclusive pixels, difficult objects {difficult}"


def table(evaluation: Evaluation) -> str:
    """A line per class with objects, ignored difficult ones, detections and AP, the mean below, and the rules."""
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
    return "\n".join(lines)


def write_json(evaluation: Evaluation, path: str | Path) -> None:
    """The table as JSON: `mAP`, `AP` per class (null where there is nothing to find), counts and rules."""
    content = {
        "dataset": evaluation.dataset,
        "images": evaluation.images,
        "rules": rules(evaluation),
        "mAP": _number(evaluation.mean_ap),
        "AP": {result.name: _number(result.ap) for result in evaluation.classes},
        "objects": {result.name: result.objects for result in evaluation.classes},
        "detections": {result.name: result.detections for result in evaluation.classes},
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(content, indent=1) + "\n")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
