"""What a result.json and an evaluation.json must look like: format 1.

A form is a kind of value (a function that says whether a value is one), a dict of forms by key (those with a question
mark may be missing or null), a list of one form for lists, or `Each(form)` for objects with any keys.
"""

from __future__ import annotations

import math
from typing import Any

from caffelite.errors import CaffeliteError

FORMAT = 1


class ReportError(CaffeliteError):
    """Results that cannot be reported: names the file, the place in it and what it lacks."""


class Each:
    """The form of an object with any keys, whose values have one form."""

    def __init__(self, form: Any):
        self.form = form


def text(value: Any) -> bool:
    """A text"""
    return isinstance(value, str)


def number(value: Any) -> bool:
    """A finite number"""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def score(value: Any) -> bool:
    """A number, nan or null"""
    return value is None or number(value) or (isinstance(value, float) and math.isnan(value))


def whole(value: Any) -> bool:
    """A whole number"""
    return number(value) and isinstance(value, int)


def point(value: Any) -> bool:
    """A point of two numbers"""
    return isinstance(value, list) and len(value) == 2 and all(map(number, value))


def anything(value: Any) -> bool:
    """Anything"""
    return True


_BAND = {"low": number, "high": number, "level?": number, "classes?": Each(point)}
_DATA = {"name": text, "images": whole, "sha256": text}

RESULT = {
    "format": whole, "study": text, "row": text, "label": text, "metric": text,
    "scores": {"mAP?": score, "AP?": Each(score)},
    "published": {"mAP?": score, "AP?": Each(score), "note?": text},
    "time": Each(score), "memory_peak_bytes?": number, "options": Each(anything), "solver": text, "seed": whole,
    "versions": Each(text), "data": Each(_DATA), "weights?": {"file": text, "sha256": text},
    "effective_batch": {"images": number, "rois": number}, "deviations": [text], "notes?": [text],
    "scaled_down?": text, "band?": _BAND,
    "files": {"loss_log?": text, "evaluation?": text, "detections?": text, "pictures?": [text]},
}  # fmt: skip
EVALUATION = {"AP?": Each(score), "rules?": text, "precision_recall?": Each([point]), "band?": _BAND}


def check(value: Any, form: Any, file: Any, place: str = "") -> None:
    """Raise ReportError that names the file and the place where the value does not have the form."""
    if isinstance(form, dict | Each):
        kind, fits = "an object", isinstance(value, dict)
    elif isinstance(form, list):
        kind, fits = "a list", isinstance(value, list)
    else:
        kind, fits = form.__doc__.lower(), form(value)
    if not fits:
        raise ReportError(f"{file}: {place or 'the file'}: expected {kind}, found {str(value)[:60]}")
    if isinstance(form, Each):
        for key, one in value.items():
            check(one, form.form, file, _join(place, key))
    elif isinstance(form, dict):
        for key, of_key in form.items():
            name = key.removesuffix("?")
            if name in value and not (key != name and value[name] is None):
                check(value[name], of_key, file, _join(place, name))
            elif key == name:
                raise ReportError(f"{file}: {_join(place, name)}: is missing")
    elif isinstance(form, list):
        for n, one in enumerate(value):
            check(one, form[0], file, _join(place, n))


def _join(place: str, key: Any) -> str:
    return f"{place}.{key}" if place else str(key)
