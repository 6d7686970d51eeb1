"""Solvers: the update to the letter, policies, test nets, snapshots in both formats, callbacks and checks."""

import os
import shutil
from itertools import pairwise

import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.backend import kernels
from caffelite.blob import Blob
from caffelite.errors import SolverError, WeightsError
from caffelite.solver import policies, updates

NET = """
name: "line"
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 }
  data_filler { value: 0.5 } data_filler { value: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 } inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "drop" type: "Dropout" bottom: "ip" top: "drop" include { phase: TRAIN stage: "drop" } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }
"""


@pytest.fixture
def make(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)

    def solver(text="", **replace):
        p = {
            "base_lr": "0.1",
            "lr_policy": '"fixed"',
            "momentum": "0.9",
            "weight_decay": "0.01",
            "max_iter": "6",
            "random_seed": "1",
            "snapshot_prefix": f'"{tmp_path / "s"}"',
            "net": f'"{tmp_path / "net.prototxt"}"',
        }
        p |= replace
        path = tmp_path / "solver.prototxt"
        path.write_text("\n".join(f"{k}: {v}" for k, v in p.items() if v) + "\n" + text)
        return caffe.get_solver(str(path))

    return solver


def test_the_update_is_caffes(make):
    solver = make('lr_policy: "step" gamma: 0.1 stepsize: 2', lr_policy="")
    w, b = (blob.data.astype(np.float64) for blob in solver.net.params["ip"])
    hw, hb = np.zeros_like(w), np.zeros_like(b)
    for i in range(5):
        solver.step(1)
        x, t = np.full((4, 3), 0.5), np.full((4, 2), 2.0)
        d = (x @ w.T + b - t) / 4
        rate = 0.1 * 0.1 ** (i // 2)
        hw = 0.9 * hw + rate * (d.T @ x + 0.01 * w)
        hb = 0.9 * hb + rate * 2 * d.sum(axis=0)
        w, b = w - hw, b - hb
        np.testing.assert_allclose(solver.net.params["ip"][0].data, w, rtol=1e-5)
        np.testing.assert_allclose(solver.net.params["ip"][1].data, b, rtol=1e-5)
    assert solver.iter == 5


@pytest.mark.parametrize(
    "text, expected",
    [
        ('lr_policy: "fixed"', lambda i: 2.0),
        ('lr_policy: "step" gamma: 0.5 stepsize: 3', lambda i: 2 * 0.5 ** (i // 3)),
        ('lr_policy: "exp" gamma: 0.9', lambda i: 2 * 0.9**i),
        ('lr_policy: "inv" gamma: 0.1 power: 0.75', lambda i: 2 * (1 + 0.1 * i) ** -0.75),
        ('lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 5', lambda i: 2 * 0.5 ** ((i >= 2) + (i >= 5))),
        ('lr_policy: "poly" power: 2 max_iter: 10', lambda i: 2 * (1 - i / 10) ** 2),
        ('lr_policy: "sigmoid" gamma: -0.5 stepsize: 4', lambda i: 2 / (1 + np.exp(0.5 * (i - 4)))),
    ],
)
def test_rate_policies(text, expected):
    param = proto.parse_text("base_lr: 2 " + text, "SolverParameter")

    class State:
        iter = current_step = 0

    for State.iter in range(10):
        assert policies.learning_rate(param, State) == pytest.approx(expected(State.iter), rel=1e-6)


@pytest.mark.parametrize("fmt", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_resumed_run_gives_the_same_bits(make, fmt, kind):
    text = f'snapshot: 3 snapshot_format: {fmt} type: "{kind}" train_state {{ stage: "drop" }}'
    straight = make(text)
    straight.solve()
    resumed = make(text)
    resumed.restore(str(straight.param.snapshot_prefix) + "_iter_3.solverstate" + (".h5" if fmt == "HDF5" else ""))
    assert resumed.iter == 3
    resumed.step(3)
    for a, b in zip(straight.net.params["ip"], resumed.net.params["ip"]):
        assert a.data.tobytes() == b.data.tobytes()


def test_restore_refuses_another_solver(make):
    solver = make("snapshot: 2")
    solver.step(2)
    state = solver.param.snapshot_prefix + "_iter_2.solverstate"
    with pytest.raises(SolverError, match="history"):
        make('type: "Adam"').restore(state)


def test_test_nets_share_weights_and_average(make):
    solver = make("test_iter: 3 test_interval: 2 test_compute_loss: true")
    solver.step(3)
    solver.net.params["ip"][0].data[...] = 0
    solver.net.params["ip"][1].data[...] = 0
    assert solver.test_all()[0]["loss"] == pytest.approx(0.5 * 2 * 4)


def test_iter_size_averages_and_clipping_limits(make):
    one, two = make(momentum="0"), make("iter_size: 2", momentum="0")
    one.step(1)
    two.step(1)
    for a, b in zip(one.net.params["ip"], two.net.params["ip"]):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-6)  # the data are constant: the mean is the same gradient
    clipped = make("clip_gradients: 0.001", momentum="0", weight_decay="0")
    before = [b.data.copy() for b in clipped.net.params["ip"]]
    clipped.step(1)
    moved = [(a - b.data) / (0.1 * m) for a, b, m in zip(before, clipped.net.params["ip"], (1, 2))]
    assert np.sqrt(sum((m**2).sum() for m in moved)) == pytest.approx(0.001, rel=1e-3)


def test_callbacks_and_early_stop(make):
    solver, calls = make(), []
    solver.add_callback(lambda: calls.append("start"), lambda: calls.append("ready"))
    solver.set_action(lambda: "stop" if solver.iter == 2 else None)
    solver.solve()
    assert calls == ["start", "ready"] * 2 and solver.iter == 2


def test_a_test_can_be_stopped_too(make, caplog):
    solver, passes = (
        make("test_iter: 50 test_iter: 1 test_interval: 2 test_initialization: false snapshot_after_train: false"),
        [],
    )
    solver.test_nets[0].before_forward(lambda i: i == 0 and passes.append(solver.iter))
    solver.set_action(lambda: "stop" if passes.count(2) == 5 else None)
    with caplog.at_level("INFO", "caffelite"):
        solver.solve()
    assert solver.iter == 2 and passes == [2] * 5
    assert "stopped early, at iteration 2" in caplog.text


def test_a_folder_for_the_last_snapshot_is_missed_before_training(make):
    solver = make(snapshot_prefix='"/no/such/folder/x"')
    with pytest.raises(SolverError, match="cannot write to snapshot_prefix"):
        solver.solve()
    assert solver.iter == 0
    make("snapshot_after_train: false", snapshot_prefix='"/no/such/folder/x"').solve()


def test_display_and_rate_are_logged(make, caplog):
    with caplog.at_level("INFO", "caffelite"):
        make("display: 2").step(3)
    assert "Iteration 2, loss = " in caplog.text and "Iteration 2, lr = 0.1" in caplog.text
    assert "Train net output #0: loss" in caplog.text


@pytest.mark.parametrize(
    "text, words",
    [
        ('type: "AdaMax"', "AdaMax"),
        ('lr_policy: "stp"', "did you mean 'step'"),
        ('lr_policy: "step" gamma: 0.1', "stepsize 0"),
        ("iter_size: 0", "iter_size"),
        ("test_iter: 1", "test_interval"),
        ("snapshot: 1 snapshot_prefix: '/no/such/folder/x'", "folder"),
        ("train_net: 'x'", "2 train nets"),
    ],
)
def test_bad_solvers_are_refused(make, text, words):
    replace = {name: "" for name in ("lr_policy", "snapshot_prefix") if f"{name}:" in text}
    with pytest.raises(SolverError, match=words):
        make(text, **replace)


def test_a_solver_without_a_policy_has_a_net(make):
    solver = make(lr_policy="")
    solver.net.forward()
    with pytest.raises(SolverError, match=r"unknown lr_policy ''.*known: fixed, step"):
        solver.step(1)
    assert solver.iter == 0
    with pytest.raises(SolverError, match="unknown lr_policy"):
        solver.apply_update()


def test_missing_learned_net_is_said(make, tmp_path):
    solver = make("snapshot: 1")
    solver.step(1)
    (tmp_path / "s_iter_1.caffemodel").unlink()
    with pytest.raises((WeightsError, caffe.CaffeliteError), match=r"s_iter_1\.caffemodel"):
        make().restore(str(tmp_path / "s_iter_1.solverstate"))


def test_a_snapshot_that_fails_is_told_and_the_last_one_is_an_error(make, tmp_path, caplog):
    solver = make("snapshot: 2")
    whole = solver.net.params["ip"][0].data
    (tmp_path / "s_iter_2.caffemodel").mkdir()
    solver.solve()
    assert "No snapshot of iteration 2, training goes on" in caplog.text
    assert solver.iter == 6 and (tmp_path / "s_iter_6.solverstate").exists() and np.isfinite(whole).all()
    (tmp_path / "s_iter_6.caffemodel").unlink()
    (tmp_path / "s_iter_6.caffemodel").mkdir()
    with pytest.raises(caffe.CaffeliteError, match=r"s_iter_6\.caffemodel: cannot be written"):
        make("snapshot: 2").solve()


def test_callbacks_after_each_pass_and_updates_left_out(make):
    solver = make("iter_size: 3")
    calls = []
    skip = [None, "skip", False]
    solver.add_callback(lambda: None, lambda: skip[solver.iter], lambda: calls.append(solver.iter))
    weights = [solver.net.params["ip"][0].data.copy()]
    for _ in range(3):
        solver.step(1)
        weights.append(solver.net.params["ip"][0].data.copy())
    assert calls == [0, 0, 0, 1, 1, 1, 2, 2, 2] and solver.iter == 3
    assert [np.array_equal(a, b) for a, b in pairwise(weights)] == [False, True, False]


def test_the_model_beside_a_state_is_its_own(make, tmp_path):
    solver = make()
    solver.step(1)
    model, state = solver.snapshot()
    (tmp_path / "moved").mkdir()
    for file in (model, state):
        shutil.copy(file, tmp_path / "moved")
    solver.net.params["ip"][0].data.fill(7)
    solver.net.save(model)  # another one under the name that the state has
    rest = make()
    rest.restore(tmp_path / "moved" / os.path.basename(state))
    assert not (rest.net.params["ip"][0].data == 7).any()


def test_a_gradient_that_is_not_finite_is_found_wherever_it_stands():
    for count in (1, 255, 256, 257, 1000):
        blobs = [Blob(count), Blob(3)]
        for blob in blobs:
            blob.diff[...] = np.finfo(np.float32).max  # whose sum is infinite
        group = updates.Group(1, 1, blobs, [[], []])
        answer = np.zeros(1, np.float32)
        group.run("find_bad", answer)
        assert answer == 0
        for at, value in ((0, np.nan), (count // 2, np.inf), (count - 1, -np.inf)):
            blobs[0].diff[...] = 1
            blobs[0].diff[at] = value
            answer[0] = 0
            group.run("find_bad", answer)
            assert np.isnan(answer), (count, at)


SHARED = """layer { name: "data" type: "Input" top: "x" top: "y" input_param { shape { dim: 4 dim: 5 }
  shape { dim: 4 dim: 5 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { %s lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 1 decay_mult: 0 } inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { %s lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 } inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "b" bottom: "y" top: "loss" }"""


def small_solver(share: str = "", rule: str = "SGD", momentum: float = 0.9):
    text = f'base_lr: 0.1 lr_policy: "fixed" weight_decay: 0.1 momentum: {momentum} type: "{rule}"'
    param = proto.parse_text(text, "SolverParameter", "solver")
    param.net_param.CopyFrom(proto.parse_text(SHARED % (share, share), "NetParameter", "net"))
    solver = caffe.get_solver(param, random_seed=1)
    rng = np.random.default_rng(0)
    for name in "xy":
        solver.net.blobs[name].data[...] = rng.standard_normal(solver.net.blobs[name].shape)
    return solver


def by_hand(solver) -> list[np.ndarray]:
    """Weights and momentum after an update of what the diffs are now: the formula, in float32."""
    params = solver.net.learnable_params
    w, h = ([blob.data.copy() for blob in blobs] for blobs in ([p.blob for p in params], solver.history))
    f32 = np.float32
    for k, p in enumerate(params):
        if p.lr_mult:
            g = p.blob.diff + f32(0.1 * p.decay_mult) * w[k]
            h[k] = f32(0.1 * p.lr_mult) * g + f32(0.9) * h[k]
            w[k] -= h[k]
    return w + h


def test_multipliers_that_change_in_mid_run_and_groups_of_them():
    solver = small_solver()
    params = solver.net.learnable_params
    for lr_mults in ((1, 1, 1, 2), (1, 0, 3, 2), (0, 0, 3, 1), (2, 1, 1, 1)):
        for param, lr_mult in zip(params, lr_mults):
            param.lr_mult = lr_mult
        solver._clear_gradients()
        solver.net.forward()
        solver.net.backward()
        expected = by_hand(solver)
        solver.apply_update()
        for blob, values in zip([p.blob for p in params] + solver.history, expected, strict=True):
            np.testing.assert_allclose(blob.data, values, rtol=1e-6, atol=1e-7)


def test_gradients_of_frozen_parameters_are_cleared_too():
    solver = small_solver()
    solver.step(1)
    frozen = solver.net.learnable_params[0]
    frozen.lr_mult = 0
    frozen.blob.diff[...] = 5
    solver._clear_gradients()
    assert not any(p.blob.diff.any() for p in solver.net.learnable_params)


def test_a_momentum_that_is_replaced():
    solver = small_solver()
    solver.step(2)
    solver.history = [Blob(*blob.shape) for blob in solver.history]
    solver.step(1)
    assert all(blob.data.any() for blob in solver.history)
    solver.history[1].reshape(1, 1, 5)  # as many elements
    solver.step(1)
    for wrong in (solver.history[:-1], solver.history * 2, []):
        right, solver.history = solver.history, wrong
        with pytest.raises(
            SolverError, match=rf"SGD: expected 1 history blobs for each of 4 parameters, actual {len(wrong)}$"
        ):
            solver.step(1)
        solver.history = right
    solver.history[0] = Blob(3)
    with pytest.raises(SolverError, match=r">: a parameter of shape \(5, 5\) has a history of \[\(3,\)\]"):
        solver.step(1)


def test_memory_that_has_more_room_than_its_blob_needs():
    """What lies behind the numbers of a blob stays as it is."""
    solver = small_solver()
    solver.step(1)
    blob = solver.net.params["a"][1]
    blob.reshape(500)
    blob.data[...] = 7
    blob.reshape(5)
    solver.step(2)
    blob.reshape(500)
    assert (blob.data[5:] == 7).all() and not (blob.data[:5] == 7).any()


def test_parameters_that_are_tied_after_building_are_updated_one_after_the_other():
    tied = small_solver()
    first, second = (tied.net.params[name][0] for name in "ab")
    second.share_data(first)
    tied.net.forward()
    tied.net.backward()
    expected, gradients = first.data.copy(), [first.diff.copy(), second.diff.copy()]
    for gradient in gradients:
        expected -= np.float32(0.1) * (gradient + np.float32(0.1) * expected)
    tied.apply_update()
    np.testing.assert_allclose(first.data, expected, rtol=1e-5, atol=1e-6)


def test_parameters_shared_by_name_learn_from_the_sum_of_their_gradients():
    shared, alone = small_solver('name: "w"'), small_solver()
    assert len(shared.net.learnable_params) == 3
    w = shared.net.params["a"][0].data.copy()
    for name in "ab":
        for own, theirs in zip(alone.net.params[name], shared.net.params[name]):
            own.data[...] = theirs.data
    alone.net.forward()
    alone.net.backward()
    gradient = sum(alone.net.params[name][0].diff for name in "ab")
    shared.step(1)
    expected = w - np.float32(0.1) * (gradient + np.float32(0.1) * w)
    for name in "ab":
        np.testing.assert_allclose(shared.net.params[name][0].data, expected, rtol=1e-5, atol=1e-6)


def test_parameters_of_many_chunks_and_of_more_than_a_grid_has_blocks(monkeypatch):
    monkeypatch.setattr(kernels, "MOST_BLOCKS", 2)
    generator = np.random.default_rng(3)
    blobs, histories = [Blob(5000), Blob(1), Blob(2048)], [[Blob(5000)], [Blob(1)], [Blob(2048)]]
    for blob in [*blobs, *(history[0] for history in histories)]:
        blob.data[...], blob.diff[...] = generator.standard_normal((2, blob.count))
    expected = []
    for blob, (history,) in zip(blobs, histories):
        step = np.float32(0.5) * (blob.diff + np.float32(0.25) * blob.data) + np.float32(0.75) * history.data
        expected.append((blob.data - step, step))
    updates.Group(1, 1, blobs, histories).run("sgd", 1, 0.25, 0, 0.5, 0.75)
    for blob, (history,), (w, step) in zip(blobs, histories, expected):
        for actual, wanted in ((blob.data, w), (blob.diff, step), (history.data, step)):
            np.testing.assert_allclose(actual, wanted, rtol=1e-6, atol=1e-6)
