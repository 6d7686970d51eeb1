"""Saved detections, what is measured of them, and tools/reval.py."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from detection.datasets.coco import CocoDataset
from detection.datasets.voc import VocDataset
from detection.errors import EvaluationError
from detection.evaluation import images
from detection.evaluation.detections import load_detections, save_detections
from detection.evaluation.measure import measure, reevaluate
from detection.evaluation.voc import evaluate
from tests.detection.datasets.coco_files import write_coco

ROOT = Path(__file__).resolve().parents[3]
IMAGES = {
    "a": [("cat", (1, 1, 10, 10), False), ("cat", (21, 1, 30, 10), False)],
    "b": [("cat", (1, 1, 10, 10), True), ("dog", (11, 11, 20, 20), False)],
    "c": [],
    "d": [],
}
CAT_A, CAT_B, DOG_B, MISS = (0, 0, 9, 9, 0.9), (0, 0, 9, 9, 0.8), (10, 10, 19, 19, 0.7), (40, 20, 49, 29, 0.6)


@pytest.fixture
def dataset(voc_folder):
    return VocDataset(voc_folder(IMAGES), "all")


@pytest.fixture
def detections():
    def rows(*dets):
        return np.array(dets, np.float32).reshape(-1, 5)

    return [[rows()] * 4, [rows(CAT_A), rows(CAT_B), rows(MISS), rows()], [rows(), rows(DOG_B), rows(), rows()]]


def test_detections_survive_a_file_whatever_the_order_of_images(tmp_path, dataset, detections):
    save_detections(tmp_path / "d.npz", [of_class[::-1] for of_class in detections], list("dcba"))
    found = load_detections(tmp_path / "d.npz", dataset)
    assert [len(of_class) for of_class in found] == [4, 4, 4]
    for of_class, expected in zip(found, detections):
        for x, y in zip(of_class, expected):
            np.testing.assert_array_equal(x, y)


def test_detections_of_another_data_set(tmp_path, dataset, detections):
    save_detections(tmp_path / "d.npz", detections[:2], list("abcd"))
    with pytest.raises(EvaluationError, match=r"expected detections of 3 classes .* found 2"):
        load_detections(tmp_path / "d.npz", dataset)
    for names, message in (("abcx", "lack the image d: they are not of voc_all"), ("abcde", "are of 5 images, not 4")):
        more = [[*of_class, of_class[0]][: len(names)] for of_class in detections]
        save_detections(tmp_path / "d.npz", more, list(names))
        with pytest.raises(EvaluationError, match=message):
            load_detections(tmp_path / "d.npz", dataset)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_index": [9]},
        {"class_index": [-1]},
        {"class_index": [0.5]},
        {"image_index": [1, 2]},
        {"detections": np.zeros((1, 4))},
        {"num_classes": [3]},
        {"num_classes": 10**12},
    ],
)
def test_damaged_files_of_detections(tmp_path, dataset, changes):
    content = {"detections": np.zeros((1, 5)), "class_index": [1], "image_index": [0], "num_classes": 3}
    np.savez(tmp_path / "d.npz", images=list("abcd"), **(content | changes))
    with pytest.raises(EvaluationError, match=r"d\.npz: "):
        load_detections(tmp_path / "d.npz", dataset)
    for data in (b"", b"no zip", (tmp_path / "d.npz").read_bytes()[:-30]):
        (tmp_path / "d.npz").write_bytes(data)
        with pytest.raises(EvaluationError, match=r"d\.npz: damaged, .*; expected detections that a test has saved"):
            load_detections(tmp_path / "d.npz", dataset)


def test_everything_is_measured(tmp_path, dataset, detections):
    evaluation = measure(dataset, detections, tmp_path / "out", tmp_path / "results", use_07_metric=False)
    assert evaluation.mean_ap == 0.75 and evaluation.coco is None
    content = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert content["band"]["low"] <= 0.75 <= content["band"]["high"]
    assert content["precision_recall"] == {"cat": [[0.5, 1.0]], "dog": [[1.0, 1.0]]}
    assert (tmp_path / "results/comp4_det_all_cat.txt").is_file()
    for name in ("worst.jpg", "best.jpg", "precision_recall.png"):
        assert cv2.imread(str(tmp_path / "out" / name)).std() > 5


def test_coco_is_measured_both_ways(tmp_path):
    file = write_coco(tmp_path, [{"image_id": 9, "category_id": 18, "bbox": [0, 0, 10, 10]}])
    dets = [[np.zeros((0, 5))] * 2, [np.array([CAT_A]), np.zeros((0, 5))], [np.zeros((0, 5))] * 2]
    evaluation = measure(CocoDataset(file, tmp_path / "images"), dets, tmp_path / "out")
    assert evaluation.mean_ap == 1 and evaluation.coco.ap() == pytest.approx(1)
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["coco"]["AP"] == pytest.approx(1)
    assert (tmp_path / "out/detections_some_results.json").is_file()


def test_a_coco_set_without_annotations_ends_with_the_file_for_its_server(tmp_path):
    file = write_coco(tmp_path, [])
    content = json.loads(file.read_text())
    del content["annotations"]
    file.write_text(json.dumps(content))
    dataset = CocoDataset(file, tmp_path / "images")
    assert not dataset.has_annotations
    dets = [[np.zeros((0, 5))] * 2, [np.array([CAT_A]), np.zeros((0, 5))], [np.zeros((0, 5))] * 2]
    save_detections(tmp_path / "detections.npz", dets, dataset.image_index)
    assert reevaluate(dataset, tmp_path, server=tmp_path / "results.zip") is None
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        (name,) = archive.namelist()
        (found,) = json.loads(archive.read(name))
    assert name == "detections_some_results.json" and found["image_id"] == 9 and found["category_id"] == 18


def test_images_are_ranked_by_f1(dataset, detections):
    ranking = images.ranking(evaluate(dataset, detections, None))
    assert [(s.index, s.true, s.false, s.missed) for s in ranking] == [(2, 0, 1, 0), (0, 1, 0, 1), (1, 1, 0, 0)]
    assert [s.f1 for s in ranking] == [0, pytest.approx(2 / 3), 1]
    strict = images.ranking(evaluate(dataset, detections, None), 0.75)
    assert [s.index for s in strict] == [1, 0], "below the threshold nothing is counted"
    assert images.ranking(evaluate(dataset, [[np.zeros((0, 5))] * 4] * 3, None), 0)[0].index == 0, "2 missed are worse"


def test_other_rules(tmp_path, dataset, detections):
    save_detections(tmp_path / "detections.npz", detections, dataset.image_index)
    assert reevaluate(dataset, tmp_path, use_07_metric=True).mean_ap == pytest.approx((6 / 11 + 1) / 2)
    assert (tmp_path / "reval/evaluation.json").is_file()
    archive = tmp_path / "sent" / "results.tgz"
    counted = reevaluate(
        dataset, tmp_path / "detections.npz", tmp_path / "b", archive,
        use_07_metric=False, count_difficult=True, competition="comp3",
    )  # fmt: skip
    assert counted.mean_ap == pytest.approx((2 / 3 + 1) / 2)
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [f"results/VOC2007/Main/comp3_det_all_{name}.txt" for name in ("cat", "dog")]
        text = tar.extractfile(tar.getnames()[1]).read()
    assert text == (tmp_path / "b/results/comp3_det_all_dog.txt").read_bytes() == b"b 0.700 11.0 11.0 20.0 20.0\n"
    with pytest.raises(EvaluationError, match="expected the name of an archive"):
        reevaluate(dataset, tmp_path, server=tmp_path / "results.zip")


def test_detections_that_are_not_there(tmp_path, dataset):
    with pytest.raises(EvaluationError, match=r"^\S+/none\.npz: there is no such file; tools/test_net\.py writes it$"):
        load_detections(tmp_path / "none.npz", dataset)


def test_tool(tmp_path, dataset, detections):
    save_detections(tmp_path / "detections.npz", detections, dataset.image_index)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "lib")])}
    tool = [sys.executable, str(ROOT / "tools/reval.py"), str(tmp_path)]
    run = subprocess.run(
        [*tool, "--imdb", f"{dataset.folder}:all", "--metric", "area"], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert "area under the curve" in run.stdout and "chance: 95 % of 1000 draws" in run.stdout
    assert [line.split()[-1] for line in run.stdout.splitlines() if line.startswith("mean")] == ["0.7500"]
    assert run.stdout.endswith(f"written to {tmp_path / 'reval'}\n")


@pytest.mark.parametrize("overlap", [50, -0.1, 1, float("nan")])
def test_an_overlap_is_a_fraction(dataset, detections, overlap):
    with pytest.raises(EvaluationError, match="expected an IoU from 0 to 1"):
        evaluate(dataset, detections, None, overlap)
