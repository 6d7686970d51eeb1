"""Boxes: overlap, encoding, clipping and suppression, against values worked out by hand and the definition."""

import numpy as np
import pytest

from detection.boxes import (
    bbox_overlaps,
    clip_boxes,
    clip_boxes_inside,
    decode_boxes,
    encode_boxes,
    nms,
    nms_groups,
)


def random_boxes(random, n, size=200):
    corners = random.uniform(0, size, (n, 2))
    return np.hstack((corners, corners + random.uniform(0, size / 2, (n, 2)))).astype(np.float32)


def test_overlaps_count_pixels_inclusively():
    boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [10, 0, 19, 9], [0, 0, 0, 0]])
    overlaps = bbox_overlaps(boxes, boxes[:2])
    assert overlaps.dtype == np.float64
    np.testing.assert_array_equal(overlaps, [[1, 50 / 150], [50 / 150, 1], [0, 50 / 150], [1 / 100, 0]])


def test_overlaps_of_unsigned_boxes_do_not_wrap():
    boxes = np.array([[0, 0, 2, 2]], np.uint16)
    assert bbox_overlaps(boxes, np.array([[5, 5, 9, 9]], np.uint16))[0, 0] == 0


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_overlaps_of_no_boxes(shape):
    n, k = shape
    assert bbox_overlaps(np.zeros((n, 4)), np.zeros((k, 4))).shape == shape


@pytest.mark.parametrize("offset, width", [(1e-14, 10), (1, 11)])
def test_encoding_by_both_width_rules(offset, width):
    deltas = encode_boxes(np.array([[10, 20, 20, 40]]), np.array([[15, 20, 25, 80]]), offset)
    height = width + 10
    np.testing.assert_allclose(deltas, [[5 / width, 20 / height, 0, np.log((height + 40) / height)]], rtol=1e-12)


def test_width_zero_is_not_divided_by():
    point = np.array([[3, 3, 3, 3]])
    np.testing.assert_array_equal(encode_boxes(point, point, 1e-14), np.zeros((1, 4)))


@pytest.mark.parametrize("offset", [1e-14, 1.0])
def test_decoding_undoes_encoding(offset):
    random = np.random.RandomState(0)
    boxes, gt = random_boxes(random, 50), random_boxes(random, 50)
    moved = decode_boxes(boxes, encode_boxes(boxes, gt, offset), offset)
    # the original decodes the width w + offset to corners that lie w + offset apart
    np.testing.assert_allclose(moved, gt + np.array([0, 0, offset, offset]), atol=1e-4)


def test_decoding_moves_every_class_by_its_own_deltas():
    deltas = np.zeros((1, 8), np.float32)
    deltas[0, 4:] = (1, 0.5, np.log(2), 0)
    np.testing.assert_allclose(
        decode_boxes(np.array([[0, 0, 10, 10]], np.uint16), deltas, 1e-14), [[0, 0, 10, 10, 5, 5, 25, 15]], rtol=1e-6
    )


def test_clipping():
    box = np.array([[-5.0, 120, 300, -2]])
    np.testing.assert_array_equal(clip_boxes(box.copy(), 100, 200), [[0, 120, 199, -2]])
    np.testing.assert_array_equal(clip_boxes_inside(box.copy(), 100, 200), [[0, 99, 199, 0]])


def naive_nms(dets, threshold):
    """Suppression by its definition, in float32 like the original."""
    order, kept = list(dets[:, 4].argsort()[::-1]), []
    while order:
        best = order.pop(0)
        kept.append(best)
        order = [i for i in order if bbox_overlaps(dets[[best], :4], dets[[i], :4])[0, 0] < threshold]
    return kept


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms_is_its_definition(threshold):
    random = np.random.RandomState(1)
    groups = [
        np.hstack((random_boxes(random, n), random.permutation(n)[:, None])).astype(np.float32) for n in (60, 0, 1, 90)
    ]
    for dets, keep in zip(groups, nms_groups(groups, threshold)):
        assert keep.tolist() == naive_nms(dets, threshold)
        assert keep.tolist() == nms(dets, threshold).tolist()


def test_nms_suppresses_at_the_threshold_itself():
    # 50 of 150 pixels: 1/3 in float32 lies above 1/3 in float64
    dets = np.array([[0, 0, 9, 9, 0.9], [5, 0, 14, 9, 0.8]], np.float32)
    assert nms(dets, float(np.float32(1) / np.float32(3))).tolist() == [0]
    assert nms(dets, 0.3334).tolist() == [0, 1]
    halves = np.array([[0, 0, 9, 9, 0.9], [0, 0, 9, 4, 0.8]], np.float32)
    assert nms(halves, 0.5).tolist() == [0]


def test_a_suppressed_box_suppresses_nothing():
    dets = np.array([[0, 0, 9, 9, 0.9], [4, 0, 13, 9, 0.8], [8, 0, 17, 9, 0.7]], np.float32)
    assert nms(dets, 0.3).tolist() == [0, 2]


def test_nms_of_golden_values():
    """Duplicates and ties: kept indices as the authors' code gave them."""
    dets = np.array(
        [[10, 10, 20, 20, 0.5], [10, 10, 20, 20, 0.5], [12, 10, 22, 20, 0.6], [40, 40, 60, 50, 0.1]], np.float32
    )
    assert nms(dets, 0.3).tolist() == [2, 3]
