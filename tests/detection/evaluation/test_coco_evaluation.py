"""COCO's average precision: worked by hand, and against pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest

from detection.datasets.coco import CocoDataset
from detection.errors import EvaluationError
from detection.evaluation import coco
from detection.evaluation.voc import evaluate as evaluate_voc
from tests.detection.datasets.coco_files import write_coco

DOG, LIGHT = {"image_id": 10, "category_id": 18}, {"image_id": 9, "category_id": 3}
IMAGE_9, IMAGE_10 = 0, 1


def dataset_of(folder, annotations):
    return CocoDataset(write_coco(folder, annotations), folder / "images")


def detections(*dogs, lights=()):
    """all_boxes from (image number, x, y, width, height, score)."""
    boxes = [[np.zeros((0, 5)) for _ in range(2)] for _ in range(3)]
    for k, rows in ((1, dogs), (2, lights)):
        for image, x, y, w, h, score in rows:
            boxes[k][image] = np.vstack([boxes[k][image], [x, y, x + w - 1, y + h - 1, score]])
    return boxes


def test_all_found(tmp_path):
    dataset = dataset_of(tmp_path, [{**DOG, "bbox": [5, 5, 10, 20]}])
    result = coco.evaluate(dataset, detections((IMAGE_10, 5, 5, 10, 20, 0.5)))
    np.testing.assert_allclose([result.ap(), result.ap(0.5), result.ar(), result.ar(1)], 1)
    assert np.isnan(result.ap(area="large")) and np.isnan(result.ap(class_name="traffic light"))
    assert result.ap(class_name="dog") == result.summary["APs"] == pytest.approx(1)


def test_a_box_that_is_half_off(tmp_path):
    """IoU 7 / 10: found at the thresholds 0.5 to 0.7, five of ten."""
    dataset = dataset_of(tmp_path, [{**DOG, "bbox": [5, 5, 10, 20]}])
    result = coco.evaluate(dataset, detections((IMAGE_10, 5, 5, 10, 14, 0.5)))
    np.testing.assert_allclose([result.ap(), result.ar()], 0.5)
    assert result.ap(0.5) == pytest.approx(1) and result.ap(0.75) == 0


def test_a_crowd_swallows_detections(tmp_path):
    dataset = dataset_of(tmp_path, [{**DOG, "bbox": [0, 0, 10, 10]}, {**DOG, "bbox": [20, 0, 30, 30], "iscrowd": 1}])
    dets = [(IMAGE_10, 20, 0, 5, 5, 0.9), (IMAGE_10, 30, 10, 5, 5, 0.8), (IMAGE_10, 0, 0, 10, 10, 0.7)]
    assert coco.evaluate(dataset, detections(*dets)).ap() == pytest.approx(1)
    assert evaluate_voc(dataset, detections((IMAGE_10, 20, 0, 30, 30, 0.9), dets[2]), None).mean_ap == 1


def test_no_detections(tmp_path):
    dataset = dataset_of(tmp_path, [{**DOG, "bbox": [0, 0, 10, 10]}])
    result = coco.evaluate(dataset, detections())
    assert result.ap() == result.ar() == 0
    with pytest.raises(EvaluationError, match="expected detections of 3 classes"):
        coco.evaluate(dataset, detections()[1:])


def test_result_file(tmp_path):
    dataset = dataset_of(tmp_path, [])
    dets = detections((IMAGE_9, 5, 6, 10, 20.5, 0.25), lights=[(IMAGE_10, 0, 0, 3, 4, 0.5)])
    file = coco.write_results(dataset, dets, tmp_path / "out")
    assert file.name == "detections_some_results.json"
    assert json.loads(file.read_text()) == [
        {"image_id": 9, "category_id": 18, "bbox": [5, 6, 10, 20.5], "score": 0.25},
        {"image_id": 10, "category_id": 3, "bbox": [0, 0, 3, 4], "score": 0.5},
    ]


def random_case(random):
    """Objects and detections on a coarse grid, so that scores, boxes and overlaps tie often; some objects are crowds,
    some areas belie the boxes, some images hold more detections than count."""
    objects, dets = [], ([], [])
    for image in (9, 10):
        for k, category in enumerate((18, 3)):
            boxes = random.integers(0, 5, (random.integers(0, 12), 4)) * (12, 8, 30, 30) + (0, 0, 8, 8)
            for box in boxes.tolist():
                area = float(box[2] * box[3]) * random.choice([1, 0.6])
                crowd = int(random.random() < 0.15)
                objects.append(
                    {"image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
                )
            shifts = random.integers(-2, 3, (random.choice([0, 3, 40, 120]), 4)) * (3, 2, 4, 4)
            for shift in shifts if len(boxes) else ():
                x, y, w, h = boxes[random.integers(len(boxes))] + shift
                dets[k].append((image - 9, x, y, max(w, 1), max(h, 1), round(random.random(), 1)))
    return objects, detections(*dets[0], lights=dets[1])


@pytest.mark.parametrize("seed", range(6))
def test_pycocotools_finds_the_same(tmp_path, seed):
    reference = pytest.importorskip("pycocotools.cocoeval")
    from pycocotools.coco import COCO

    objects, dets = random_case(np.random.default_rng(seed))
    dataset = dataset_of(tmp_path, objects)
    ours = coco.evaluate(dataset, dets)
    file = coco.write_results(dataset, dets, tmp_path)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(dataset.file))
        theirs = reference.COCOeval(truth, truth.loadRes(str(file)), "bbox")
        theirs.evaluate()
        theirs.accumulate()
        theirs.summarize()
    # its classes are in the order of their ids, 3 and 18
    np.testing.assert_allclose(ours.recall[:, ::-1], theirs.eval["recall"], atol=1e-6)
    np.testing.assert_allclose(ours.precision[:, :, ::-1], theirs.eval["precision"], atol=1e-6)
    expected = np.where(theirs.stats == -1, np.nan, theirs.stats)
    np.testing.assert_allclose(list(ours.summary.values()), expected, atol=1e-6)
    assert 0 < ours.ap() < 1
