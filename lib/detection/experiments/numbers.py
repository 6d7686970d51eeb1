"""How numbers are written in reports; a dash for what is not known."""

from __future__ import annotations

import math
from typing import Any

NONE = "–"


def percent(value: Any, signed: bool = False) -> str:
    """A fraction in percent with one decimal."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return NONE
    return f"{100 * value:{'+' if signed else ''}.1f}"


def interval(band: Any) -> str:
    """The limits of a band {low, high} or (low, high) in percent."""
    if not band:
        return NONE
    low, high = (band["low"], band["high"]) if isinstance(band, dict) else band
    return f"{percent(low)} to {percent(high)}"


def score(row: dict) -> str:
    """A row's mAP in percent, with the spread of its seeds."""
    text = percent(row["mAP"])
    return text if row["spread"] is None else f"{text} ± {percent(row['spread'])} ({len(row['runs'])} seeds)"


def duration(seconds: Any) -> str:
    """Seconds in the unit that suits them."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return NONE
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def milliseconds(value: Any) -> str:
    """Milliseconds, in whole ones above 10."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return NONE
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.2g} ms"


def size(value: Any) -> str:
    """Bytes in MiB or GiB."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return NONE
    return f"{value / 2**20:,.0f} MiB" if value < 2**30 else f"{value / 2**30:.1f} GiB"
