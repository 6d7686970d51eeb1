"""The band of chance: resampled AP is the AP of resampled images, and the interval covers what it should."""

import math
import time

import numpy as np
import pytest

from detection.evaluation.bootstrap import band, resampled_ap
from detection.evaluation.voc import ClassResult, Evaluation, average_precision


def random_result(random, images=30, objects=None, detections=200, name="cat"):
    """Detections with scores all different; true at most as often as an image has objects."""
    objects = random.integers(0, 3, images) if objects is None else objects
    where = random.integers(0, images, detections)
    left, true = objects.copy(), np.zeros(detections, bool)
    for n, image in enumerate(where):
        true[n] = left[image] > 0 and random.random() < 0.5
        left[image] -= true[n]
    false = ~true & (random.random(detections) < 0.9)
    scores = np.linspace(1, 0, detections)
    recall, precision = curve(true, false, objects.sum())
    ap = average_precision(recall, precision, True)
    return ClassResult(
        name, ap, recall, precision, int(objects.sum()), 0, detections, scores, where, true, false, objects
    )  # fmt: skip


def curve(true, false, objects):
    true, false = true.cumsum(), false.cumsum()
    return true / max(objects, 1), true / np.maximum(true + false, 1)


@pytest.mark.parametrize("use_07_metric", [True, False])
def test_resampled_ap_is_that_of_the_images_drawn(use_07_metric):
    random = np.random.default_rng(0)
    result = random_result(random)
    weights = random.multinomial(30, np.full(30, 1 / 30), size=20)
    weights[0] = 1
    aps = resampled_ap(result, weights, use_07_metric)
    for weight, ap in zip(weights, aps):
        copies = weight[result.images]  # every detection as often as its image was drawn
        recall, precision = curve(
            np.repeat(result.true, copies), np.repeat(result.false, copies), weight @ result.objects_in_images
        )
        assert ap == pytest.approx(average_precision(recall, precision, use_07_metric), abs=1e-12)
    if use_07_metric:
        assert aps[0] == pytest.approx(result.ap)


def test_draws_without_objects_and_classes_without_hits():
    random = np.random.default_rng(1)
    one_object = np.zeros(30, int)
    one_object[3] = 1
    result = random_result(random, objects=one_object)
    weights = np.ones((2, 30), int)
    weights[1, 3] = 0
    assert np.isnan(resampled_ap(result, weights, True)[1]) and resampled_ap(result, weights, True)[0] >= 0
    missed = random_result(random, objects=one_object, detections=0)
    np.testing.assert_array_equal(resampled_ap(missed, weights, True), [0, np.nan])


def test_band():
    random = np.random.default_rng(2)
    results = tuple(random_result(random, 100, name=name) for name in ("cat", "dog", "cow"))
    evaluation = Evaluation("d", 100, results, True, 0.5, False)
    found = band(evaluation)
    assert found == band(evaluation), "the same seed, the same band"
    assert found.low < evaluation.mean_ap < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.deviation, rel=0.15)
    assert list(found.classes) == ["cat", "dog", "cow"]
    wider = [high - low for low, high in found.classes.values()]
    assert min(wider) > found.high - found.low, "a mean over classes moves less than one of them"
    nothing = random_result(random, 100, objects=np.zeros(100, int), name="horse")
    assert band(Evaluation("d", 100, (nothing,), True, 0.5, False)) is None
    assert list(band(Evaluation("d", 100, (*results, nothing), True, 0.5, False)).classes) == ["cat", "dog", "cow"]


def test_more_images_make_it_narrower_by_the_square_root():
    widths = []
    for images in (100, 1600):
        result = random_result(np.random.default_rng(3), images, detections=5 * images)
        found = band(Evaluation("d", images, (result,), False, 0.5, False), 400)
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(16), rel=0.4)


def test_it_is_fast():
    """A class of VOC 2007's size: 4952 images, 100,000 detections."""
    result = random_result(np.random.default_rng(4), 4952, detections=100_000)
    start = time.process_time()
    band(Evaluation("d", 4952, (result,), True, 0.5, False), 200)
    assert time.process_time() - start < 10
