"""Overlap, encoding, matching and suppression of SSD boxes against their definitions, written as plain loops."""

import numpy as np
import pytest

from caffelite.layers.ssd import boxes

PRIORS = np.array([[0.1, 0.1, 0.3, 0.5], [0.25, 0.4, 0.75, 0.6], [-0.1, 0.5, 0.4, 1.2]], np.float32)
VARIANCES = np.array([[0.1, 0.1, 0.2, 0.2]] * 3, np.float32)


def random_boxes(generator, count, low=0.0, high=1.0):
    corners = np.sort(generator.uniform(low, high, (count, 2, 2)), 1)
    return corners.reshape(count, 4).astype(np.float32)


def plain_overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return np.float32(0)
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    return width * height / (area(a) + area(b) - width * height)


def plain_match(overlap, per_prediction, threshold):
    """The words of the SSD paper, section 2.2, prior by prior; a tie goes to the lowest prior, then ground truth."""
    objects, priors = overlap.shape
    matches, pool = [-1] * priors, list(range(objects))
    while pool:
        value, prior, gt = max(
            ((overlap[g, p], -p, -g) for p in range(priors) if matches[p] == -1 for g in pool), default=(0, 0, 0)
        )
        if value <= 0:
            break
        matches[-prior] = -gt
        pool.remove(-gt)
    for p in range(priors):
        if per_prediction and matches[p] == -1 and objects and overlap[:, p].max() >= threshold and overlap[:, p].any():
            matches[p] = max(range(objects), key=lambda g: (overlap[g, p], -g))
    return matches


def plain_nms(found, threshold, eta):
    kept = []
    threshold = np.float32(threshold)
    for i, box in enumerate(found):
        if all(plain_overlap(box, found[k]) <= threshold for k in kept):
            kept.append(i)
            if eta < 1 and threshold > 0.5:
                threshold = np.float32(threshold * np.float32(eta))
    return kept


def test_overlaps_are_intersection_over_union():
    generator = np.random.default_rng(0)
    a, b = random_boxes(generator, 20), random_boxes(generator, 30)
    expected = [[plain_overlap(x, y) for y in b] for x in a]
    np.testing.assert_array_equal(boxes.overlaps(a, b), np.array(expected, np.float32))


def test_overlaps_of_touching_empty_and_inverted_boxes_are_zero():
    a = np.array([[0, 0, 0.5, 0.5]], np.float32)
    others = np.array([[0.5, 0, 1, 0.5], [0.2, 0.2, 0.2, 0.4], [0.4, 0.1, 0.3, 0.2], [0.6, 0.6, 0.9, 0.9]], np.float32)
    np.testing.assert_array_equal(boxes.overlaps(a, others), np.zeros((1, 4)))
    np.testing.assert_array_equal(boxes.overlaps(others[1:2], others[1:2]), [[0]])


def test_inclusive_pixels_count_one_more_per_side():
    a = np.array([[0, 0, 9, 9]], np.float32)
    b = np.array([[5, 0, 14, 9], [20, 20, 29, 29]], np.float32)
    got = boxes.overlaps(a, b, boxes.areas(a, True), boxes.areas(b, True), extra=1)
    # boxes apart are said to share one pixel, as in the original
    np.testing.assert_allclose(got, [[50 / 150, 1 / 199]], rtol=1e-6)


def test_codes_by_hand():
    box = np.array([[0.2, 0.2, 0.4, 0.4]], np.float32)
    prior, ones = np.array([[0.1, 0.1, 0.3, 0.5]], np.float32), np.ones((1, 4), np.float32)
    corner = boxes.encode(box, prior, ones, boxes.CORNER)
    np.testing.assert_allclose(corner, [[0.1, 0.1, 0.1, -0.1]], atol=1e-6)
    corner_size = boxes.encode(box, prior, ones, boxes.CORNER_SIZE)
    np.testing.assert_allclose(corner_size, [[0.5, 0.25, 0.5, -0.25]], atol=1e-6)
    center_size = boxes.encode(box, prior, VARIANCES[:1], boxes.CENTER_SIZE)
    np.testing.assert_allclose(center_size, [[5, 0, 0, np.log(0.5) / 0.2]], atol=1e-5)


@pytest.mark.parametrize("code_type", [boxes.CORNER, boxes.CENTER_SIZE, boxes.CORNER_SIZE])
def test_decode_is_the_inverse_of_encode(code_type):
    box = random_boxes(np.random.default_rng(1), 3)
    codes = boxes.encode(box, PRIORS, VARIANCES, code_type)
    np.testing.assert_allclose(boxes.decode(codes, PRIORS, VARIANCES, code_type), box, atol=1e-6)


@pytest.mark.parametrize("per_prediction", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_matches_are_the_greedy_ones(seed, per_prediction):
    generator = np.random.default_rng(seed)
    overlap = boxes.overlaps(random_boxes(generator, 1 + seed), random_boxes(generator, 40))
    np.testing.assert_array_equal(
        boxes.match(overlap, per_prediction, 0.3), plain_match(overlap, per_prediction, np.float32(0.3))
    )


def test_equal_overlaps_go_to_the_lowest_prior_and_then_the_lowest_object():
    overlap = np.array([[0, 0.5, 0.5], [0, 0.5, 0.5]], np.float32)
    np.testing.assert_array_equal(boxes.match(overlap, False, 0.5), [-1, 0, 1])
    assert plain_match(overlap, False, 0.5) == [-1, 0, 1]


def test_more_objects_than_priors_and_no_objects():
    np.testing.assert_array_equal(boxes.match(np.float32([[0.9], [0.8], [0]]), True, 0.5), [0])
    np.testing.assert_array_equal(boxes.match(np.empty((0, 3), np.float32), True, 0.5), [-1, -1, -1])


@pytest.mark.parametrize(("threshold", "eta"), [(0.45, 1.0), (0.9, 0.8), (0.0, 1.0)])
@pytest.mark.parametrize("count", [0, 1, 60, 2 * boxes.NMS_BLOCK + 7])
def test_suppression_keeps_what_no_kept_box_overlaps(count, threshold, eta):
    found = random_boxes(np.random.default_rng(count), count)
    np.testing.assert_array_equal(boxes.nms(found, threshold, eta), plain_nms(found, threshold, eta))


def test_order_of_equal_scores_is_stable_with_and_without_a_limit():
    scores = np.float32([0.5, 0.9, 0.5, 0.9, 0.1, 0.5])
    np.testing.assert_array_equal(boxes.best_first(scores), [1, 3, 0, 2, 5, 4])
    for count in range(8):
        np.testing.assert_array_equal(boxes.best_first(scores, count), [1, 3, 0, 2, 5, 4][:count])


def test_priors_are_checked():
    with pytest.raises(ValueError, match="1 x 2 x"):
        boxes.read_priors(np.zeros((1, 1, 8), np.float32))
    with pytest.raises(ValueError, match="NaN"):
        boxes.read_priors(np.full((1, 2, 8), np.nan, np.float32))
    with pytest.raises(ValueError, match="positive width"):
        boxes.check_sizes(PRIORS[:, [2, 1, 0, 3]], boxes.CENTER_SIZE)
    boxes.check_sizes(PRIORS[:, [2, 1, 0, 3]], boxes.CORNER)
