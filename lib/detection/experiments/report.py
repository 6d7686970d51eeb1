"""The report of a study: its results beside the paper's, as one HTML page, as JSON and as Markdown.

`write(folder)` reads `folder`/*/result.json (format 1, written by detection.experiments.run), and of each the files
that it names, relative to its own folder:

    loss_log      one JSON line per iteration with `iter` and the losses
    evaluation    evaluation.json of a test: `precision_recall`, `band`, `AP`, `rules`
    pictures      worst.jpg and best.jpg beside the evaluation are shown too; curves are drawn anew, not shown

Results of the same `row` with other seeds, each in a folder of its own, are one row of the report, with their mean and
spread: one result per seed, of those that differ from the row's newest in nothing but the seed. What is left out is
told. A result may have `band` {low, high, level} itself, and `notes`, texts that are shown like deviations.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from caffelite.errors import FileFormatError
from detection.config import Options
from detection.experiments import markdown, page
from detection.experiments.result_format import EVALUATION, FORMAT, RESULT, ReportError, check
from detection.training_log import loss_names, read_log

PAPER_BATCH = {"images": 2, "rois": 128}
"""Of a minibatch, in the paper."""

_CURVES = ("precision_recall.png", "_loss.png")
_OF_A_SEED = ("random_seed:", "train_net:")  # the net's folder is named after all that determines the training


def write(folder: str | Path, title: str | None = None, order: Sequence[str] = (), notes: Sequence[str] = ()) -> Path:
    """Write report.html, report.json and report.md to a study's folder; returns the page.

    `title`: by default the study's name. `order`: names of rows that come first, in this order. `notes`: what a reader
    should know of the published numbers. Raises ReportError where there is no result, or one is damaged; a missing file
    of a result is told in the report.
    """
    folder = Path(folder)
    report = collect(folder, title, order, notes)
    (folder / "report.json").write_text(json.dumps(without_points(report), indent=1, allow_nan=False) + "\n")
    (folder / "report.md").write_text(markdown.render(report), encoding="utf-8")
    path = folder / "report.html"
    path.write_text(page.render(report), encoding="utf-8")
    return path


def collect(
    folder: str | Path, title: str | None = None, order: Sequence[str] = (), notes: Sequence[str] = ()
) -> dict[str, Any]:
    """All that the report says: `title`, `study`, `notes`, `rows`, `warnings` of all rows, `machines`.

    A row has `row`, `label`, `metric`, `runs` (its results by seed), `mAP` (their mean), `spread` (their standard
    deviation, None for one), `band` (the mean of theirs), `published`, whether they are `comparable`, `difference`,
    `verdict`, `warnings`. Raises ReportError.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*/result.json"), key=lambda file: (-file.stat().st_mtime_ns, file))
    if not files:
        raise ReportError(f"{folder}: expected results in {folder}/*/result.json, found none{_scaled_down(folder)}")
    groups: dict[str, list[dict]] = {}
    for file in files:
        run = read_result(file)
        groups.setdefault(run["row"], []).append(run)
    names = sorted(groups, key=lambda name: (list(order).index(name) if name in order else len(order), name))
    rows = [_row(*_one_per_seed(groups[name])) for name in names]
    shared = [text for text in rows[0]["warnings"] if len(rows) > 1 and all(text in row["warnings"] for row in rows)]
    for row in rows:
        row["warnings"] = [text for text in row["warnings"] if text not in shared]
    return {
        "format": FORMAT,
        "title": (title or rows[0]["runs"][0]["study"])
        + ", scaled down" * (not any(row["comparable"] for row in rows)),
        "study": rows[0]["runs"][0]["study"],
        "rows": rows,
        "notes": list(notes),
        "warnings": shared + _common_warnings(rows),
        "machines": sorted({run["versions"].get("machine", "unknown") for row in rows for run in row["runs"]}),
    }


def _scaled_down(folder: Path) -> str:
    """A hint where the study has been run scaled down only."""
    there = folder.parent / "scaled_down" / folder.name
    return f"; those of --scale-down are in {there}, and asked for with it" if any(there.glob("*/result.json")) else ""


