"""Trainings killed at random moments end in the same bytes (kill.py does it 50 times)."""

from tests.detection.fast_rcnn import kill


def test_killed_trainings_end_in_the_same_bytes():
    kills, _ = kill.compare(3, seed=1)
    assert kills >= 1
