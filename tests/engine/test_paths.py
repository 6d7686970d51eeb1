"""Names that lead out of a folder."""

import pytest

from caffelite.paths import leads_outside


@pytest.mark.parametrize("name", ["a.jpg", "a/b c.jpg", "a..b/..c", "./a", "", "ä/ö.png"])
def test_inside(name):
    assert not leads_outside(name)


@pytest.mark.parametrize("name", ["/a", "..", "../a", "a/../../b", "a\\..\\..\\b", "C:\\a", "C:a", "\\\\host\\share"])
def test_outside(name):
    assert leads_outside(name)
