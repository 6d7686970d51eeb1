"""The report of a study as one HTML page that needs nothing beside itself: no script, no request."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2

from detection.datasets.image import read_image
from detection.errors import DatasetError
from detection.experiments import charts, numbers
from detection.experiments.charts import Range, line_chart, range_chart

CURVES = 20
"""Most precision-recall curves in a chart."""
PICTURE_WIDTH = 1400
"""Pixels that pictures are shrunk to."""

_CAPTIONS = {"worst": "The worst images by F1", "best": "The best images by F1", "detections": "Images of the test set"}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(report: dict[str, Any]) -> str:
    """The page of what `report.collect` gives."""
    rows = report["rows"]
    style = Path(__file__).with_name("page.css").read_text()
    sections = [
        ("result", "Result", _result(report)),
        ("warnings", "Warnings", _warnings(report)),
        ("classes", "AP per class", _classes(rows)),
        ("training", "Training", _training(rows)),
        ("cost", "Time and memory", _cost(rows)),
        *((f"row-{n}", row["label"], _row(row)) for n, row in enumerate(rows)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<li><a href="#{anchor}">{safe(title)}</a></li>' for anchor, title, _body in sections)
    body = "".join(
        f'<section id="{anchor}"><h2>{safe(title)}</h2>{content}</section>' for anchor, title, content in sections
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{safe(report["title"])}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{style}</style></head><body>'
        f'<header><h1>{safe(report["title"])}</h1><p class="soft">{safe("; ".join(report["machines"]))}</p>'
        f"<nav><ul>{links}</ul></nav></header><main>{body}</main></body></html>\n"
    )


def safe(text: Any) -> str:
    """Text for HTML."""
    return escape(str(text), quote=True)


def prose(text: str) -> str:
    """Text for HTML, in which `...` is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", safe(text))


def _result(report: dict) -> str:
    rows = report["rows"]
    ranges = [
        Range(row["label"], *(_percent(x) for x in (
            row["mAP"], (row["band"] or {}).get("low"), (row["band"] or {}).get("high"),
            row["published"] if row["comparable"] else None,
        )))
        for row in rows
    ]  # fmt: skip
    cells = [
        [
            row["label"], _Cell(numbers.score(row), "wrap"), numbers.percent(row["published"]),
            numbers.percent(row["difference"], signed=True), numbers.interval(row["band"]), _text(row["verdict"]),
        ]
        for row in rows
    ]  # fmt: skip
    head = ["row", "mAP, %", "published", "difference", "band of chance", _text("")]
    level = next((row["band"].get("level", 0.95) for row in rows if row["band"]), None)
    parts = [f'<div class="range">{range_chart(ranges)}</div>', _table(head, cells)]
    if level is not None:
        parts.append(
            f'<p class="soft">The band of chance holds the mAP of {100 * level:g} % of many draws of the test images '
            "with replacement: a published number inside it differs by no more than the choice of test images does.</p>"
        )
    for note in dict.fromkeys(row["published_note"] for row in rows if row["published_note"]):
        labels = [row["label"] for row in rows if row["published_note"] == note]
        whose = "" if len(labels) == len(rows) else f" ({'; '.join(labels)})"
        parts.append(f'<p class="soft">Published: {prose(note + whose)}</p>')
    parts += [f'<p class="soft">{prose(note)}</p>' for note in report["notes"]]
    parts += [f'<p class="soft">Measured: {safe(text)}</p>' for text in dict.fromkeys(row["metric"] for row in rows)]
    return "".join(parts)


def _warnings(report: dict) -> str:
    groups = [("All rows", report["warnings"])] + [(row["label"], row["warnings"]) for row in report["rows"]]
    parts = []
    for label, texts in groups:
        if texts:
            items = "".join(f"<li>{safe(text)}</li>" for text in texts)
            parts.append(f'<div class="warning"><strong>{safe(label)}</strong><ul>{items}</ul></div>')
    return "".join(parts)


def _classes(rows: Sequence[dict]) -> str:
    names = list(dict.fromkeys(one["name"] for row in rows for one in row["classes"]))
    if not names:
        return ""
    of_rows = [{one["name"]: one for one in row["classes"]} for row in rows]
    cells = [[name, *(_ap(of_row.get(name)) for of_row in of_rows)] for name in names]
    note = '<p class="soft">In %; small: the published number.</p>' if any(
        one["published"] is not None for row in rows for one in row["classes"]
    ) else '<p class="soft">In %.</p>'  # fmt: skip
    return note + _table(["class", *(row["label"] for row in rows)], cells)


def _training(rows: Sequence[dict]) -> str:
    """One curve for rows that share a training."""
    labels: dict[str, tuple[list, list[str]]] = {}
    for row in rows:
        if values := row["runs"][0]["losses"].get("loss"):
            labels.setdefault(repr(values), (values, []))[1].append(row["label"])  # as text, NaN is NaN
    curves = {"; ".join(names): charts.thinned(values) for values, names in labels.values()}
    return line_chart(curves, "iteration", "loss, smoothed")


def _cost(rows: Sequence[dict]) -> str:
    cells = []
    for row in rows:
        run = row["runs"][0]
        time, batch = run["time"], run["effective_batch"]
        cells.append([
            row["label"], numbers.duration(time.get("train_seconds")),
            numbers.milliseconds(time.get("train_iteration_ms")), numbers.milliseconds(time.get("test_image_ms")),
            numbers.size(run.get("memory_peak_bytes")), f"{batch.get('images')} / {batch.get('rois')}",
        ])  # fmt: skip
    head = ["row", "training", "an iteration", "test of an image", "peak of main memory", "images / RoIs per batch"]
    return _table(head, cells)


