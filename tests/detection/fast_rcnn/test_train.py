"""Training end to end on a few small images: snapshots, exact resume, determinism, and what stops it."""

import json
import os
import signal

import cv2
import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.errors import WeightsError
from detection.config import ConfigError
from detection.fast_rcnn.memory import largest_shapes, memory_plan
from detection.fast_rcnn.train import Trainer, TrainingError
from detection.roi_data.roidb import make_entry

CLASSES = ("__background__", "dark", "bright", "absent")
NET = """
name: "tiny"
layer { name: "data" type: "Python" top: "data" top: "rois" top: "labels" top: "bbox_targets" top: "bbox_loss_weights"
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 4" } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool" type: "ROIPooling" bottom: "conv1" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.5 } }
layer { name: "fc6" type: "InnerProduct" bottom: "pool" top: "fc6"
  inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6" }
layer { name: "cls_score" type: "InnerProduct" bottom: "fc6" top: "cls_score"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "bbox_pred" type: "InnerProduct" bottom: "fc6" top: "bbox_pred"
  inner_product_param { num_output: 16 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels" top: "loss_cls" loss_weight: 1 }
layer { name: "loss_bbox" type: "SmoothL1Loss" bottom: "bbox_pred" bottom: "bbox_targets" bottom: "bbox_loss_weights"
  top: "loss_bbox" loss_weight: 1 }
"""


@pytest.fixture
def entries(tmp_path, default_cfg):
    default_cfg.merge({"TRAIN": {"SCALES": [32], "BATCH_SIZE": 16, "SNAPSHOT_ITERS": 3}})
    random = np.random.RandomState(0)
    entries = []
    for i in range(4):
        image = random.randint(100, 140, (32, 48, 3)).astype(np.uint8)
        image[8:20, 10:30] = (30, 220)[i % 2]
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), image)
        gt = np.array([[10, 8, 29, 19]])
        described = {"image": str(path), "width": 48, "height": 32, "boxes": gt, "gt_classes": np.array([1 + i % 2])}
        entries.append(make_entry(described, np.clip(gt + random.randint(-6, 7, (40, 4)), 0, 31)))
    return entries


def solver_param(tmp_path, folder="out", more="", net=NET):
    (tmp_path / "train.prototxt").write_text(net)
    (tmp_path / folder).mkdir(exist_ok=True)
    text = f"""
        train_net: "{tmp_path / "train.prototxt"}" snapshot_prefix: "{tmp_path / folder / "tiny"}"
        base_lr: 1e-5 lr_policy: "step" stepsize: 4 gamma: 0.1 momentum: 0.9 random_seed: 7 {more}
    """
    return proto.parse_text(text, "SolverParameter", "solver.prototxt")


def trainer_of(param, entries, classes=CLASSES, fit=False):
    trainer = Trainer(param, classes, fit)
    trainer.set_data(entries)
    return trainer


def weights(net):
    return [blob.data.copy() for blobs in net.params.values() for blob in blobs]


def test_two_runs_give_the_same_bytes_and_the_loss_falls(tmp_path, entries):
    models = []
    for folder in ("a", "b"):
        trainer = trainer_of(solver_param(tmp_path, folder), entries)
        models.append(trainer.train(20).read_bytes())
    assert models[0] == models[1]
    losses = [json.loads(line) for line in trainer.loss_log.read_text().splitlines()]
    assert [line["iter"] for line in losses] == list(range(20))
    assert [line["lr"] for line in losses[3:5]] == pytest.approx([1e-5, 1e-6])
    assert losses[0]["loss"] == pytest.approx(losses[0]["loss_cls"] + losses[0]["loss_bbox"])
    assert np.mean([line["loss_cls"] for line in losses[-5:]]) < losses[0]["loss_cls"]


def test_snapshots_hold_unnormalised_regressors_and_training_goes_on_unchanged(tmp_path, entries, default_cfg):
    trainer = trainer_of(solver_param(tmp_path), entries)
    trainer.train(3)
    before = weights(trainer.net)
    path = trainer.snapshot()
    for a, b in zip(before, weights(trainer.net)):
        np.testing.assert_array_equal(a, b)
    test_net = caffe.Net(str(tmp_path / "train.prototxt"), phase=caffe.TRAIN)
    test_net.copy_from(path)
    w, b = (blob.data for blob in trainer.net.params["bbox_pred"])
    saved_w, saved_b = (blob.data for blob in test_net.params["bbox_pred"])
    np.testing.assert_array_equal(saved_w, (w * trainer.stds[:, None]).astype(np.float32))
    np.testing.assert_array_equal(saved_b, (b * trainer.stds + trainer.means).astype(np.float32))
    assert not saved_w[:4].any() and not saved_w[12:].any()  # background and a class without targets: no move
    np.testing.assert_array_equal(test_net.params["fc6"][0].data, trainer.net.params["fc6"][0].data)


