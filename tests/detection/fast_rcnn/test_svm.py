"""SVMs for the softmax: the solver, the mining of hard negatives, and what stands in the net afterwards."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import scipy.optimize

from caffelite import TEST, Net
from detection.config import cfg
from detection.errors import ConfigError, DatasetError
from detection.fast_rcnn.svm import ClassSvm, SvmOptions, SvmTrainer, linear_svm
from detection.roi_data.roidb import flip, make_entry

ROOT = Path(__file__).resolve().parents[3]
NET = """
input: "data" input_shape { dim: 1 dim: 3 dim: 32 dim: 32 }
input: "rois" input_shape { dim: 1 dim: 5 }
layer { name: "pool" type: "ROIPooling" bottom: "data" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 1 } }
layer { name: "fc7" type: "InnerProduct" bottom: "pool" top: "fc7"
  inner_product_param { num_output: 20 weight_filler { type: "xavier" } } }
layer { name: "relu7" type: "ReLU" bottom: "fc7" top: "fc7" }
layer { name: "cls_score" type: "InnerProduct" bottom: "fc7" top: "cls_score"
  inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "bbox_pred" type: "InnerProduct" bottom: "fc7" top: "bbox_pred" inner_product_param { num_output: 12 } }
layer { name: "cls_prob" type: "Softmax" bottom: "cls_score" top: "cls_prob" }
"""
CLASSES = ("__background__", "red", "green")


def problem(n=120, dimension=30, seed=0):
    random = np.random.RandomState(seed)
    labels = np.where(np.arange(n) < n // 4, 1.0, -1.0)
    features = np.maximum(random.standard_normal((n, dimension)) + 0.4 * labels[:, None], 0)
    features *= 20 / np.linalg.norm(features, axis=1).mean()
    return features.astype(np.float32), labels, np.where(labels > 0, 0.002, 0.001)


def objective(features, labels, costs, bias, w, b):
    return (w @ w + (b / bias) ** 2) / 2 + costs @ np.maximum(0, 1 - labels * (features @ w + b))


def test_the_solution_is_that_of_the_dual_problem():
    """The box-constrained quadratic problem, solved by another method."""
    features, labels, costs = problem()
    w, b, converged = linear_svm(features, labels, costs, 10.0, tolerance=1e-7)
    rows = np.hstack((features, np.full((len(features), 1), 10))) * labels[:, None]
    result = scipy.optimize.minimize(
        lambda a: (np.square(a @ rows).sum() / 2 - a.sum(), rows @ (a @ rows) - 1),
        np.zeros(len(rows)), jac=True, method="L-BFGS-B", bounds=[(0, c) for c in costs],
        options={"ftol": 0, "gtol": 1e-8, "maxiter": 5000, "maxfun": 5000},
    )  # fmt: skip
    want = result.x @ rows
    assert converged
    np.testing.assert_allclose(w, want[:-1], atol=1e-6)
    assert b == pytest.approx(want[-1] * 10, abs=1e-6)
    assert objective(features, labels, costs, 10, w, b) == pytest.approx(-result.fun, abs=1e-6)  # strong duality


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_scikit_learns(seed):
    """LinearSVC, which the authors used, with their options."""
    svm = pytest.importorskip("sklearn.svm")
    features, labels, costs = problem(400, 60, seed)
    theirs = svm.LinearSVC(
        C=0.001, class_weight={1: 2, -1: 1}, intercept_scaling=10.0, penalty="l2", loss="hinge", dual=True,
        random_state=3,
    ).fit(features, labels)  # fmt: skip
    w, b, _ = linear_svm(features, labels, costs, 10.0)
    np.testing.assert_allclose(features @ w + b, theirs.decision_function(features), atol=1e-3)
    np.testing.assert_allclose(w, theirs.coef_[0], atol=1e-3 * np.abs(w).max())
    assert b == pytest.approx(theirs.intercept_[0], abs=1e-3)


def test_the_same_seed_gives_the_same_bits():
    features, labels, costs = problem()
    one, same, other = (linear_svm(features, labels, costs, 10.0, seed)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_without_convergence_it_is_said(caplog, default_cfg, monkeypatch):
    features, labels, costs = problem()
    assert not linear_svm(features, labels, costs, 10.0, tolerance=1e-9, max_passes=2)[2]
    monkeypatch.setattr(linear_svm, "__defaults__", (3, 1e-9, 2))
    svm = ClassSvm("red", features[labels > 0], 1.0, SvmOptions())
    svm.add(features[labels < 0])
    svm.train()
    assert "SVM of red: not converged with 120 examples" in caplog.text


def test_scaled_features_and_weights_for_plain_ones(default_cfg):
    features, labels, costs = problem()
    svm = ClassSvm("red", features[labels > 0] * 7, 1 / 7, SvmOptions(evict_score=-np.inf))
    svm.add(features[labels < 0] * 7)
    w, b = svm.train()
    want, intercept, _ = linear_svm(features, labels, costs, 10.0)
    np.testing.assert_allclose((7 * features) @ w + b, features @ want + intercept, atol=1e-3)


def test_when_it_is_trained_and_what_is_forgotten(default_cfg):
    features, labels, _ = problem()
    svm = ClassSvm("red", features[labels > 0], 1.0, SvmOptions(retrain_after=60, evict_score=-0.9))
    negatives = features[labels < 0]
    assert not svm.add(negatives[:60])  # not more than 60 yet
    assert svm.add(negatives[60:])
    w, b = svm.train()
    scores = negatives @ w + b
    assert 0 < (scores < -0.9).sum() < len(scores)
    np.testing.assert_array_equal(svm.negatives, negatives[scores >= -0.9])
    assert not svm.added and not svm.add(negatives[:1])
    all_easy = ClassSvm("red", features[labels > 0], 1.0, SvmOptions(evict_score=np.inf))
    all_easy.add(negatives)
    all_easy.train()
    assert len(all_easy.negatives) == len(negatives)  # the last ones are never forgotten


@pytest.fixture
def scenes(tmp_path, default_cfg):
    """Entries of images with a red, a green and a grey square, and random proposals."""
    default_cfg.merge({"TEST": {"SCALES": [48]}, "PIXEL_MEANS": [100, 100, 100]})
    entries = []
    for n in range(6):
        random = np.random.RandomState(n)
        image = random.randint(90, 110, (48, 64, 3)).astype(np.uint8)
        places = random.permutation(12)[:3]
        squares = np.array([(x, y, x + 13, y + 13) for x, y in ((p % 4 * 16 + 1, p // 4 * 16 + 1) for p in places)])
        for (x1, y1, x2, y2), colour in zip(squares, ((20, 20, 220), (20, 220, 20), (200, 200, 200))):
            image[y1 : y2 + 1, x1 : x2 + 1] = colour
        path = tmp_path / f"{n}.png"
        cv2.imwrite(str(path), image)
        corners = random.randint(0, 34, (60, 2))
        proposals = np.vstack((np.hstack((corners, corners + 13)), squares[2:]))
        image = {"image": str(path), "width": 64, "height": 48}
        entries.append(make_entry({**image, "boxes": squares[:2], "gt_classes": [1, 2]}, proposals))
    return [*entries, *(flip(entry) for entry in entries)]


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "test.prototxt"
    path.write_text(NET)
    return Net(str(path), phase=TEST, seed=2)


def test_objects_are_told_from_background(scenes, net):
    box_weights = net.params["bbox_pred"][0].data.copy()
    trainer = SvmTrainer(net, scenes, CLASSES, SvmOptions(retrain_after=100, scale_images=4))
    svms = trainer.train()
    assert [(svm.name, len(svm.positives)) for svm in svms] == [("red", 12), ("green", 12)]
    weights, intercepts = (blob.data for blob in net.params["cls_score"])
    assert not weights[0].any() and intercepts[0] == 0 and weights[1:].any(axis=1).all()
    np.testing.assert_array_equal(net.params["bbox_pred"][0].data, box_weights)
    assert (cfg.DEDUP_BOXES, cfg.TEST.SVM, cfg.TEST.BBOX_REG) == (1 / 16, False, True)
    for entry in scenes:
        rows = np.arange(len(entry["boxes"]))
        cfg.TEST.SVM, cfg.DEDUP_BOXES, cfg.TEST.BBOX_REG = True, 0.0, False
        scores, _ = trainer._forward(entry, rows)
        assert scores[0].argmax() == 1 and scores[1].argmax() == 2
        far = entry["max_overlaps"] < 0.3
        for c in (1, 2):
            assert scores[c - 1, c] > scores[far, c].max()
        assert scores[-1, 1:].max() < 0  # the grey square
    again = Net(net.file, phase=TEST, seed=2)
    SvmTrainer(again, scenes, CLASSES, SvmOptions(retrain_after=100, scale_images=4)).train()
    np.testing.assert_array_equal(again.params["cls_score"][0].data, weights)


def test_what_is_a_negative(scenes, net):
    """All RoIs score 0 at first, so that every one below the overlap is hard, and in a crowd none."""
    (entry,) = scenes[:1]
    entry["max_overlaps"][-1] = -1
    options = SvmOptions(evict_score=-np.inf)
    red, green = SvmTrainer(net, [entry], CLASSES, options).train()
    overlaps, classes = entry["max_overlaps"], entry["max_classes"]
    for c, svm in ((1, red), (2, green)):
        assert len(svm.negatives) == ((overlaps >= 0) & ((overlaps < 0.3) | (classes != c))).sum()


def test_nets_that_do_not_fit(scenes, net, tmp_path):
    for text, message in [
        (NET.replace('"cls_score"', '"score"'), "expected an InnerProduct layer cls_score"),
        (NET.replace("num_output: 3", "num_output: 3 bias_term: false"), "'cls_score': expected a bias"),
    ]:
        (tmp_path / "other.prototxt").write_text(text)
        with pytest.raises(ConfigError, match=f"other.prototxt: .*{message}"):
            SvmTrainer(Net(str(tmp_path / "other.prototxt"), phase=TEST), scenes, CLASSES)
    net.params["fc7"][0].data[...] = 0
    with pytest.raises(DatasetError, match="features of 12 images are all 0"):
        SvmTrainer(net, scenes, CLASSES).train()


def test_the_tool(tmp_path, voc_folder):
    folder = voc_folder({f"i{n}": [("cat", (5, 5, 30, 30), False), ("dog", (31, 9, 55, 39), n == 1)] for n in range(3)})
    (tmp_path / "test.prototxt").write_text(NET)
    definition, model = str(tmp_path / "test.prototxt"), str(tmp_path / "net_iter_1.caffemodel")
    Net(definition, phase=TEST, seed=1).save(model)
    command = [sys.executable, str(ROOT / "tools/train_svms.py"), "--def", definition, "--net", model]
    boxes = np.empty((1, 3), object)
    boxes[0, :] = [np.random.RandomState(n).randint(1, 20, (30, 4)) + (0, 0, 20, 20) for n in range(3)]
    scipy.io.savemat(tmp_path / "boxes.mat", {"boxes": boxes})
    command += ["--imdb", f"{folder}:all", "--proposals", str(tmp_path / "boxes.mat"), "--set", "TEST.SCALES", "40"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "positives: cat 6, dog 6" in run.stderr
    written = tmp_path / "net_iter_1_svm.caffemodel"
    assert str(written) in run.stdout
    before, after = Net(definition, model, TEST), Net(definition, str(written), TEST)
    assert (before.params["cls_score"][0].data != after.params["cls_score"][0].data).any()
    np.testing.assert_array_equal(before.params["fc7"][0].data, after.params["fc7"][0].data)
    run = subprocess.run([*command, "--net", "x"], capture_output=True, text=True)
    assert run.returncode == 1 and "there is no such file" in run.stderr
