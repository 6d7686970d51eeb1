"""Recall of proposals, on hand-made cases."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detection.datasets.voc import VocDataset
from detection.errors import EvaluationError
from detection.proposals.recall import Recall, average_recall, best_overlaps, recall_curve


@pytest.fixture
def dataset(voc_folder):
    """Objects from 1 to 10 along x and y in a, the same and a difficult one in b, none in c."""
    cat = ("cat", (1, 1, 10, 10), False)
    return VocDataset(voc_folder({"a": [cat], "b": [cat, ("cat", (21, 1, 30, 10), True)], "c": []}), "all")


# IoU with the object: 0.25, 0.6, 1; and 0.5, 0.4
PROPOSALS = [
    np.array([(0, 0, 4, 4), (0, 0, 9, 5), (0, 0, 9, 9)]),
    np.array([(0, 0, 9, 4), (0, 0, 3, 9)]),
    np.array([(0, 0, 9, 9)]),
]


def test_average_recall():
    assert average_recall([1, 1]) == 1
    assert average_recall([0.5, 0.2]) == 0
    assert average_recall([0.75, 1]) == pytest.approx(0.75)
    # the area under recall over IoU, summed up
    overlaps = np.random.RandomState(0).uniform(0, 1, 500)
    thresholds = np.linspace(0.5, 1, 5001)
    recall = (overlaps[None] >= thresholds[:, None]).mean(axis=1)
    assert average_recall(overlaps) == pytest.approx(2 * np.trapezoid(recall, thresholds), abs=1e-3)


def test_overlaps_with_the_first_boxes(dataset):
    overlaps = best_overlaps(dataset, PROPOSALS, [0, 1, 2, 3, 10])
    np.testing.assert_allclose(overlaps, [[0, 0], [0.25, 0.5], [0.6, 0.5], [1, 0.5], [1, 0.5]])


def test_the_curve(dataset):
    first, last = recall_curve(dataset, PROPOSALS, [2, 100])
    assert first == Recall(2, pytest.approx(5 / 3), pytest.approx(0.1), 1, 0)
    assert last == Recall(100, 2, 0.5, 1, 0.5)


def test_difficult_objects(dataset):
    assert best_overlaps(dataset, PROPOSALS, [5], count_difficult=True).shape == (1, 3)


def test_images_without_proposals_or_objects(dataset, voc_folder):
    np.testing.assert_array_equal(best_overlaps(dataset, [np.zeros((0, 4))] * 3, [5]), [[0, 0]])
    empty = VocDataset(voc_folder({"d": []}), "all", ["cat"])
    with pytest.raises(EvaluationError, match="voc_all: has no objects"):
        recall_curve(empty, [np.zeros((0, 4))], [5])


def test_the_tool(dataset, tmp_path):
    tool = Path(__file__).resolve().parents[3] / "tools/proposal_recall.py"
    command = [sys.executable, str(tool), "--imdb", f"{dataset.folder}:all", "--counts", "1", "20", "30"]
    options = ["PROPOSALS.METHOD", "dense", "PROPOSALS.DENSE_MIN_AREA", "100", "PROPOSALS.MAX_PROPOSALS", "20"]
    run = subprocess.run([*command, "--set", *options], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    lines = [line.split() for line in run.stdout.splitlines()[-2:]]
    assert [line[:2] for line in lines] == [["1", "1.0"], ["20", "20.0"]]
    assert float(lines[0][2]) <= float(lines[1][2]) <= 1
