"""The report of a study as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from detection.experiments import numbers


def render(report: dict[str, Any]) -> str:
    """The tables and warnings of what `report.collect` gives."""
    rows = report["rows"]
    parts = [f"# {text(report['title'])}", ""]
    parts += table(
        ["row", "mAP, %", "published", "difference", "band of chance", ""],
        [
            [
                row["label"], numbers.score(row), numbers.percent(row["published"]),
                numbers.percent(row["difference"], signed=True), numbers.interval(row["band"]), row["verdict"],
            ]
            for row in rows
        ],
    )  # fmt: skip
    parts += [line for note in report["notes"] for line in ("", text(note))]
    warnings = [("all rows", one) for one in report["warnings"]]
    warnings += [(row["label"], one) for row in rows for one in row["warnings"]]
    if warnings:
        parts += ["", "## Warnings", "", *(f"- {text(where)}: {text(one)}" for where, one in warnings)]
    names = list(dict.fromkeys(one["name"] for row in rows for one in row["classes"]))
    if names:
        cells = [{one["name"]: one for one in row["classes"]} for row in rows]
        parts += ["", "## AP per class, %, published in brackets", ""]
        parts += table(
            ["class", *(row["label"] for row in rows)],
            [[name, *(_ap(of_row.get(name)) for of_row in cells)] for name in names],
        )
    parts += ["", "## Time and memory", ""]
    parts += table(
        ["row", "training", "an iteration", "test of an image", "peak of main memory"],
        [
            [
                row["label"], numbers.duration(run["time"].get("train_seconds")),
                numbers.milliseconds(run["time"].get("train_iteration_ms")),
                numbers.milliseconds(run["time"].get("test_image_ms")), numbers.size(run.get("memory_peak_bytes")),
            ]
            for row in rows
            for run in row["runs"][:1]
        ],
    )  # fmt: skip
    parts += ["", "## Provenance", ""]
    for row in rows:
        for run in row["runs"]:
            versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
            parts.append(f"- {text(row['label'])}, seed {run['seed']}: {text(versions)}")
            for side, data in run["data"].items():
                described = f"{data.get('name')}, {data.get('images')} images, SHA-256 {data.get('sha256')}"
                parts.append(f"  - {text(side)}: {text(described)}")
    return "\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell if cell == '---' else text(cell) for cell in line)} |" for line in lines]


def text(value: Any) -> str:
    """Text that stays text in Markdown, in one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(value).split()))


def _ap(one: dict | None) -> str:
    if one is None:
        return numbers.NONE
    published = one["published"]
    return numbers.percent(one["AP"]) + ("" if published is None else f" ({numbers.percent(published)})")