def read_result(file: Path) -> dict[str, Any]:
    """A result with what its files hold: `losses` {name: points (iteration, value)}, `evaluation`, `picture_files`, and
    `lacking`, texts that tell which it does not have. Raises ReportError.
    """
    result = _json(file)
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise ReportError(f"{file}: expected a result of format {FORMAT}")
    check(result, RESULT, file)
    folder, lacking = file.parent, []
    root = folder.parent.parent.resolve()

    def place(name: str | None, what: str) -> Path | None:
        path = folder / name if name else None
        if path is None or not os.path.isfile(path):  # False too for names that no file can have
            lacking.append(f"there is no {what}" + (f" {name}" if name else ""))
        elif not path.resolve().is_relative_to(root):
            lacking.append(f"{what} {name} lies outside {root} and is left out")
        else:
            return path
        return None

    named = result["files"]
    evaluation_file = place(named.get("evaluation"), "evaluation")
    evaluation = _json(evaluation_file) if evaluation_file else {}
    check(evaluation, EVALUATION, evaluation_file)
    losses = {}
    if log := place(named.get("loss_log"), "loss log"):
        try:
            losses = _losses(log)
        except FileFormatError as e:
            lacking.append(str(e))
    beside = [name for name in ("worst.jpg", "best.jpg") if evaluation_file and (folder / name).is_file()]
    names = [name for name in named.get("pictures") or () if not name.endswith(_CURVES)]
    pictures = [place(name, "picture") for name in dict.fromkeys([*beside, *names])]
    return {
        **result,
        "folder": folder.name,
        "evaluation": evaluation,
        "losses": losses,
        "picture_files": [path for path in pictures if path],
        "lacking": lacking,
        "changed_options": _changed(result["options"], _defaults()),
    }


def without_points(report: dict[str, Any]) -> dict[str, Any]:
    """The report without curves and paths of pictures, for JSON."""
    left_out = ("losses", "picture_files", "evaluation")
    rows = [
        row | {"runs": [{key: run[key] for key in run if key not in left_out} for run in row["runs"]]}
        for row in report["rows"]
    ]
    return _finite(report | {"rows": rows})


def _one_per_seed(runs: Sequence[dict]) -> tuple[list[dict], list[str]]:
    """Of a row's results, newest first, those that may be averaged, by seed; and why the others are left out."""
    newest, kept, left_out = runs[0], {}, []
    wanted = _settings(newest)
    for run in runs:
        settings = _settings(run)
        differing = [name for name in wanted if settings[name] != wanted[name]]
        if differing:
            left_out.append(
                f"{run['folder']} is left out: {', '.join(differing)} not as in {newest['folder']}, the newest"
            )
        elif run["seed"] in kept:
            same = kept[run["seed"]]["folder"]
            left_out.append(f"{run['folder']} is left out: of seed {run['seed']}, as {same}, which is newer")
        else:
            kept[run["seed"]] = run
    return [kept[seed] for seed in sorted(kept)], left_out


def _settings(run: dict) -> dict[str, Any]:
    """What results that are averaged have in common."""
    solver = [line for line in run["solver"].splitlines() if not line.startswith(_OF_A_SEED)]
    options = {name: value for name, value in run["options"].items() if name != "RNG_SEED"}
    others = {name: run.get(name) for name in ("data", "deviations", "scaled_down")}
    return {"solver": solver, "options": options, **others}


def _band(runs: Sequence[dict]) -> dict[str, Any] | None:
    """The mean of the runs' bands, with the classes of the first."""
    bands = [band for run in runs if (band := run.get("band") or run["evaluation"].get("band"))]
    if not bands:
        return None
    return bands[0] | {end: statistics.fmean(band[end] for band in bands) for end in ("low", "high")}


