"""Parameters side by side in a GPU's memory: one launch updates all that have equal multipliers."""

import numpy as np
import pytest

import caffelite as caffe
from caffelite import backend, blob, proto
from caffelite.backend.kernels import kernels
from caffelite.blob import Blob, Strip
from caffelite.errors import SolverError

NET = """layer { name: "data" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 4 dim: 5 } shape { dim: 4 dim: 2 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 } inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "frozen" type: "InnerProduct" bottom: "a" top: "frozen" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "frozen" top: "b" param { lr_mult: 1 decay_mult: 1 }
  param { lr_mult: 2 decay_mult: 0 } inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "b" bottom: "y" top: "loss" }"""


def numbers(blobs) -> list[np.ndarray]:
    return [each.read().copy() for each in blobs]


def solver_of(rule: str):
    text = f'base_lr: 0.1 lr_policy: "fixed" weight_decay: 0.01 type: "{rule}"'
    param = proto.parse_text(text, "SolverParameter", "solver")
    param.net_param.CopyFrom(proto.parse_text(NET, "NetParameter", "net"))
    if rule in ("SGD", "Nesterov", "AdaDelta", "Adam"):
        param.momentum = 0.9
    if rule == "AdaDelta":
        param.delta = 1e-6
    solver = caffe.get_solver(param, random_seed=1)
    rng = np.random.default_rng(0)
    for name in "xy":
        solver.net.blobs[name].data[...] = rng.standard_normal(solver.net.blobs[name].shape)
    return solver


def trained(rule: str) -> list[np.ndarray]:
    solver = solver_of(rule)
    solver.step(3)
    return numbers([p.blob for p in solver.net.learnable_params] + solver.history)


@pytest.mark.parametrize("rule", ["SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam"])
def test_parameters_that_are_updated_together_learn_as_alone(rule):
    together = trained(rule)
    caffe.set_mode_cpu()
    for a, b in zip(together, trained(rule), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_a_launch_for_all_parameters_of_equal_multipliers(launches):
    solver = solver_of("SGD")
    solver.step(2)
    assert launches["sgd"] == 4  # two groups, two iterations
    assert len(solver.gradients()) == 2
    frozen = [p.blob for p in solver.net.learnable_params if not p.lr_mult]
    assert len(frozen) == 2 and not any(each.diff_memory.allocated for each in frozen)


def test_too_little_memory_for_what_learns(monkeypatch):
    solver = solver_of("SGD")

    def refuse(*arguments, **named):
        raise backend.xp.cuda.memory.OutOfMemoryError(1 << 40, 1 << 30)

    monkeypatch.setattr(backend._module, "zeros", refuse)
    with pytest.raises(SolverError, match=r"out of memory \(.*\): 50 weights that learn .* 0 MiB; .*lr_mult: 0"):
        solver.step(1)
    monkeypatch.undo()
    solver.step(1)


def test_memories_are_moved_where_they_stood_alone_before_and_where_a_blob_has_grown():
    blobs = [Blob(3), Blob(100), Blob(2)]
    for k, each in enumerate(blobs):
        each.data[...] = k + 1
    first = blobs[0].array  # on the device, alone
    strip = Strip(blobs, "data_memory")
    (flat,) = strip.arrays()
    assert [int(values.sum()) for values in numbers(blobs)] == [3, 200, 6] and float(flat.sum()) == 209
    flat += 1
    assert [int(values.sum()) for values in numbers(blobs)] == [6, 300, 8]
    assert blobs[0].array is not first and float(first.sum()) == 3
    assert strip.arrays()[0] is flat
    blobs[2].reshape(2000)
    blobs[2].data[...] = 1
    (grown,) = strip.arrays()
    assert grown is not flat and [int(values.sum()) for values in numbers(blobs)] == [6, 300, 2000]
    blobs[1].data[...] = 7  # the host's copy is the newest
    assert strip.arrays()[0] is grown
    assert [int(values.sum()) for values in numbers(blobs)] == [6, 700, 2000]


def test_more_numbers_than_an_array_may_have_are_in_several(monkeypatch):
    monkeypatch.setattr(blob, "MAX_COUNT", 200)
    blobs = [Blob(100) for _ in range(5)]
    for k, each in enumerate(blobs):
        each.data[...] = k
    arrays = Strip(blobs, "data_memory").arrays()
    assert [array.size for array in arrays] == [128] * 5
    blobs = [Blob(60) for _ in range(5)]
    arrays = Strip(blobs, "data_memory").arrays()
    assert [array.size for array in arrays] == [192, 128]


def test_memories_side_by_side_begin_where_vectors_may(emulated):
    blobs = [Blob(3), Blob(5), Blob(7)]
    Strip(blobs, "data_memory").arrays()
    assert all(each.array.data.ptr % 256 == blobs[0].array.data.ptr % 256 for each in blobs)
    kernels("activation").relu_forward(2, 5, blobs[1].array, 0.0, blobs[2].array[:5])
    backend.synchronize()
