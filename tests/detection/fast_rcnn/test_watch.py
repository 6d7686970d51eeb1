"""Numbers that are not finite: which blob, layer and images they are of, what is kept, and what is skipped."""

import json

import numpy as np
import pytest

from detection.fast_rcnn import snapshots
from detection.fast_rcnn.watch import TrainingError
from tests.detection.fast_rcnn.tiny import NET, OPTIONS, make_entries, solver_param, trainer_of


@pytest.fixture
def entries(tmp_path, default_cfg):
    default_cfg.merge(OPTIONS)
    return make_entries(tmp_path)


def spoil(trainer, iteration, value=np.nan, what="loss", times=1):
    """Give a number of an iteration's first pass or passes, a gradient or an input, a bad value."""
    layers = trainer.net.layers
    left = [times]

    def forward(i):
        if trainer.solver.iter == iteration and layers[i].name == "data" and what == "loss" and left[0]:
            left[0] -= 1
            trainer.net.blobs["bbox_targets"].data[0, 0] = value
            trainer.net.blobs["bbox_loss_weights"].data[0, 0] = 1

    def backward(i):
        if trainer.solver.iter == iteration and layers[i].name == "fc6" and what == "gradient":
            layers[i].blobs[0].diff[3, 2] = value

    trainer.net.after_forward(forward)
    trainer.net.after_backward(backward)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_names_blob_layer_and_images_and_the_weights_before_are_kept(tmp_path, entries, value):
    whole = trainer_of(solver_param(tmp_path, "whole"), entries).train(6)
    trainer = trainer_of(solver_param(tmp_path), entries)
    spoil(trainer, 4, value)
    with pytest.raises(
        TrainingError,
        match=r"iteration 4: the loss is not finite \(loss_cls .*, loss_bbox (nan|inf)\)\. First blob .*: "
        r"'bbox_targets' of layer 'data' \(1 of 256\)\. Images of the minibatch: .*\d\.png, .*\d\.png\. "
        r"Try a lower base_lr.*The weights before it are in .*tiny_iter_4\.caffemodel",
    ):
        trainer.train(6)
    state = snapshots.newest(tmp_path / "out" / "tiny")
    assert state.name == "tiny_iter_4.solverstate"
    rest = trainer_of(solver_param(tmp_path), entries)
    rest.restore(state)  # without the bad number the same iteration is done again
    assert rest.train(6).read_bytes() == whole.read_bytes()


def test_a_gradient_names_its_layer(tmp_path, entries):
    trainer = trainer_of(solver_param(tmp_path), entries)
    spoil(trainer, 1, np.inf, "gradient")
    before = trainer.net.params["fc6"][0].data.copy()
    with pytest.raises(
        TrainingError,
        match=r"iteration 1: a gradient is not finite \(loss_cls [\d.]+, loss_bbox [\d.e-]+\)\. First such "
        r"gradient: that of weights 0 of layer 'fc6' \(1 of 128\)\. Images",
    ):
        trainer.train(3)
    assert np.isfinite(trainer.net.params["fc6"][0].data).all()
    assert not np.array_equal(trainer.net.params["fc6"][0].data, before) and trainer.solver.iter == 1


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_weights_that_are_not_finite_are_not_kept(tmp_path, entries, default_cfg, choice):
    default_cfg.TRAIN.NONFINITE = choice
    trainer = trainer_of(solver_param(tmp_path), entries)
    weights = trainer.net.params["conv1"][0]
    trainer.solver.add_callback(lambda: trainer.solver.iter == 4 and weights.data.fill(np.inf), lambda: None)
    with pytest.raises(
        TrainingError, match=r"'conv1' of layer 'conv1' \(.*, as are weights of the layer\).*last snapshot is what is"
    ):
        trainer.train(6)
    assert snapshots.newest(tmp_path / "out" / "tiny").name == "tiny_iter_3.solverstate"


