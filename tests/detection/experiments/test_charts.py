"""Charts: ticks, smoothing, and where things are drawn."""

import re
from itertools import pairwise

import pytest

from detection.experiments.charts import HEIGHT, WIDTH, Range, line_chart, range_chart, thinned, ticks


@pytest.mark.parametrize(
    "least, most", [(0, 1), (0, 0.003), (0, 40000), (52.1, 58.4), (0, 7), (99.5, 100.5), (0, 1e-9)]
)
def test_ticks_are_few_round_and_inside(least, most):
    found = ticks(most, least)
    assert 3 <= len(found) <= 8 and least - 1e-9 <= found[0] and found[-1] <= most + 1e-9
    steps = [b - a for a, b in pairwise(found)]
    assert max(steps) == pytest.approx(min(steps), rel=1e-3)


def test_lines_lie_where_they_should():
    chart = line_chart({"a <b>": [(0, 0), (10, 4), (5, 2)], "none": []}, "x", "y")
    (points,) = re.findall(r'points="([\d., ]+)"/>(?!</svg> )', chart)
    first, last, middle = ([float(v) for v in p.split(",")] for p in points.split())
    assert middle == pytest.approx([(a + b) / 2 for a, b in zip(first, last)], abs=0.06)
    assert 0 < first[0] < last[0] < WIDTH and 0 < last[1] < first[1] < HEIGHT, "y grows upwards"
    assert "a &lt;b&gt;" in chart and "<b>" not in chart and "none" not in chart
    assert line_chart({"none": []}, "x", "y") == "" and line_chart({}, "x", "y") == ""


def test_curves_of_nothing_but_zeros():
    assert "nan" not in line_chart({"a": [(0, 0)]}, "x", "y")


def test_negative_values_lie_on_the_axis():
    chart = line_chart({"a": [(0, -1), (5, -2)]}, "x", "y")
    (points,) = re.findall(r'points="([\d., ]+)"/>(?!</svg> )', chart)
    assert len({point.split(",")[1] for point in points.split()}) == 1


def test_many_curves_differ():
    chart = line_chart({str(n): [(0, n), (1, n)] for n in range(30)}, "x", "y")
    styles = re.findall(
        r'class="line" (stroke="[^"]+"(?: stroke-dasharray="[^"]+")?) points="[\d., ]+"/>(?!</svg> )', chart
    )
    assert len(styles) == len(set(styles)) == 30


def test_ranges():
    chart = range_chart([Range("a", 57.0, 55.0, 59.0, 58.0), Range("b", None, published=60.0), Range("c", 50.0)])
    assert (chart.count('class="band"'), chart.count('class="published"'), chart.count('class="here"')) == (2, 3, 3)
    assert "published" not in range_chart([Range("a", 57.0, 55.0, 59.0)]), "not in the legend either"
    assert range_chart([Range("a", None)]) == range_chart([]) == ""
    assert "nan" not in range_chart([Range("a", 50.0)])


def test_thinned_keeps_level_ends_and_few_points():
    assert thinned([]) == [] and thinned([(7, 3.0)]) == [(7, 3.0)]
    curve = thinned([(n + 5, 2.0) for n in range(1000)])
    assert len(curve) <= 202 and curve[0][0] == 5 and curve[-1][0] == 1004
    assert all(y == pytest.approx(2) for _, y in curve)
    rough = thinned([(n, n % 2) for n in range(1000)])
    assert all(abs(y - 0.5) < 0.05 for _, y in rough)
