"""Fixtures that all tests of detection share."""

import pytest

from detection.config import cfg


@pytest.fixture
def default_cfg():
    """The options with their defaults, which the test may change."""
    cfg.reset()
    yield cfg
    cfg.reset()
