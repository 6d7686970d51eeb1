"""PriorBox by hand, and its options' errors."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun


def prior_box(options, feature=(1, 1), image=(10, 20)):
    inputs = [np.zeros((2, 3, *feature)), np.zeros((2, 3, *image))]
    return LayerRun(f'type: "PriorBox" prior_box_param {{ {options} }}', inputs)


def boxes_of(options, **shapes):
    """Boxes in pixels."""
    image = shapes.get("image", (10, 20))
    (top,) = prior_box(options, **shapes).forward()
    return top[0, 0].reshape(-1, 4) * np.tile(image[::-1], 2), top[0, 1].reshape(-1, 4)


def test_sizes_come_in_order_min_max_ratios_and_their_reciprocals():
    boxes, variances = boxes_of("min_size: 4 max_size: 9 aspect_ratio: 4")
    sizes = np.array([[4, 4], [6, 6], [8, 2], [2, 8]])
    expected = np.concatenate([[10, 5] - sizes / 2, [10, 5] + sizes / 2], 1)
    np.testing.assert_allclose(boxes, expected, atol=1e-5)
    np.testing.assert_array_equal(variances, np.full((4, 4), np.float32(0.1)))


def test_repeated_ratios_are_dropped_and_sizes_cut_to_integers():
    boxes, _ = boxes_of("min_size: 4.9 aspect_ratio: 1 aspect_ratio: 4 aspect_ratio: 0.25 aspect_ratio: 4 flip: false")
    np.testing.assert_allclose(boxes[:, 2] - boxes[:, 0], [4, 8, 2], atol=1e-5)


def test_cells_run_along_rows_with_step_and_offset():
    boxes, variances = boxes_of("min_size: 2 step: 3 offset: 0 variance: [0.1, 0.2, 0.3, 0.4]", feature=(2, 3))
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    np.testing.assert_allclose(centers, [[0, 0], [3, 0], [6, 0], [0, 3], [3, 3], [6, 3]], atol=1e-5)
    np.testing.assert_allclose(variances, [[0.1, 0.2, 0.3, 0.4]] * 6)


def test_step_comes_from_the_image_and_clip_cuts():
    boxes, _ = boxes_of("min_size: 30 clip: true", feature=(1, 2))
    np.testing.assert_allclose(boxes, [[0, 0, 20, 10], [0, 0, 20, 10]], atol=1e-5)
    boxes, _ = boxes_of("min_size: 2", feature=(1, 2))
    np.testing.assert_allclose((boxes[:, 0] + boxes[:, 2]) / 2, [5, 15], atol=1e-5)


def test_image_and_step_per_axis():
    (top,) = prior_box("min_size: 2 img_h: 40 img_w: 80 step_h: 10 step_w: 20").forward()
    np.testing.assert_allclose(top[0, 0], [9 / 80, 4 / 40, 11 / 80, 6 / 40], rtol=1e-6)


def test_its_gradients_are_zero():
    run = prior_box("min_size: 2")
    run.forward()
    bottoms, _ = run.backward([np.ones((1, 2, 4))], [True, False])
    np.testing.assert_array_equal(bottoms[0], np.zeros((2, 3, 1, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "min_size"),
        ("min_size: 0", "positive min_size"),
        ("min_size: nan", "positive min_size"),
        ("min_size: 10 max_size: inf", "sizes below"),
        ("min_size: 10 max_size: 10", "max_size greater"),
        ("min_size: 10 min_size: 20 max_size: 30", "one max_size per min_size"),
        ("min_size: 10 variance: [0.1, 0.2]", "1 or 4 positive variances"),
        ("min_size: 10 variance: 0", "1 or 4 positive variances"),
        ("min_size: 10 aspect_ratio: -1", "positive and finite aspect_ratio"),
        ("min_size: 10 img_size: 0", "positive img_size"),
        ("min_size: 10 img_size: 10 img_h: 10 img_w: 10", "actual both"),
        ("min_size: 10 step: 4 step_h: 4 step_w: 4", "actual both"),
        ("min_size: 10 step_h: 4", "positive step"),
    ],
)
def test_errors(options, message):
    with pytest.raises(LayerError, match=message):
        prior_box(options)
