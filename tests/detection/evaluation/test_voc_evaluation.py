"""Average precision of VOC: worked by hand, against a plain reading of the rules, and through the result files."""

import json
import math

import numpy as np
import pytest

from detection.datasets.voc import VocDataset
from detection.errors import EvaluationError
from detection.evaluation import report
from detection.evaluation.voc import assign, average_precision, evaluate, read_results, result_path, write_results

CAT, DOG = 1, 2
IMAGES = {
    "a": [("cat", (1, 1, 10, 10), False), ("cat", (21, 1, 30, 10), False)],
    "b": [("cat", (1, 1, 10, 10), True), ("dog", (11, 11, 20, 20), False)],
    "c": [],
}
HIT_1, HIT_2, MISS = (0, 0, 9, 9), (20, 0, 29, 9), (40, 20, 49, 29)


@pytest.fixture
def dataset(voc_folder):
    return VocDataset(voc_folder(IMAGES), "all")


def detections(dataset, **of_class):
    """all_boxes from (image number, box, score) of each class."""
    boxes = [[np.zeros((0, 5)) for _ in dataset.image_index] for _ in dataset.classes]
    for name, dets in of_class.items():
        for image, box, score in dets:
            of_image = boxes[dataset.classes.index(name)]
            of_image[image] = np.vstack([of_image[image], [*box, score]])
    return boxes


def ap_of(dataset, name="cat", folder=None, use_07_metric=True, count_difficult=False, **of_class):
    boxes = detections(dataset, **of_class)
    result = evaluate(dataset, boxes, folder, use_07_metric=use_07_metric, count_difficult=count_difficult)
    return next(r for r in result.classes if r.name == name)


def test_all_found(dataset):
    result = ap_of(dataset, cat=[(0, HIT_1, 0.9), (0, HIT_2, 0.8)])
    assert result.ap == 1 and result.recall.tolist() == [0.5, 1] and result.precision.tolist() == [1, 1]
    assert (result.objects, result.difficult, result.detections) == (2, 1, 2)


def test_half_found():
    assert average_precision(np.array([0.5]), np.array([1.0]), True) == pytest.approx(6 / 11)
    assert average_precision(np.array([0.5]), np.array([1.0]), False) == 0.5


def test_a_false_positive_above_and_one_below(dataset):
    dets = [(2, MISS, 0.95), (0, HIT_1, 0.9), (1, MISS, 0.85), (0, HIT_2, 0.8)]
    result = ap_of(dataset, cat=dets)
    assert result.precision.tolist() == [0, 1 / 2, 1 / 3, 2 / 4] and result.recall.tolist() == [0, 0.5, 0.5, 1]
    assert result.ap == pytest.approx(0.5)
    assert ap_of(dataset, cat=dets, use_07_metric=False).ap == pytest.approx(0.5)


def test_envelope():
    recall, precision = np.array([0.25, 0.25, 0.5, 0.75]), np.array([1, 0.5, 2 / 3, 0.75])
    assert average_precision(recall, precision, False) == pytest.approx(0.25 * 1 + 0.5 * 0.75)
    assert average_precision(recall, precision, True) == pytest.approx((3 * 1 + 5 * 0.75) / 11)


def test_a_second_detection_of_an_object_is_false(dataset):
    result = ap_of(dataset, cat=[(0, HIT_1, 0.9), (0, (1, 0, 9, 9), 0.85), (0, HIT_2, 0.8)])
    assert result.precision.tolist() == [1, 1 / 2, 2 / 3]


def test_the_better_score_takes_the_object_even_if_it_lies_worse(dataset):
    result = ap_of(dataset, cat=[(0, HIT_1, 0.8), (0, (2, 0, 9, 9), 0.9)])
    assert result.recall.tolist() == [0.5, 0.5] and result.precision.tolist() == [1, 0.5]


def test_a_detection_belongs_to_the_object_it_overlaps_most_even_if_that_is_taken():
    gt = [np.array([(0, 0, 9, 9), (0, 0, 9, 11)], float)]
    dets = np.array([(0, 0, 9, 9, 0.9), (0, 0, 9, 9, 0.8)])
    true, false = assign(np.zeros(2, int), dets, gt, [np.zeros(2, bool)])
    assert true.tolist() == [True, False] and false.tolist() == [False, True]


def test_difficult_objects_and_their_detections_do_not_count(dataset):
    dets = [(1, HIT_1, 0.95), (0, HIT_1, 0.9), (1, HIT_1, 0.85), (0, HIT_2, 0.8)]
    result = ap_of(dataset, cat=dets)
    assert result.ap == 1 and result.detections == 4
    assert result.precision.tolist() == [0, 1, 1, 1]
    counted = ap_of(dataset, cat=dets, count_difficult=True)
    assert (counted.objects, counted.difficult) == (3, 0)
    assert counted.precision.tolist() == [1, 1, 2 / 3, 3 / 4]