@pytest.mark.parametrize("prefetch", [True, False])
def test_resume_is_exact(tmp_path, entries, default_cfg, prefetch):
    default_cfg.TRAIN.USE_PREFETCH = prefetch
    whole = trainer_of(solver_param(tmp_path, "whole"), entries)
    model = whole.train(7)
    first = trainer_of(solver_param(tmp_path, "first"), entries)
    first.train(6)
    rest = trainer_of(solver_param(tmp_path, "first"), entries)
    rest.restore(tmp_path / "first" / "tiny_iter_3.solverstate")
    assert rest.train(7).read_bytes() == model.read_bytes()
    for a, b in zip(whole.solver.history, rest.solver.history):
        np.testing.assert_array_equal(a.data, b.data)
    assert rest.loss_log.read_text() == whole.loss_log.read_text()


def test_resume_refuses_other_data_and_missing_files(tmp_path, entries, default_cfg):
    trainer_of(solver_param(tmp_path), entries).train(3)
    state = tmp_path / "out" / "tiny_iter_3.solverstate"
    with pytest.raises(ConfigError, match="normalised otherwise"):
        trainer_of(solver_param(tmp_path), entries[:3]).restore(state)
    (tmp_path / "out" / "tiny_iter_3.resume.npz").unlink()
    with pytest.raises(caffe.CaffeliteError, match=r"tiny_iter_3\.resume\.npz does not exist"):
        trainer_of(solver_param(tmp_path), entries).restore(state)


def test_resume_after_a_crash(tmp_path, entries):
    trainer = trainer_of(solver_param(tmp_path), entries)
    trainer.train(3)
    state = tmp_path / "out" / "tiny_iter_3.solverstate"
    text = trainer.loss_log.read_text()
    trainer.loss_log.write_text(text + '{"iter": 3, "lr')
    rest = trainer_of(solver_param(tmp_path), entries)
    rest.restore(state)
    rest.train(4)
    assert rest.loss_log.read_text().startswith(text) and len(rest.loss_log.read_text().splitlines()) == 4
    file = tmp_path / "out" / "tiny_iter_3.resume.npz"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(caffe.CaffeliteError, match=r"tiny_iter_3\.resume\.npz: damaged"):
        trainer_of(solver_param(tmp_path), entries).restore(state)
    with pytest.raises(caffe.CaffeliteError, match=r"expected a file <prefix>_iter_N\.solverstate"):
        rest.restore(tmp_path / "out" / "tiny_iter_3.caffemodel")


