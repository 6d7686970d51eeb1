"""Non-maximum suppression on the GPU answers as on the CPU."""

import numpy as np
import pytest

from caffelite import backend
from caffelite.backend import nms
from caffelite.backend.kernels import kernels
from caffelite.errors import BackendError
from detection.boxes import nms_groups

generator = np.random.default_rng(8)


def crowd(count: int) -> np.ndarray:
    """Detections of which many overlap, by multiples of a tenth too; some are one pixel, equal, or inside out."""
    corners = np.round(generator.uniform(0, 200, (count, 2)))
    boxes = np.hstack((corners, corners + np.round(generator.uniform(0, 60, (count, 2)))))
    boxes[::17, 2:] = boxes[::17, :2] - generator.integers(-1, 3, (len(boxes[::17]), 2))
    boxes[1::19] = boxes[:1]
    return np.hstack((boxes, generator.uniform(size=(count, 1)))).astype(np.float32)


COUNTS = [[900], [1, 0, 31, 32, 33, 64, 500, 0, 640], [0, 65]]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("counts", COUNTS)
def test_every_group_is_suppressed_as_on_the_cpu(counts, threshold, monkeypatch):
    groups = [crowd(count) for count in counts]
    calls = []
    on_gpu = nms._on_gpu
    monkeypatch.setattr(nms, "WORTH_PAIRS", 0)
    monkeypatch.setattr(nms, "_on_gpu", lambda *arguments: calls.append(1) or on_gpu(*arguments))
    found = nms_groups(groups, threshold)
    backend.set_mode_cpu()
    expected = nms_groups(groups, threshold)
    assert len(calls) == 1
    for actual, want in zip(found, expected):
        np.testing.assert_array_equal(actual, want)


def test_few_boxes_stay_on_the_cpu(monkeypatch):
    monkeypatch.setattr(nms, "_on_gpu", None)
    assert len(nms_groups([crowd(100)] * 20, 0.3)) == 20
    monkeypatch.setattr(nms, "MOST_WORDS", 100)
    assert len(nms_groups([crowd(1000)], 0.3)) == 1


def test_kernels_for_a_gpu_alone_refuse_numpy():
    with pytest.raises(BackendError, match=r"kernel nms\.nms_sweep is for a GPU alone"):
        kernels("nms").nms_sweep(32, 1, 1, *(np.zeros(2, kind) for kind in (np.int32, np.uint32, np.uint32, np.uint8)))