def test_only_difficult_objects(voc_folder):
    dataset = VocDataset(voc_folder({"a": [("cat", (1, 1, 10, 10), True)]}), "all")
    result = ap_of(dataset, cat=[(0, HIT_1, 0.9)])
    assert math.isnan(result.ap) and result.objects == 0 and result.recall.tolist() == [0]


def test_no_detections(dataset):
    result = evaluate(dataset, detections(dataset), None)
    assert [r.ap for r in result.classes] == [0, 0] and result.mean_ap == 0
    assert evaluate(dataset, detections(dataset), None, use_07_metric=False).mean_ap == 0


def test_a_class_without_objects_is_not_in_the_mean(voc_folder, capsys):
    dataset = VocDataset(voc_folder(IMAGES), "all", ["cat", "dog", "horse"])
    result = evaluate(dataset, detections(dataset, dog=[(1, (10, 10, 19, 19), 0.9)], horse=[(0, MISS, 0.9)]), None)
    assert math.isnan(result.classes[2].ap)
    assert result.mean_ap == 0.5
    assert "not in the mean: horse" in report.table(result)


@pytest.mark.parametrize("width, hit", [(9, False), (10, True)])
def test_iou_must_exceed_one_half_counting_pixels_inclusively(width, hit):
    """An object of 20 x 10 pixels and a detection of `width` + 1 x 10 pixels inside it: 10 of 20 is not enough."""
    gt = [np.array([(0, 0, 19, 9)], float)]
    dets = np.array([(0, 0, width, 9, 0.9)])
    assert assign(np.zeros(1, int), dets, gt, [np.zeros(1, bool)])[0].tolist() == [hit]


def test_equal_scores_keep_their_order(dataset):
    first_wins = ap_of(dataset, cat=[(0, HIT_1, 0.9), (1, MISS, 0.9), (2, MISS, 0.9)])
    assert first_wins.precision.tolist() == [1, 1 / 2, 1 / 3]
    last_wins = ap_of(dataset, cat=[(0, MISS, 0.9), (0, HIT_1, 0.9)])
    assert last_wins.precision.tolist() == [0, 1 / 2]


def test_scores_that_round_to_the_same_are_equal_in_the_files(dataset, tmp_path):
    dets = [(0, MISS, 0.9001), (0, HIT_1, 0.9004)]
    assert ap_of(dataset, cat=dets).precision.tolist() == [1, 1 / 2]
    assert ap_of(dataset, cat=dets, folder=tmp_path).precision.tolist() == [0, 1 / 2]


def test_eleven_points_of_the_original():
    """3 * 0.1 is above 0.3: a recall of 3 in 10 reaches the points 0, 0.1 and 0.2."""
    assert average_precision(np.array([3 / 10]), np.array([1.0]), True) == pytest.approx(3 / 11)
    assert average_precision(np.array([4 / 10]), np.array([1.0]), True) == pytest.approx(5 / 11)


def plain_reading(images, dets, gt_boxes, difficult):
    """The rules one detection at a time."""
    taken, rows = set(), []
    for n in sorted(range(len(dets)), key=lambda n: -dets[n][4]):
        x1, y1, x2, y2, _ = dets[n]
        best, match = -1.0, None
        for m, (u1, v1, u2, v2) in enumerate(gt_boxes[images[n]]):
            width, height = min(x2, u2) - max(x1, u1) + 1, min(y2, v2) - max(y1, v1) + 1
            if width <= 0 or height <= 0:
                continue
            both = width * height
            iou = both / ((x2 - x1 + 1) * (y2 - y1 + 1) + (u2 - u1 + 1) * (v2 - v1 + 1) - both)
            if iou > best:
                best, match = iou, (images[n], m)
        if best > 0.5 and difficult[match[0]][match[1]]:
            rows.append((False, False))
        else:
            hit = best > 0.5 and match not in taken
            if hit:
                taken.add(match)
            rows.append((hit, not hit))
    return np.array(rows).T


@pytest.mark.parametrize("seed", range(6))
def test_against_a_plain_reading_of_the_rules(seed):
    random = np.random.default_rng(seed)

    def boxes(n):
        corner = random.integers(0, 8, (n, 2))
        return np.hstack([corner, corner + random.integers(4, 10, (n, 2))]).astype(float)

    gt_boxes = [boxes(n) for n in random.integers(0, 5, 15)]
    difficult = [random.random(len(b)) < 0.3 for b in gt_boxes]
    images = random.integers(0, 15, 300)
    dets = np.hstack([boxes(300), random.integers(0, 60, (300, 1)) / 60])
    true, false = assign(images, dets, gt_boxes, difficult)
    expected_true, expected_false = plain_reading(images.tolist(), dets.tolist(), gt_boxes, difficult)
    np.testing.assert_array_equal(true, expected_true)
    np.testing.assert_array_equal(false, expected_false)
    assert true.sum() > 3 and (~true & ~false).sum() > 3, "nothing tested"


