"""Accuracy: top k, ties, ignored labels, classes, refusals."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun

SCORES = np.array([[0.1, 0.5, 0.4], [0.7, 0.2, 0.1], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
LABELS = [2, 0, 1, 1]


def accuracy(options="", scores=SCORES, labels=LABELS, tops=1):
    return LayerRun(f'type: "Accuracy" accuracy_param {{ {options} }}', [scores, labels], tops=tops).forward()


def test_top_k():
    assert [float(accuracy(f"top_k: {k}")[0]) for k in (1, 2, 3)] == [0.25, 1, 1]


def test_a_tie_is_wrong():
    scores = np.ones((2, 3))
    assert [float(accuracy(f"top_k: {k}", scores, [0, 2])[0]) for k in (1, 2, 3)] == [0, 0, 1]


def test_classes():
    total, each = accuracy(tops=2)
    assert total == 0.25 and each.tolist() == [1, 0, 0]
    total, each = accuracy("ignore_label: 1", tops=2)
    assert total == 0.5 and each.tolist() == [1, 0, 0]
    total, each = accuracy("ignore_label: 255", labels=[255] * 4, tops=2)
    assert total == 0 and each.tolist() == [0, 0, 0]


def test_axes():
    scores = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    for axis in range(4):
        labels = scores.argmax(axis=axis)
        assert accuracy(f"axis: {axis}", scores, labels)[0] == 1
        assert accuracy(f"axis: {axis - 4}", scores, (labels + 1) % scores.shape[axis])[0] == 0


def test_refusals():
    with pytest.raises(LayerError, match=r"top_k \(4\) exceeds the number of classes \(3\)"):
        accuracy("top_k: 4")
    with pytest.raises(LayerError, match="one label per prediction: 4"):
        accuracy(labels=[0, 1])
    with pytest.raises(LayerError, match="axis 2 is out of range"):
        accuracy("axis: 2")


def test_there_is_no_backward_pass():
    run = LayerRun('type: "Accuracy"', [SCORES, LABELS])
    run.forward()
    with pytest.raises(LayerError, match="no backward pass"):
        run.backward([1.0], [True, False])