def test_ctrl_c_keeps_what_was_learned(tmp_path, entries):
    whole = trainer_of(solver_param(tmp_path, "whole"), entries)
    model = whole.train(4)
    trainer = trainer_of(solver_param(tmp_path), entries)
    trainer.solver.add_callback(lambda: None, lambda: trainer.solver.iter == 1 and os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(
        KeyboardInterrupt, match=r"iteration 2 of 4; to continue: --snapshot .*tiny_iter_2\.solverstate"
    ):
        trainer.train(4)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    rest = trainer_of(solver_param(tmp_path), entries)
    rest.restore(tmp_path / "out" / "tiny_iter_2.solverstate")
    assert rest.train(4).read_bytes() == model.read_bytes()
    assert rest.loss_log.read_text() == whole.loss_log.read_text()


def test_a_loss_that_is_not_finite_names_blob_and_images(tmp_path, entries):
    trainer = trainer_of(solver_param(tmp_path), entries)
    trainer.net.params["conv1"][0].data[1, 0, 0, 0] = np.inf
    with pytest.raises(
        TrainingError, match=r"iteration 0: the loss is not finite.*First blob.*'conv1'.*\d\.png.*base_lr"
    ):
        trainer.train(3)


def test_class_counts(tmp_path, entries):
    with pytest.raises(ConfigError, match=r"train\.prototxt: the data set has 3 classes.*'cls_score': 4"):
        trainer_of(solver_param(tmp_path), entries, CLASSES[:3])
    trainer = trainer_of(solver_param(tmp_path), entries, CLASSES[:3], fit=True)
    assert trainer.net.params["bbox_pred"][0].shape == (12, 8)
    trainer.train(1)


def test_without_box_regression(tmp_path, entries, default_cfg):
    default_cfg.TRAIN.BBOX_REG = False
    net = NET[: NET.index('layer { name: "bbox_pred"')] + NET[NET.index('layer { name: "loss_cls"') :]
    net = net[: net.index('layer { name: "loss_bbox"')]
    net = net.replace('top: "bbox_targets" top: "bbox_loss_weights"', "")
    trainer = trainer_of(solver_param(tmp_path, net=net), entries)
    assert trainer.train(2).exists()


def test_regressors_that_cannot_be_unnormalised(tmp_path, entries, caplog):
    net = NET.replace('"bbox_pred" type', '"boxes" type')
    trainer_of(solver_param(tmp_path, net=net), entries).train(1)
    assert "has no layer bbox_pred" in caplog.text
    net = NET.replace("num_output: 16", "num_output: 16 bias_term: false")
    with pytest.raises(ConfigError, match="layer 'bbox_pred': expected a bias"):
        trainer_of(solver_param(tmp_path, net=net), entries)


def test_snapshot_infix_and_the_solvers_own_snapshots(tmp_path, entries, default_cfg):
    default_cfg.TRAIN.SNAPSHOT_INFIX = "x"
    model = trainer_of(solver_param(tmp_path, more="snapshot: 1"), entries).train(4)
    assert model.name == "tiny_x_iter_4.caffemodel"
    assert sorted(p.name for p in model.parent.glob("*.caffemodel")) == [
        "tiny_x_iter_3.caffemodel", "tiny_x_iter_4.caffemodel",
    ]  # fmt: skip


def test_the_memory_plan_is_what_is_allocated(tmp_path, entries):
    frozen = 'bottom: "data" top: "conv1" param { lr_mult: 0 } param { lr_mult: 0 }'
    net = NET.replace('bottom: "data" top: "conv1"', frozen)
    trainer = trainer_of(solver_param(tmp_path, net=net), entries)
    plan = memory_plan(trainer.solver)
    trainer.solver.step(1)
    trainer.data_layer.close()
    blobs = [blob for tops in trainer.net.top_blobs for blob in tops]
    params = trainer.net.learnable_params

    def allocated(memories):
        return 4 * sum(m.size for m in {id(m): m for m in memories}.values() if m.allocated)

    assert plan == {
        "weights": allocated(p.blob.data_memory for p in params),
        "gradients and history": allocated(
            [p.blob.diff_memory for p in params] + [h.data_memory for h in trainer.solver.history]
        ),
        "blobs": allocated(blob.data_memory for blob in blobs),
        "gradients of blobs": allocated(blob.diff_memory for blob in blobs),
    }


def test_the_largest_minibatch(entries, default_cfg):
    default_cfg.merge({"TRAIN": {"SCALES": [32, 64], "MAX_SIZE": 120}})
    shapes = largest_shapes([*entries, {"height": 48, "width": 32}, {"height": 10, "width": 30}], 4)
    assert shapes[:4] == [(2, 3, 96, 120), (16, 5), (16,), (16, 16)]


def test_weights(tmp_path, entries, caplog):
    first = trainer_of(solver_param(tmp_path), entries)
    model = first.train(3)
    trainer = trainer_of(solver_param(tmp_path), entries)
    trainer.load_weights(str(model), strict=True)
    np.testing.assert_array_equal(trainer.net.params["fc6"][0].data, first.net.params["fc6"][0].data)
    other = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 2 } } } layer { name: "other" '
    other += 'type: "InnerProduct" bottom: "d" top: "o" inner_product_param { num_output: 1 } }'
    (tmp_path / "other.prototxt").write_text(other)
    caffe.Net(str(tmp_path / "other.prototxt"), caffe.TEST).save(tmp_path / "other.caffemodel")
    with pytest.raises(WeightsError, match=r"has no layer of .*train\.prototxt"):
        trainer.load_weights(str(tmp_path / "other.caffemodel"))
    with pytest.raises(WeightsError, match="no such file"):
        trainer.load_weights("none.caffemodel")


def test_nothing_to_do_and_nothing_to_feed(tmp_path, entries):
    with pytest.raises(TrainingError, match="nothing to train"):
        trainer_of(solver_param(tmp_path), entries).train(0)
    net = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 } } }'
    with pytest.raises(ConfigError, match="has no RoIDataLayer"):
        trainer_of(solver_param(tmp_path, net=net), entries)
