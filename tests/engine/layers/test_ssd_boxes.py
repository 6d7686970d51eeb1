"""Overlap, codes, matching and suppression of SSD boxes against their definitions, written as plain loops."""

import numpy as np
import pytest

from caffelite.backend.kernels import kernels
from caffelite.backend.nms import suppressed_of_ssd
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


def encoded(box, prior, variances, code_type):
    """The codes of boxes [N, 4] against priors [N, 4], in float64."""
    box, prior = np.float64(box), np.float64(prior)
    size = np.tile(prior[:, 2:] - prior[:, :2], 2)
    if code_type == boxes.CORNER:
        return (box - prior) / variances
    if code_type == boxes.CORNER_SIZE:
        return (box - prior) / size / variances
    offset = (box[:, :2] + box[:, 2:] - prior[:, :2] - prior[:, 2:]) / 2 / size[:, :2]
    return np.hstack([offset, np.log((box[:, 2:] - box[:, :2]) / size[:, :2])]) / variances


def test_codes_by_hand():
    box, prior, ones = np.array([[0.2, 0.2, 0.4, 0.4]]), np.array([[0.1, 0.1, 0.3, 0.5]]), np.ones((1, 4))
    np.testing.assert_allclose(encoded(box, prior, ones, boxes.CORNER), [[0.1, 0.1, 0.1, -0.1]], atol=1e-6)
    np.testing.assert_allclose(encoded(box, prior, ones, boxes.CORNER_SIZE), [[0.5, 0.25, 0.5, -0.25]], atol=1e-6)
    center_size = encoded(box, prior, VARIANCES[:1], boxes.CENTER_SIZE)
    np.testing.assert_allclose(center_size, [[5, 0, 0, np.log(0.5) / 0.2]], atol=1e-5)


@pytest.mark.parametrize("code_type", [boxes.CORNER, boxes.CENTER_SIZE, boxes.CORNER_SIZE])
def test_the_kernels_codes_are_those(code_type):
    """A prediction of a box's own code is decoded to the box, and has no location loss."""
    box = random_boxes(np.random.default_rng(1), 3)
    codes = np.float32(encoded(box, PRIORS, VARIANCES, code_type))
    decoded = np.empty((1, 3, 4), np.float32)
    kernels("multibox").multibox_decode(3, 3, 1, codes, PRIORS, VARIANCES, code_type, decoded)
    np.testing.assert_allclose(decoded[0], box, atol=1e-6)
    found, labels, losses = np.arange(3, dtype=np.int32), np.zeros(3, np.int32), np.empty(3, np.float32)
    for predicted, expected in ((codes, 0), (codes + np.float32([1, 0, -2, 0]), 2.5)):
        kernels("multibox").multibox_location(
            3, 3, 1, 0, found, labels, PRIORS, VARIANCES, box, predicted, code_type, 0, 0, 0, 1, losses
        )  # fmt: skip
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-10)


def matched(overlap, per_prediction, threshold):
    """What the kernels match, from overlaps [objects, priors]."""
    objects, priors = overlap.shape
    starts, found = np.array([0, objects], np.int32), np.empty((1, priors), np.int32)
    overlap, everywhere = np.ascontiguousarray(overlap, np.float32), np.zeros((priors, 4), np.float32)
    nearest, strongest = np.empty(objects, np.int32), np.empty((1, priors), np.float32)
    k = kernels("multibox")
    k.multibox_bipartite(32, 1, priors, starts, overlap, nearest, found)
    k.multibox_per_prediction(
        priors, priors, starts, overlap, everywhere, 0, 0, int(per_prediction), threshold, found, strongest
    )  # fmt: skip
    np.testing.assert_array_equal(strongest[0], overlap.max(0, initial=0))
    return found[0].tolist()


@pytest.mark.parametrize("per_prediction", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_matches_are_the_greedy_ones(seed, per_prediction):
    generator = np.random.default_rng(seed)
    overlap = boxes.overlaps(random_boxes(generator, 1 + seed), random_boxes(generator, 40))
    assert matched(overlap, per_prediction, 0.3) == plain_match(overlap, per_prediction, np.float32(0.3))


def test_equal_overlaps_go_to_the_lowest_prior_and_then_the_lowest_object():
    overlap = np.array([[0, 0.5, 0.5], [0, 0.5, 0.5]], np.float32)
    assert matched(overlap, False, 0.5) == plain_match(overlap, False, 0.5) == [-1, 0, 1]


def test_more_objects_than_priors_and_no_objects():
    assert matched(np.float32([[0.9], [0.8], [0]]), True, 0.5) == [0]
    assert matched(np.empty((0, 3), np.float32), True, 0.5) == [-1, -1, -1]


@pytest.mark.parametrize(("threshold", "eta"), [(0.45, 1.0), (0.9, 0.8), (0.0, 1.0)])
@pytest.mark.parametrize("count", [0, 1, 60, 519])
def test_suppression_keeps_what_no_kept_box_overlaps(count, threshold, eta):
    found = random_boxes(np.random.default_rng(count), count)
    kept = plain_nms(found, threshold, eta)
    others = random_boxes(np.random.default_rng(count + 1), 20)
    starts = np.array([0, 0, 20, 20 + count], np.int32)
    gone = suppressed_of_ssd(starts, np.concatenate([others, found]), threshold, eta)
    np.testing.assert_array_equal(np.flatnonzero(gone[:20] == 0), plain_nms(others, threshold, eta))
    np.testing.assert_array_equal(np.flatnonzero(gone[20:] == 0), kept)


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