def _row(row: dict) -> str:
    run = row["runs"][0]
    rules = run["evaluation"].get("rules")
    parts = [f'<p class="soft">{safe(rules)}</p>' if rules else ""]
    losses = {name: charts.thinned(values) for name, values in run["losses"].items()}
    figures = [
        ("Losses of the training, smoothed", line_chart(losses, "iteration", "loss")),
        ("Precision and recall", _precision_recall(run["evaluation"])),
    ]
    drawn = "".join(f"<div><h3>{title}</h3>{figure}</div>" for title, figure in figures if figure)
    parts.append(f'<div class="charts">{drawn}</div>')
    parts += [_picture(path) for path in run["picture_files"]]
    parts.append("<h3>Configuration</h3>")
    changed = [[name, _value(value)] for name, value in run["changed_options"].items()]
    if changed:
        parts.append("<p>Options that are not the default:</p>" + _table(["option", _text("value")], changed))
    else:
        parts.append("<p>All options are the default.</p>")
    parts.append(f"<details><summary>Solver</summary><pre>{safe(run['solver'])}</pre></details>")
    options = json.dumps(run["options"], indent=1)
    parts.append(f"<details><summary>All options</summary><pre>{safe(options)}</pre></details>")
    parts.append("<h3>Provenance</h3>" + _provenance(row["runs"]))
    return "".join(parts)


def _provenance(runs: Sequence[dict]) -> str:
    cells = []
    for run in runs:
        mean_ap = f", mAP {numbers.percent(run['scores'].get('mAP'))} %" if len(runs) > 1 else ""
        cells.append([f"seed {run['seed']}", _value(f"{run['folder']}{mean_ap}")])
        cells += [[name, _value(version)] for name, version in run["versions"].items()]
        for side, data in run["data"].items():
            cells.append([f"{side} data", _value(f"{data.get('name')}, {data.get('images')} images")])
            cells.append(["SHA-256", _Cell(f"{data.get('sha256')}", "hash")])
        weights = run.get("weights") or {}
        cells.append(["weights", _value(weights.get("file", "none: random"))])
        if weights:
            cells.append(["SHA-256", _Cell(f"{weights.get('sha256')}", "hash")])
    return _table([], cells)


def _precision_recall(evaluation: dict) -> str:
    """The curves, each with its AP; of many classes the best and the worst."""
    aps = evaluation.get("AP") or {}
    curves = {name: points for name, points in (evaluation.get("precision_recall") or {}).items() if points}
    names = sorted(curves, key=lambda name: -(aps.get(name) or 0))
    chosen = names if len(names) <= CURVES else names[: CURVES // 2] + names[-CURVES // 2 :]
    labelled = {
        f"{name} {numbers.percent(aps.get(name))}": [(0.0, curves[name][0][1]), *curves[name]] for name in chosen
    }
    chart = line_chart(labelled, "recall", "precision", 1.0, 1.0)
    if len(chosen) < len(names):
        chart += f'<p class="soft">The {CURVES // 2} best and the {CURVES // 2} worst of {len(names)} classes.</p>'
    return chart


def _picture(path: Path) -> str:
    """A picture as part of the page; a damaged one is told."""
    caption = _CAPTIONS.get(path.stem, path.name)
    try:
        image = read_image(path)
    except DatasetError as e:
        return f'<p class="warning">{safe(e)}</p>'
    factor = min(1.0, PICTURE_WIDTH / image.shape[1])
    if factor < 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    code = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 82])[1].tobytes()
    data = base64.b64encode(code).decode()
    height, width = image.shape[:2]
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" alt="{safe(caption)}">'
        f"<figcaption>{safe(caption)}</figcaption></figure>"
    )


class _Cell:
    """Text of a table's cell with a class, and perhaps a small text after it."""

    def __init__(self, text: Any, kind: str, small: str = ""):
        self.text, self.kind, self.small = text, kind, small

    def html(self) -> str:
        return safe(self.text) + (f" <small>{safe(self.small)}</small>" if self.small else "")


def _text(text: Any) -> _Cell:
    return _Cell(text, "text")


def _value(value: Any) -> _Cell:
    return _Cell(value if isinstance(value, str) else json.dumps(value), "value")


def _ap(one: dict | None) -> _Cell | str:
    if one is None:
        return numbers.NONE
    published = "" if one["published"] is None else numbers.percent(one["published"])
    return _Cell(numbers.percent(one["AP"]), "", published)


def _table(head: Sequence[str | _Cell], rows: Iterable[Sequence[str | _Cell]]) -> str:
    """A table that scrolls by itself where the screen is narrow; a row's first cell is its heading."""

    def cell(tag: str, one: str | _Cell) -> str:
        one = one if isinstance(one, _Cell) else _Cell(one, "")
        kind = f' class="{one.kind}"' if one.kind else ""
        return f"<{tag}{kind}>{one.html()}</{tag.split()[0]}>"

    def line(tag: str, rest: str, cells: Sequence[str | _Cell]) -> str:
        return f"<tr>{cell(tag, cells[0])}{''.join(cell(rest, one) for one in cells[1:])}</tr>"

    titles = f"<thead>{line('th scope=col', 'th scope=col', head)}</thead>" if head else ""
    lines = "".join(line("th scope=row", "td", row) for row in rows)
    return f'<div class="scroll" tabindex="0"><table>{titles}<tbody>{lines}</tbody></table></div>'


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
