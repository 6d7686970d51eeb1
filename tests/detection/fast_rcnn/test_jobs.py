"""The jobs of the tools, from a folder of images to pictures of detections, and the tools' manners."""

import functools
import json
import os
import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from caffelite.errors import CaffeliteError, WeightsError
from caffelite.solver.lock import locked
from detection.datasets import shapes
from detection.errors import ConfigError, ProposalError
from detection.evaluation.detections import load_detections
from detection.fast_rcnn import jobs
from detection.fast_rcnn.files import newest_model, read_solver
from detection.fast_rcnn.watch import TrainingError
from detection.proposals import selective_search

ROOT = Path(__file__).resolve().parents[3]
BODY = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 5 stride: 4 pad: 2 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool" type: "ROIPooling" bottom: "conv1" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_h: 3 pooled_w: 3 spatial_scale: 0.25 } }
layer { name: "cls_score" type: "InnerProduct" bottom: "pool" top: "cls_score"
  inner_product_param { num_output: 21 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "bbox_pred" type: "InnerProduct" bottom: "pool" top: "bbox_pred"
  inner_product_param { num_output: 84 weight_filler { type: "gaussian" std: 0.001 } } }
"""
TRAIN = """
layer { name: "data" type: "Python" top: "data" top: "rois" top: "labels" top: "bbox_targets" top: "bbox_loss_weights"
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 21" } }
%s
layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels" top: "loss_cls" loss_weight: 1 }
layer { name: "loss_bbox" type: "SmoothL1Loss" bottom: "bbox_pred" bottom: "bbox_targets" bottom: "bbox_loss_weights"
  top: "loss_bbox" loss_weight: 1 }
"""
TEST = """
input: "data" input_shape { dim: 1 dim: 3 dim: 60 dim: 60 }
input: "rois" input_shape { dim: 1 dim: 5 }
%s
layer { name: "cls_prob" type: "Softmax" bottom: "cls_score" top: "cls_prob" }
"""


@pytest.fixture
def job(tmp_path, default_cfg, monkeypatch):
    """A folder with a data set, prototxts for another number of classes, and options."""
    monkeypatch.chdir(tmp_path)
    in_folder = functools.partial(selective_search.proposals, cache=tmp_path / "cache")
    monkeypatch.setattr(selective_search, "proposals", in_folder)
    options = shapes.ShapesOptions(train=4, test=3, width=(90, 100), height=(70, 80), side=(20, 40), objects=(2, 3))
    shapes.make(tmp_path / "set", options)
    (tmp_path / "train.prototxt").write_text(TRAIN % BODY)
    (tmp_path / "test.prototxt").write_text(TEST % BODY)
    (tmp_path / "solver.prototxt").write_text(
        'train_net: "train.prototxt" base_lr: 1e-4 lr_policy: "fixed" momentum: 0.9 max_iter: 4 snapshot_prefix: "net"'
    )
    (tmp_path / "config.yml").write_text(
        "TRAIN: {SCALES: 60, BATCH_SIZE: 32}\nTEST: {SCALES: 60}\nPROPOSALS: {MAX_PROPOSALS: 200}\n"
    )
    jobs.configure(None, "solver.prototxt", [])
    return tmp_path


def test_from_images_to_detections(job, default_cfg, caplog):
    assert default_cfg.TRAIN.SCALES == (60,)
    classes = "set:train:" + ",".join(shapes.CLASSES)
    model = jobs.train("solver.prototxt", classes, fit_classes=True)
    assert model == Path("output/default/set_train/net_iter_4.caffemodel")
    assert len(Path("output/default/set_train/net_loss.jsonl").read_text().splitlines()) == 4
    assert cv2.imread("output/default/set_train/net_loss.png") is not None

    classes = classes.replace(":train:", ":test:")
    evaluations = jobs.test("test.prototxt", classes, fit_classes=True, compare=True)
    assert list(evaluations) == [
        "trained", "trained, IoU > 0.7", "without box regression", "without box regression, IoU > 0.7", "untrained"
    ]  # fmt: skip
    assert evaluations["trained, IoU > 0.7"].overlap == 0.7
    assert all(0 <= evaluation.mean_ap <= 1 for evaluation in evaluations.values())
    assert default_cfg.TEST.BBOX_REG
    folder = model.with_suffix("") / "set_test"
    assert json.loads((folder / "evaluation.json").read_text())["images"] == 3
    detections = load_detections(folder / "detections.npz", jobs.get_dataset(classes))
    assert len(detections) == 7 and len(detections[1]) == 3
    lines = (folder / "results" / "comp4_det_test_star.txt").read_text().splitlines()
    assert len(lines) == sum(map(len, detections[shapes.CLASSES.index("star") + 1]))
    for name in ("detections.png", "precision_recall.png", "worst.jpg", "best.jpg"):
        assert cv2.imread(str(folder / name)) is not None

    image = job / "mine.png"
    cv2.imwrite(str(image), np.random.RandomState(0).randint(0, 256, (50, 60, 3), np.uint8))
    ((picture, found),) = jobs.demo([str(image)], "test.prototxt", threshold=0.0)
    assert picture == job / f"{image.name}_detections.png"
    assert cv2.imread(str(picture)).shape == (50, 60, 3)
    with pytest.raises(CaffeliteError, match="--threshold: expected a score from 0 to 1, actual nan"):
        next(jobs.demo([str(image)], "test.prototxt", threshold=float("nan")))
    assert {line.split()[0] for line in found} == set(shapes.CLASSES)
    caplog.set_level("INFO", "detection")
    assert [lines for _, lines in jobs.demo([str(image)], "test.prototxt", threshold=1.0)] == [[]]
    assert re.search(r"mine\.png: no score reaches 1; the best: \w+ 0\.\d{3} \(--threshold\)", caplog.text)


def test_a_data_set_without_annotations(job):
    classes = ",".join(shapes.CLASSES)
    model = jobs.train("solver.prototxt", f"set:train:{classes}", 1, fit_classes=True)
    for path in (job / "set" / "Annotations").iterdir():
        path.unlink()
    assert jobs.test("test.prototxt", f"set:test:{classes}", str(model), fit_classes=True, output="out") == {}
    assert len(list(Path("out/results").glob("comp4_det_test_*.txt"))) == len(shapes.CLASSES)
    assert Path("out/detections.npz").is_file() and not Path("out/evaluation.json").exists()


def test_weights_and_snapshots(job):
    solver, imdb = "solver.prototxt", "set:train"
    model = jobs.train(solver, imdb, 2, fit_classes=True, output="a")
    whole = jobs.train(solver, imdb, 4, fit_classes=True, output="b")
    resumed = jobs.train(solver, imdb, 4, snapshot=str(model.with_suffix(".solverstate")), fit_classes=True, output="c")
    assert resumed.read_bytes() == whole.read_bytes()
    tuned = jobs.train(solver, imdb, 1, weights=str(model), strict=True, fit_classes=True, output="d", seed=99)
    assert tuned.read_bytes() != whole.read_bytes()
    with pytest.raises(CaffeliteError, match="neither --weights"):
        jobs.train(solver, imdb, weights=str(model), snapshot="x")
    with pytest.raises(CaffeliteError, match=r"--snapshot none\.solverstate: no such file"):
        jobs.train(solver, imdb, snapshot="none.solverstate")


def test_resume(job, default_cfg, caplog):
    def train(iters, output="a", **more):
        return jobs.train("solver.prototxt", "set:train", iters, fit_classes=True, output=output, **more)

    default_cfg.merge({"TRAIN": {"SNAPSHOT_ITERS": 1}})
    whole = train(4, "whole", seed=77)
    caplog.set_level("INFO", "detection")
    train(3, resume=True, seed=77)
    assert "there is no snapshot of a/net to resume from: training starts afresh" in caplog.text
    Path("a/net_iter_3.caffemodel").write_bytes(b"damaged")
    # the seed is the snapshot's, and weights are for a fresh start only
    resumed = train(4, resume=True, weights="none.caffemodel")
    assert "--weights none.caffemodel: not read, as the training goes on from a/net_iter_2.solverstate" in caplog.text
    assert "net_iter_3.caffemodel: damaged" in caplog.text and "at iteration 2" in caplog.text
    assert resumed.read_bytes() == whole.read_bytes()
    before = resumed.stat().st_mtime_ns
    assert train(4, resume=True) == resumed and resumed.stat().st_mtime_ns == before
    assert "a/net_iter_4.solverstate is of iteration 4: there is nothing left to train" in caplog.text
    with pytest.raises(TrainingError, match=r"the solver is at iteration 4, 3 are asked for: ask for more"):
        train(3, resume=True)
    default_cfg.merge({"TRAIN": {"BATCH_SIZE": 16}})
    for iters in (3, 4, 5):  # also where nothing is left to train
        with pytest.raises(ConfigError, match=r"TRAIN\.BATCH_SIZE: 32 in the snapshot, 16 now"):
            train(iters, resume=True)
    assert train(5, resume=True, force=True).name == "net_iter_5.caffemodel"
    train(1)
    assert ".solverstate is there: --resume goes on from it; this training starts afresh" in caplog.text
    assert "the solver's random_seed" not in caplog.text
    default_cfg.RNG_SEED = 5
    Path("solver.prototxt").write_text(Path("solver.prototxt").read_text() + "\nrandom_seed: 6")
    train(1, "seeds")
    assert "the solver's random_seed is 6; RNG_SEED 5 draws the minibatches" in caplog.text


def test_two_trainings_at_once(job):
    Path("a").mkdir()
    with locked("a/net"), pytest.raises(CaffeliteError, match=rf"a/net: process {os.getpid()} on .* trains and writes"):
        jobs.train("solver.prototxt", "set:train", 1, fit_classes=True, output="a")


def test_a_picture_that_cannot_be_written_costs_no_model(job, caplog):
    Path("a/net_loss.png").mkdir(parents=True)
    assert jobs.train("solver.prototxt", "set:train", 1, fit_classes=True, output="a").is_file()
    assert "no training curve: " in caplog.text


def test_logs_are_compared(job):
    for output, iters in (("a", 2), ("b", 3)):
        jobs.train("solver.prototxt", "set:train", iters, fit_classes=True, output=output)
    lines = list(jobs.compare_logs(["a/net_loss.jsonl", "b/net_loss.jsonl"], "both.png"))
    assert lines[0].startswith("a/net: 2 iterations, loss ") and lines[1].startswith("b/net: 3 iterations, loss ")
    assert lines[2] == "wrote both.png" and cv2.imread("both.png") is not None
    assert list(jobs.compare_logs(["a/net_loss.jsonl"]))[1] == "wrote a/net_loss.png"


def test_another_data_set_leaves_the_default_jobs_models_alone(default_cfg, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert (
        read_solver("prototxt/solver.prototxt", "shapes_train").snapshot_prefix
        == "output/default/shapes_train/fast_rcnn"
    )
    assert (
        read_solver("prototxt/solver.prototxt", "mine_train").snapshot_prefix == "output/default/mine_train/fast_rcnn"
    )


def test_the_newest_model_of_a_data_sets_classes_is_tested(job):
    classes = ",".join(shapes.CLASSES)
    model = jobs.train("solver.prototxt", f"set:train:{classes}", 1, fit_classes=True)
    Path("output/default/other").mkdir()
    Path("output/default/other/net_iter_9.caffemodel").write_bytes(b"")
    Path("output/default/other/net_classes.txt").write_text("__background__\ncat\n")
    assert newest_model("test.prototxt").parent.name == "other"
    assert newest_model("test.prototxt", ["__background__", *shapes.CLASSES].__eq__) == model
    hdf5 = model.with_name("net_iter_2.caffemodel.h5")
    hdf5.write_bytes(b"")
    assert newest_model("test.prototxt", ["__background__", *shapes.CLASSES].__eq__) == hdf5


def test_svms_in_the_place_of_the_softmax(job, default_cfg, caplog):
    classes = ":".join(("set", "train", ",".join(shapes.CLASSES)))
    model = jobs.train("solver.prototxt", classes, 1, fit_classes=True)
    svm = jobs.train_svms("test.prototxt", classes, fit_classes=True)
    assert svm == model.with_name("net_iter_1_svm.caffemodel")
    assert not [r for r in caplog.records if "converged" in r.message]
    test = functools.partial(jobs.test, "test.prototxt", classes, str(svm), fit_classes=True)
    test()
    assert "TEST.SVM is off" in caplog.text
    caplog.clear()
    default_cfg.TEST.SVM = True
    learned = test()["trained"].mean_ap  # on its own training images
    assert "TEST.SVM" not in caplog.text
    default_cfg.TEST.SVM = False
    before = jobs.test("test.prototxt", classes, str(model), fit_classes=True)["trained"].mean_ap
    assert learned > before + 0.1


def test_other_class_counts_are_refused_on_both_sides(job):
    with pytest.raises(ConfigError, match=r"train\.prototxt: the data set has \d classes.*21"):
        jobs.train("solver.prototxt", "set:train")
    (job / "net_iter_1.caffemodel").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"test\.prototxt: the data set has \d classes.*21"):
        jobs.test("test.prototxt", "set:test", "net_iter_1.caffemodel")


def test_a_model_of_something_else(job):
    classes = "set:train:" + ",".join(shapes.CLASSES)
    model = jobs.train("solver.prototxt", classes, 1, fit_classes=True, output="a")
    turned = "set:test:" + ",".join(reversed(shapes.CLASSES))
    with pytest.raises(ConfigError, match=r"has the classes triangle, .*, but .* learned box, .*: name them in this"):
        jobs.test("test.prototxt", turned, str(model), fit_classes=True)
    with pytest.raises(
        ConfigError, match=r"has the classes box, but .* learned box, .*\(--net\), .*now test\.prototxt"
    ):
        jobs.test("test.prototxt", "set:test:box", str(model), fit_classes=True)
    (job / "test.prototxt").write_text((TEST % BODY).replace("conv1", "other"))
    with pytest.raises(WeightsError, match=r"is no model of test\.prototxt: it lacks the layers other$"):
        jobs.test("test.prototxt", classes, str(model), fit_classes=True)


def test_a_net_that_predicts_no_boxes(job, default_cfg):
    body = BODY[: BODY.index('layer { name: "bbox_pred"')]
    (job / "test.prototxt").write_text(TEST % body)
    with pytest.raises(ConfigError, match=r"test\.prototxt: .*TEST\.BBOX_REG is True.*it lacks bbox_pred$"):
        jobs.load_net("test.prototxt", None, ["a", "b"], fit=True)
    default_cfg.TEST.BBOX_REG = False
    assert jobs.load_net("test.prototxt", None, ["a", "b"], fit=True).outputs == ["cls_prob"]


def test_proposals_of_a_union(job):
    classes = ",".join(shapes.CLASSES)
    parts = [jobs.get_dataset(f"set:{image_set}:{classes}") for image_set in ("train", "test")]
    union = jobs.get_dataset(f"set:train:{classes}+set:test:{classes}")
    expected = [boxes for part in parts for boxes in jobs.dataset_proposals(part)]
    files = set((job / "cache").rglob("*.npz"))
    for boxes, of_part in zip(jobs.dataset_proposals(union), expected, strict=True):
        np.testing.assert_array_equal(boxes, of_part)
    assert len(files) == 2 and set((job / "cache").rglob("*.npz")) == files, "those of the parts are used"
    with pytest.raises(ProposalError, match=r"a\.mat: expected 2 file\(s\), one for each part of set_train\+set_test"):
        jobs.dataset_proposals(union, "a.mat")


def test_no_iterations(job):
    with pytest.raises(CaffeliteError, match="--iters: expected at least 1, actual 0"):
        jobs.train("solver.prototxt", "set:train", 0)


def test_what_is_found_is_told_before_an_image_that_cannot_be_read(job):
    model = jobs.train("solver.prototxt", "set:train", 1, fit_classes=True)
    image = next((job / "set" / "JPEGImages").iterdir())
    found = jobs.demo([str(image), "none.png"], "test.prototxt", str(model))
    assert next(found)[0] == image.with_name(f"{image.name}_detections.png")
    with pytest.raises(CaffeliteError, match=r"none\.png"):
        next(found)


def test_pictures_of_two_images_do_not_become_one(job):
    model = jobs.train("solver.prototxt", "set:train:" + ",".join(shapes.CLASSES), 1, fit_classes=True)
    with pytest.raises(CaffeliteError, match="--output out: two of these images have the same name"):
        next(jobs.demo(["a/x.png", "b/x.png"], "test.prototxt", str(model), output="out"))


def test_without_a_model(job):
    test = functools.partial(jobs.test, "test.prototxt", "set:test")
    for run in (test, lambda **more: list(jobs.demo([], "test.prototxt", **more))):
        with pytest.raises(CaffeliteError, match=r"no trained model net_iter_\*.*tools/train_net\.py"):
            run()
        with pytest.raises(CaffeliteError, match=r"gone\.caffemodel: there is no such file"):
            run(model="gone.caffemodel")


STATUS = """
import argparse, sys
sys.path.insert(0, sys.argv[1])
import _common
from caffelite.solver.signals import Stopped
def main(args):
    raise Stopped("stopped at iteration 2 of 4", int(sys.argv[2]))
sys.exit(_common.run(main, argparse.Namespace()))
"""


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_status_after_a_signal(number, status):
    command = [sys.executable, "-c", STATUS, str(ROOT / "tools"), str(int(number))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "lib")])}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stderr) == (status, "stopped at iteration 2 of 4\n")


def tool(name, *arguments, cwd=ROOT, **environment):
    path = os.pathsep.join([str(ROOT), str(ROOT / "lib")])
    command = [sys.executable, str(ROOT / "tools" / name), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": path, **environment}
    )


@pytest.mark.parametrize("name", ["train_net.py", "test_net.py", "demo.py"])
def test_help_has_an_example(name):
    run = tool(name, "--help")
    assert run.returncode == 0
    assert f"tools/{name}" in run.stdout and "--gpu" in run.stdout


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is here, and maybe a GPU")
def test_a_gpu_that_is_not_there_is_one_line(tmp_path):
    run = tool("train_net.py", "--gpu", "0")
    assert run.returncode == 2
    assert run.stderr.startswith("error: a GPU was asked for") and run.stderr.count("\n") == 1


@pytest.mark.skipif(find_spec("ziglang") is not None, reason="there is a compiler in the environment")
def test_a_missing_compiler_is_one_line(tmp_path):
    run = tool("train_net.py", PATH=str(tmp_path), CXX="")
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert "apt install g++" in line and "pip install ziglang" in line


@pytest.mark.parametrize(
    "name, arguments, says",
    [
        ("train_net.py", ["--set", "TRAIN.SCALE", "3"], "did you mean TRAIN.SCALES"),
        ("test_net.py", ["--net", "none.caffemodel", "--imdb", "nowhere:test"], "nowhere"),
        ("demo.py", ["--net", "none.caffemodel", "x.png"], "there is no such file"),
        ("plot.py", ["none.jsonl"], "none.jsonl: cannot be read"),
        ("make_shapes.py", ["--train", "0"], "at least one image"),
        ("make_shapes.py", ["--folder", "/dev/null/x"], "/dev/null/x"),
    ],
)
def test_errors_are_one_line(tmp_path, name, arguments, says):
    run = tool(name, *arguments, cwd=tmp_path)
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("error: ") and says in line
