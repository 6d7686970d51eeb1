"""Training end to end on a few small images: snapshots, exact resume, determinism, and what stops it."""

import json
import os
import signal

import numpy as np
import pytest
from google.protobuf import text_format

import caffelite as caffe
from caffelite.errors import FileFormatError, WeightsError
from caffelite.solver.signals import Stopped
from detection.errors import ConfigError
from detection.fast_rcnn.memory import largest_shapes, memory_plan
from detection.fast_rcnn.watch import TrainingError
from tests.detection.fast_rcnn.tiny import CLASSES, NET, OPTIONS, make_entries, solver_param, trainer_of


@pytest.fixture
def entries(tmp_path, default_cfg):
    default_cfg.merge(OPTIONS)
    return make_entries(tmp_path)


def weights(net):
    return [blob.data.copy() for blobs in net.params.values() for blob in blobs]


def learned(log):
    """The lines of a log without time and memory, which are another in each run."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [{name: line[name] for name in line if name not in ("seconds", "peak_mib")} for line in lines]


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
    assert learned(rest.loss_log) == learned(whole.loss_log)


def test_the_plateau_policy_resumes_exactly_and_the_rates_that_were_used_are_logged(tmp_path, entries):
    def trainer(folder):
        param = solver_param(tmp_path, folder, more="plateau_winsize: 2 plateau_winsize: 3 plateau_winsize: 2")
        param.lr_policy = "plateau"
        trainer = trainer_of(param, entries)
        updates, update = [], trainer.solver.rule.update

        def noted(group, scale, decay, l1, rate, iteration):
            if trainer.net.params["conv1"][0] in group.blobs:
                updates.append(rate)
            update(group, scale, decay, l1, rate, iteration)

        trainer.solver.rule.update = noted
        return trainer, updates

    whole, updates = trainer("whole")
    model = whole.train(14)
    assert [line["lr"] for line in learned(whole.loss_log)] == updates and len(set(updates)) > 2
    for stop in range(3, 13, 3):
        trainer("parts")[0].train(stop)
        rest, _ = trainer("parts")
        rest.restore(tmp_path / "parts" / f"tiny_iter_{stop}.solverstate")
        assert rest.train(14).read_bytes() == model.read_bytes()
        assert learned(rest.loss_log) == learned(whole.loss_log)


def test_a_solver_number_of_a_snapshot_that_is_none(tmp_path, entries):
    trainer = trainer_of(solver_param(tmp_path), entries)
    trainer.solver.minimum_loss = "low"
    state = trainer.train(1).with_suffix(".solverstate")
    with pytest.raises(FileFormatError, match=r"resume\.npz: damaged, or not written by a training \(.*'low'"):
        trainer_of(solver_param(tmp_path), entries).restore(state)


def test_an_error_before_the_first_iteration_is_the_one_that_is_told(tmp_path, entries, monkeypatch, caplog):
    trainer = trainer_of(solver_param(tmp_path), entries)

    def no_room():
        raise MemoryError("no room")

    monkeypatch.setattr(trainer.solver, "_clear_gradients", no_room)
    with pytest.raises(MemoryError, match="no room"):
        trainer.train(2)
    assert "iteration 0 failed. Nothing was learned since the start" in caplog.text


def test_resume_refuses_other_data(tmp_path, entries, default_cfg):
    trainer_of(solver_param(tmp_path), entries).train(3)
    state = tmp_path / "out" / "tiny_iter_3.solverstate"
    with pytest.raises(ConfigError, match=r"trained otherwise: data set: \w+ in the snapshot, \w+ now\. "):
        trainer_of(solver_param(tmp_path), entries[:3]).restore(state)


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
        KeyboardInterrupt, match=r"iteration 2 of 4; to continue: --resume, or --snapshot .*tiny_iter_2\.solverstate"
    ):
        trainer.train(4)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    rest = trainer_of(solver_param(tmp_path), entries)
    rest.restore(tmp_path / "out" / "tiny_iter_2.solverstate")
    assert rest.train(4).read_bytes() == model.read_bytes()
    assert learned(rest.loss_log) == learned(whole.loss_log)


def test_a_loss_that_is_not_finite_names_blob_and_images(tmp_path, entries):
    trainer = trainer_of(solver_param(tmp_path), entries)
    trainer.net.params["conv1"][0].data[1, 0, 0, 0] = np.inf
    with pytest.raises(
        TrainingError, match=r"iteration 0: the loss is not finite.*First blob.*'conv1'.*\d\.png.*base_lr"
    ):
        trainer.train(3)


def test_sigterm_and_sighup(tmp_path, entries):
    whole = trainer_of(solver_param(tmp_path, "whole"), entries).train(4)
    trainer = trainer_of(solver_param(tmp_path), entries)
    signals = {0: signal.SIGHUP, 1: signal.SIGTERM}
    trainer.solver.add_callback(
        lambda: os.kill(os.getpid(), signals[trainer.solver.iter]) if trainer.solver.iter in signals else None,
        lambda: None,
    )
    with pytest.raises(Stopped, match="stopped at iteration 2 of 4") as stopped:
        trainer.train(4)
    assert stopped.value.status == 143 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert sorted(path.name for path in (tmp_path / "out").glob("*.solverstate")) == [
        "tiny_iter_1.solverstate", "tiny_iter_2.solverstate",
    ]  # fmt: skip
    rest = trainer_of(solver_param(tmp_path), entries)
    rest.restore(tmp_path / "out" / "tiny_iter_1.solverstate")
    assert rest.train(4).read_bytes() == whole.read_bytes()


def test_display_and_debug_info(tmp_path, entries, caplog):
    caplog.set_level("INFO", "detection")
    trainer_of(solver_param(tmp_path, more="display: 2"), entries).train(4)
    lines = [record.message for record in caplog.records if record.message.startswith("iteration ")]
    assert [line.split(":")[0] for line in lines] == ["iteration 2 of 4", "iteration 4 of 4"]
    caplog.clear()
    trainer_of(solver_param(tmp_path, more="display: 2"), entries).train(3)
    assert "iteration 2 of 3:" in caplog.text and "iteration 3 of 3:" in caplog.text  # the last one is always told
    caplog.clear()
    assert "[Forward]" not in caplog.text
    caplog.clear()
    trainer_of(solver_param(tmp_path, more="display: 2 debug_info: true"), entries).train(2)
    assert "[Forward] Layer conv1, top blob conv1 data" in caplog.text and "Iteration 0, loss =" in caplog.text
    caplog.clear()
    trainer_of(solver_param(tmp_path, more="display: 0 debug_info: true"), entries).train(2)
    assert "has debug_info but no display" in caplog.text and "iteration 2 of 2" not in caplog.text


@pytest.mark.parametrize(
    "policy, is_told",
    [
        ('lr_policy: "step" gamma: 0.1 stepsize: 2', True),
        ('lr_policy: "step" gamma: 0.1 stepsize: 1', False),
        ('lr_policy: "multistep" gamma: 0.1 stepvalue: 2', True),
        ('lr_policy: "fixed"', False),
    ],
)
def test_a_training_that_ends_before_the_rate_falls_says_so(tmp_path, entries, caplog, policy, is_told):
    caplog.set_level("INFO", "detection")
    param = solver_param(tmp_path)
    for field in ("lr_policy", "gamma", "stepsize", "stepvalue"):
        param.ClearField(field)
    text_format.Merge(policy, param)
    trainer_of(param, entries).train(2)
    assert ("the rate stays as it is: the solver changes it at iteration 2 first" in caplog.text) == is_told


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


def test_the_solvers_own_snapshots_are_off(tmp_path, entries):
    model = trainer_of(solver_param(tmp_path, more="snapshot: 1"), entries).train(4)
    assert sorted(p.name for p in model.parent.glob("*.caffemodel")) == ["tiny_iter_3.caffemodel", model.name]


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
