"""Updates on the GPU: the CPU's, and one launch for all parameters of equal multipliers."""

from pathlib import Path

import numpy as np
import pytest

import caffelite as caffe
from caffelite import backend
from tests.engine.test_solver import (  # noqa: F401  (they run here on the GPU)
    small_solver,
    test_a_momentum_that_is_replaced,
    test_gradients_of_frozen_parameters_are_cleared_too,
    test_memory_that_has_more_room_than_its_blob_needs,
    test_multipliers_that_change_in_mid_run_and_groups_of_them,
    test_parameters_of_many_chunks_and_of_more_than_a_grid_has_blocks,
    test_parameters_shared_by_name_learn_from_the_sum_of_their_gradients,
    test_parameters_that_are_tied_after_building_are_updated_one_after_the_other,
)

ROOT = Path(__file__).resolve().parents[2]
RULES = {"SGD": 0.9, "Nesterov": 0.9, "AdaGrad": 0, "RMSProp": 0, "AdaDelta": 0.9, "Adam": 0.9}


def trained(rule: str, modes) -> list[np.ndarray]:
    """Weights and history after an iteration in each of these modes."""
    solver = small_solver(rule=rule, momentum=RULES[rule])
    for mode in modes:
        mode()
        solver.step(1)
    return [blob.read().copy() for blob in [p.blob for p in solver.net.learnable_params] + solver.history]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_the_cpus_also_when_the_mode_changes(rule):
    cpu, gpu = backend.set_mode_cpu, backend.set_mode_gpu
    expected = trained(rule, [cpu] * 4)
    for modes in ([gpu] * 4, [gpu, cpu, gpu, gpu], [cpu, gpu, cpu, cpu]):
        for a, b in zip(trained(rule, modes), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_one_launch_for_all_parameters_of_equal_multipliers(launches):
    solver = small_solver()
    solver.step(3)
    assert launches["sgd"] == 3 * 3  # three groups
    assert launches["clear"] == 2 * 3  # before the first iteration gradients are zero


def test_a_finite_gradient_and_another():
    solver = small_solver()
    solver.step(1)
    answer = backend.xp.zeros(1, np.float32)
    solver.find_bad(answer)
    assert float(answer[0]) == 0
    solver.net.params["b"][1].diff[3] = np.inf
    solver.find_bad(answer)
    assert np.isnan(float(answer[0]))


def test_two_solvers_of_the_same_weights():
    def together():
        first, second = small_solver(), small_solver()
        second.net.share_with(first.net)
        for _ in range(3):
            first.step(1)
            second.step(1)
        return [blob.read().copy() for blob in first.net.params["a"]]

    on_gpu = together()
    caffe.set_mode_cpu()
    for a, b in zip(on_gpu, together(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_benchmark_of_updates(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu

    gpu.update_of(3000)()
    backend.synchronize()