def _row(runs: list[dict], left_out: Sequence[str]) -> dict[str, Any]:
    first = runs[0]
    scores = [run["scores"].get("mAP") for run in runs]
    known = [score for score in scores if _is_number(score)]
    mean = statistics.fmean(known) if known else None
    published = first["published"].get("mAP")
    published = published if _is_number(published) else None
    comparable = not first.get("scaled_down")
    row = {
        "row": first["row"],
        "label": first["label"],
        "metric": first["metric"],
        "runs": runs,
        "mAP": mean,
        "spread": statistics.stdev(known) if len(known) > 1 else None,
        "band": _band(runs),
        "published": published,
        "published_note": first["published"].get("note") or "",
        "comparable": comparable,
        "difference": mean - published if comparable and mean is not None and published is not None else None,
        "classes": _classes(first),
        "warnings": [*left_out, *dict.fromkeys(text for run in runs for text in _warnings(run))],
    }
    return row | {"verdict": verdict(row)}


def verdict(row: dict[str, Any]) -> str:
    """What the difference to the published number means."""
    band = row["band"]
    if row["mAP"] is None:
        return "no mAP"
    if not row["comparable"]:
        return "not comparable: scaled down"
    if row["published"] is None:
        return "nothing published"
    if band is None:
        return "no band of chance known"
    if band["low"] <= row["published"] <= band["high"]:
        return "published number within the band"
    return "above the published number" if row["difference"] > 0 else "below the published number"


def _classes(run: dict) -> list[dict[str, Any]]:
    """Of every class its AP here, its band and the published AP."""
    band = run["evaluation"].get("band") or {}
    published = run["published"].get("AP") or {}
    bands = band.get("classes") or {}
    return [
        {"name": name, "AP": ap, "band": bands.get(name), "published": published.get(name)}
        for name, ap in (run["scores"].get("AP") or {}).items()
    ]


def _warnings(run: dict) -> list[str]:
    """What a reader must know before comparing."""
    texts = []
    if run.get("scaled_down"):
        texts.append(f"scaled down: {run['scaled_down']}")
    batch = {key: run["effective_batch"].get(key) for key in PAPER_BATCH}
    if batch != PAPER_BATCH:
        texts.append(
            f"effective batch: {batch['images']} images and {batch['rois']} RoIs, in the paper "
            f"{PAPER_BATCH['images']} and {PAPER_BATCH['rois']}"
        )
    texts += [f"deviation: {text}" for text in run["deviations"]]
    if not run.get("weights"):
        texts.append("trained from random weights, not from those of ImageNet")
    return texts + list(run.get("notes") or ()) + [f"{run['folder']}: {text}" for text in run["lacking"]]


def _common_warnings(rows: Sequence[dict]) -> list[str]:
    runs = [run for row in rows for run in row["runs"]]
    texts = []
    if all(row["spread"] is None for row in rows):
        texts.append(
            "one seed for every row: the band of chance is that of the test images alone, not that of training anew"
        )
    for what, values in (
        ("version of caffelite", {run["versions"].get("caffelite") for run in runs}),
        ("machine", {run["versions"].get("machine") for run in runs}),
        ("test set", {(run["data"].get("test") or {}).get("sha256") for run in runs}),
        ("metric", {run["metric"] for run in runs}),
    ):
        if len(values) > 1:
            texts.append(f"the rows do not have the same {what}")
    return texts


def _losses(log: Path) -> dict[str, list[tuple[float, float]]]:
    """The losses of a log by name: iterations and values, those that are finite. Raises FileFormatError."""
    columns = read_log(log)
    return {
        name: [(float(n), float(value)) for n, value in zip(columns["iter"], columns[name]) if math.isfinite(value)]
        for name in loss_names(columns)
    }


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as e:
        raise ReportError(f"{file}: cannot be read as JSON: {e}") from None


def _defaults() -> dict[str, Any]:
    """All options' defaults, lists for tuples as JSON has them."""
    return json.loads(json.dumps(asdict(Options())))


def _changed(options: dict, defaults: dict, prefix: str = "") -> dict[str, Any]:
    """The options that are not the default, by dotted name."""
    changed = {}
    for name, value in options.items():
        default = defaults.get(name)
        if isinstance(value, dict) and isinstance(default, dict):
            changed |= _changed(value, default, f"{prefix}{name}.")
        elif value != default:
            changed[prefix + name] = value
    return changed


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _finite(value: Any) -> Any:
    """The value with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