@pytest.mark.parametrize("choice", ["stop", "skip"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_running_statistics_are_taken_back(tmp_path, entries, default_cfg, choice, value):
    default_cfg.TRAIN.NONFINITE = choice
    norm = 'layer { name: "bn" type: "BatchNorm" bottom: "conv1" top: "conv1" }\nlayer { name: "relu1"'
    net = NET.replace('layer { name: "relu1"', norm)
    whole = trainer_of(solver_param(tmp_path, "whole", net=net), entries).train(6)
    trainer = trainer_of(solver_param(tmp_path, net=net), entries)
    seen = {}

    def spoil_image(i):
        if trainer.solver.iter == 4 and i == 0:
            trainer.net.blobs["data"].data[0, 0, 3, 3] = value

    trainer.net.after_forward(spoil_image)
    trainer.solver.add_callback(
        lambda: seen.update({trainer.solver.iter: [b.data.copy() for b in trainer.net.params["bn"]]}), lambda: None
    )
    if choice == "skip":
        trainer.train(6)
        assert trainer.watch.skipped == 1
        assert all(np.array_equal(a, b) for a, b in zip(seen[4], seen[5]))
        assert not np.array_equal(seen[3][0], seen[4][0])
        return
    with pytest.raises(TrainingError, match=r"'data' of layer 'data' .*The weights before it are in .*tiny_iter_4\."):
        trainer.train(6)
    rest = trainer_of(solver_param(tmp_path, net=net), entries)
    rest.restore(snapshots.newest(tmp_path / "out" / "tiny"))
    assert rest.train(6).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_skipping(tmp_path, entries, default_cfg, what, caplog):
    default_cfg.TRAIN.NONFINITE = "skip"
    trainer = trainer_of(solver_param(tmp_path), entries)
    spoil(trainer, 2, what=what)
    seen = []
    trainer.solver.add_callback(lambda: seen.append(trainer.net.params["fc6"][0].data.copy()), lambda: None)
    trainer.train(4)
    assert np.array_equal(seen[2], seen[3]) and not np.array_equal(seen[1], seen[2])
    assert "update skipped, 1 so far: iteration 2" in caplog.text and "1 update(s) were skipped" in caplog.text
    lines = [json.loads(line) for line in trainer.loss_log.read_text().splitlines()]
    assert (lines[2]["loss"] is None) == (what == "loss") and len(lines) == 4
    assert all(np.isfinite(blob.data).all() for blobs in trainer.net.params.values() for blob in blobs)


def test_a_sum_that_overflows_is_no_problem(tmp_path, entries):
    trainer = trainer_of(solver_param(tmp_path), entries)
    layers = trainer.net.layers

    def backward(i):
        if layers[i].name == "fc6":
            layers[i].blobs[0].diff.fill(3e38)

    trainer.net.after_backward(backward)
    trainer.solver.apply_update = lambda: None
    trainer.train(2)


def test_losses_are_means_over_the_passes(tmp_path, entries):
    trainer = trainer_of(solver_param(tmp_path, more="iter_size: 3"), entries)
    passes = []
    trainer.solver.add_callback(
        lambda: None, lambda: None, lambda: passes.append(float(trainer.net.blobs["loss_cls"].data))
    )
    trainer.train(2)
    lines = [json.loads(line) for line in trainer.loss_log.read_text().splitlines()]
    assert [line["loss_cls"] for line in lines] == pytest.approx([np.mean(passes[:3]), np.mean(passes[3:])])
    assert len(set(passes)) == 6 and lines[0]["loss"] == pytest.approx(lines[0]["loss_cls"] + lines[0]["loss_bbox"])


def test_a_bad_pass_before_the_last_one_is_found(tmp_path, entries):
    trainer = trainer_of(solver_param(tmp_path, more="iter_size: 3"), entries)
    spoil(trainer, 1)
    with pytest.raises(TrainingError, match=r"iteration 1: the loss is not finite.*'bbox_targets' of layer 'data'"):
        trainer.train(2)
