"""The grid of dense boxes, samples of it, and the box of it that is closest to another."""

from itertools import pairwise

import numpy as np
import pytest

from detection.boxes import bbox_overlaps
from detection.proposals.dense import GridOptions, closest, grid, shuffled_grid, windows

COARSE = GridOptions(overlap=0.4, min_area=100, max_ratio=2)


@pytest.mark.parametrize("size", [(61, 40), (40, 90), (100, 100)])
def test_boxes_lie_in_the_image_and_none_is_there_twice(size):
    boxes = grid(*size, COARSE)
    width, height = size
    assert boxes.dtype == np.int32 and len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] < (width, height)).all()
    assert boxes[-1].tolist() == [0, 0, width - 1, height - 1]
    sides = boxes[:-1, 2:] - boxes[:-1, :2] + 1
    assert (sides.prod(axis=1) >= 90).all() and (sides.max(axis=1) / sides.min(axis=1) < 2.2).all()
    for edge in (boxes[:, 0], width - 1 - boxes[:, 2], boxes[:, 1], height - 1 - boxes[:, 3]):
        assert (edge == 0).sum() > 10  # the grid reaches all four borders


@pytest.mark.parametrize("overlap", [0.5, 0.65])
def test_neighbours_overlap_as_they_should(overlap):
    """In place at least by so much, since boxes are spread evenly, but for whole pixels; in scale and ratio, too."""
    found = windows(500, 375, GridOptions(overlap))[:-1]
    for window in found:
        if len(window.xs) > 1:
            step = np.diff(window.xs).max() - 1
            assert (window.width - step) / (window.width + step) >= overlap
    square = sorted({w.width for w in found if w.width == w.height})
    ratios = np.array(square[:-1]) ** 2 / np.array(square[1:]) ** 2
    np.testing.assert_allclose(ratios, overlap, atol=0.04)
    smallest = sorted((w.width, w.height) for w in found if abs(w.width * w.height - 1000) < 100)
    assert len(smallest) > 2
    for (wide, low), (wider, lower) in pairwise(smallest):  # both centred on one point
        shared = wide * lower
        assert shared / (wide * low + wider * lower - shared) == pytest.approx(overlap, abs=0.06)


def test_the_papers_number():
    """About 45,000 boxes for an image of VOC (section 5.5)."""
    assert [len(grid(*size)) for size in ((500, 375), (500, 333), (333, 500))] == [48889, 42946, 42946]


def test_denser_is_more():
    assert len(grid(200, 150, GridOptions(0.7))) > 1.5 * len(grid(200, 150, GridOptions(0.6)))


def test_an_image_smaller_than_the_smallest_box():
    assert grid(20, 30).tolist() == [[0, 0, 19, 29]]


def test_a_random_order_that_depends_on_the_image():
    boxes = shuffled_grid(100, 80, "a", COARSE)
    np.testing.assert_array_equal(boxes, shuffled_grid(100, 80, "a", COARSE))
    assert sorted(boxes.tolist()) == sorted(grid(100, 80, COARSE).tolist())
    for other in (shuffled_grid(100, 80, "b", COARSE), shuffled_grid(100, 80, "a", COARSE, seed=4)):
        assert (boxes != other).any()


def test_the_closest_box_is_that_of_the_largest_iou():
    random = np.random.RandomState(0)
    corners = random.randint(0, 60, (50, 2))
    boxes = np.hstack((corners, np.minimum(corners + random.randint(0, 50, (50, 2)), (90, 70))))
    found = closest(boxes, 91, 71, COARSE)
    whole = grid(91, 71, COARSE)
    assert found.dtype == np.int32 and {tuple(box) for box in found.tolist()} <= {tuple(box) for box in whole.tolist()}
    np.testing.assert_allclose(bbox_overlaps(boxes, found).diagonal(), bbox_overlaps(boxes, whole).max(axis=1))
    np.testing.assert_array_equal(closest(whole[::7], 91, 71, COARSE), whole[::7])
    assert closest(np.zeros((0, 4)), 91, 71, COARSE).shape == (0, 4)
