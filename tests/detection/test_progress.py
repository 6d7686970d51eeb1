import logging

import pytest

from detection import progress


def test_without_a_terminal_a_line_tells_how_far_it_is(monkeypatch, caplog):
    now = iter([0.0, 29.0, 31.0, 40.0, 70.0, 100.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with caplog.at_level(logging.INFO):
        assert list(progress.watched("abcde", 5, "test")) == list("abcde")
    assert caplog.messages == [
        "test: 2 of 5 images, about 46 seconds left",
        "test: 4 of 5 images, about 18 seconds left",
    ]


def test_nothing_to_do_says_nothing(caplog, capsys):
    with caplog.at_level(logging.INFO), progress.Progress(0, "test"):
        pass
    assert not caplog.messages and not capsys.readouterr().err


@pytest.mark.parametrize(
    "seconds, text",
    [(5, "5 seconds"), (119.6, "120 seconds"), (150, "2.5 minutes"), (2e4, "5.6 hours"), (2e5, "2.3 days")],
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text
