"""DetectionEvaluate by hand: true and false positives, difficult objects, pixels of the original images."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun

# image, label, score, box
DETECTIONS = [
    [0, 1, 0.5, 0.1, 0.1, 0.4, 0.4],
    [0, 1, 0.9, 0.12, 0.1, 0.42, 0.4],
    [0, 2, 0.8, 0.5, 0.5, 0.9, 0.9],
    [1, 1, 0.7, 0.1, 0.1, 0.4, 0.4],
    [1, 2, 0.6, 0.1, 0.1, 0.4, 0.4],
    [2, -1, -1, -1, -1, -1, -1],
]
# image, label, instance, box, difficult
OBJECTS = [
    [0, 1, 0, 0.1, 0.1, 0.4, 0.4, 0],
    [0, 2, 1, 0.5, 0.5, 0.9, 0.9, 1],
    [1, 2, 0, 0.6, 0.6, 0.9, 0.9, 0],
    [-1] * 8,
]


def evaluate(options="", detections=DETECTIONS, objects=OBJECTS):
    values = [np.reshape(detections, (1, 1, -1, 7)), np.reshape(objects, (1, 1, -1, 8))]
    return LayerRun(f'type: "DetectionEvaluate" detection_evaluate_param {{ {options} }}', values, phase=1)


def rows(options="num_classes: 3", **values):
    (top,) = evaluate(options, **values).forward()
    assert top.shape[:2] == (1, 1) and top.shape[3] == 5
    return np.round(top[0, 0].astype(float), 4).tolist()


def test_counts_of_objects_then_judged_detections():
    assert rows() == [
        [-1, 1, 1, -1, -1],
        [-1, 2, 2, -1, -1],
        [0, 1, 0.9, 1, 0],
        [0, 1, 0.5, 0, 1],  # found before
        [0, 2, 0.8, 1, 0],
        [1, 1, 0.7, 0, 1],  # no object of this class
        [1, 2, 0.6, 0, 1],  # elsewhere
    ]


def test_difficult_objects_do_not_count():
    result = rows("num_classes: 3 evaluate_difficult_gt: false")
    assert result[1] == [-1, 2, 1, -1, -1]
    assert result[4] == [0, 2, 0.8, 0, 0]


def test_an_image_without_ground_truth_has_false_detections_in_their_order():
    detections = [[4, 1, 0.2, 0, 0, 1, 1], [4, 1, 0.3, 0, 0, 1, 1]]
    assert rows(detections=detections)[2:] == [[4, 1, 0.2, 0, 1], [4, 1, 0.3, 0, 1]]


def test_overlap_is_taken_in_pixels_of_the_images_in_turn(tmp_path):
    """A thin box: 0.3 of it is covered, but with inclusive pixels on a small image nearly all."""
    (tmp_path / "sizes").write_text("small 10 10\nlarge 1000 1000\n")
    detections = [[0, 1, 0.9, 0.1, 0.10, 0.5, 0.13], [1, 1, 0.9, 0.1, 0.10, 0.5, 0.13]]
    objects = [[0, 1, 0, 0.1, 0.12, 0.5, 0.15, 0], [1, 1, 0, 0.1, 0.12, 0.5, 0.15, 0]]
    options = f'num_classes: 2 overlap_threshold: 0.6 name_size_file: "{tmp_path}/sizes"'
    run = evaluate(options, detections=detections, objects=objects)
    for _ in range(2):  # after the last image the file starts again
        np.testing.assert_array_equal(run.forward()[0][0, 0, 1:, 3:], [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "expected num_classes"),
        ("num_classes: 3 overlap_threshold: 0", "positive overlap_threshold"),
        ('num_classes: 3 name_size_file: "/no/such/file"', "No such file"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(LayerError, match=message):
        evaluate(options)


def test_refused_values():
    with pytest.raises(LayerError, match="background label 0 in the detections"):
        rows(detections=[[0, 0, 0.2, 0, 0, 1, 1]])
    with pytest.raises(LayerError, match="labels from 0"):
        rows(objects=[[0, 3, 0, 0, 0, 1, 1, 0]])
    with pytest.raises(LayerError, match="detections x 7"):
        LayerRun(
            'type: "DetectionEvaluate" detection_evaluate_param { num_classes: 3 }',
            [np.zeros((1, 1, 2, 6)), np.zeros((1, 1, 1, 8))],
        )