def test_result_files(dataset, tmp_path):
    boxes = detections(dataset, cat=[(1, (0.04, 1.26, 9, 9), 0.12345), (0, (-3, 0, 9, 9), 1)])
    paths = write_results(dataset, boxes, tmp_path / "results")
    assert [path.name for path in paths] == ["comp4_det_all_cat.txt", "comp4_det_all_dog.txt"]
    assert paths[0].read_text() == "a 1.000 -2.0 1.0 10.0 10.0\nb 0.123 1.0 2.3 10.0 10.0\n"
    assert paths[1].read_text() == ""
    images, dets = read_results(paths[0], dataset)
    assert images.tolist() == [0, 1]
    np.testing.assert_array_equal(dets, [(-2, 1, 10, 10, 1), (1, 2.3, 10, 10, 0.123)])
    images, dets = read_results(paths[1], dataset)
    assert images.shape == (0,) and dets.shape == (0, 5)


def test_through_files_and_without_they_agree_but_for_the_rounding(dataset, tmp_path):
    dets = {"cat": [(0, HIT_1, 0.9), (1, MISS, 0.85), (0, HIT_2, 0.8)], "dog": [(1, (10, 10, 19, 19), 0.5)]}
    direct = evaluate(dataset, detections(dataset, **dets), None)
    filed = evaluate(dataset, detections(dataset, **dets), tmp_path, competition="mine")
    assert filed.mean_ap == direct.mean_ap and 0 < direct.mean_ap < 1
    assert (tmp_path / "mine_det_all_dog.txt").exists()


@pytest.mark.parametrize("line", ["a 0.9 1 2 3", "a 0.9 1 2 3 4 5", "a high 1 2 3 4", "", "z 0.9 1 2 3 4"])
def test_faulty_result_files(dataset, tmp_path, line):
    path = result_path(dataset, "cat", tmp_path)
    path.write_text(f"a 0.9 1 2 3 4\n{line}\n")
    with pytest.raises(EvaluationError, match=r"comp4_det_all_cat\.txt:2: "):
        read_results(path, dataset)
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_results(tmp_path / "none.txt", dataset)


def test_detections_must_fit_the_data_set(dataset):
    boxes = detections(dataset)
    with pytest.raises(EvaluationError, match="expected detections of 3 classes, background included, found 2"):
        evaluate(dataset, boxes[1:], None)
    with pytest.raises(EvaluationError, match="expected detections of 3 images for class dog, found 2"):
        evaluate(dataset, [*boxes[:2], boxes[2][:2]], None)
    boxes[CAT][1] = np.array([(0, 0, 5, 5, np.nan)])
    with pytest.raises(EvaluationError, match="image b: detections of class cat are not finite"):
        evaluate(dataset, boxes, None)


def test_the_year_chooses_the_metric(voc_folder):
    folder = voc_folder({"a": IMAGES["a"]})
    for year, expected in ((2007, 6 / 11), (2012, 0.5)):
        dataset = VocDataset(folder, "all", year=year)
        assert evaluate(dataset, detections(dataset, cat=[(0, HIT_1, 0.9)]), None).mean_ap == pytest.approx(expected)


def test_report(dataset, tmp_path):
    result = evaluate(dataset, detections(dataset, cat=[(0, HIT_1, 0.9)]), tmp_path)
    lines = report.table(result).splitlines()
    assert lines[1] == "AP: 11 points (VOC07), IoU > 0.5 with inclusive pixels, difficult objects ignored"
    assert [line.split() for line in lines[4:]] == [
        ["cat", "2", "1", "1", "0.5455"],
        ["dog", "1", "0", "0", "0.0000"],
        ["mean", "3", "1", "1", "0.2727"],
    ]
    report.write_json(result, tmp_path / "out" / "ap.json")
    content = json.loads((tmp_path / "out" / "ap.json").read_text())
    assert content["mAP"] == pytest.approx(3 / 11) and content["AP"]["dog"] == 0 and content["rules"] == lines[1]


def test_a_class_is_no_folder(dataset, tmp_path):
    assert result_path(dataset, "../a b/%", tmp_path).name == f"comp4_det_{dataset.image_set}_..%2Fa b%2F%25.txt"
