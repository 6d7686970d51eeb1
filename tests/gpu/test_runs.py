"""Whole nets on the GPU: the CPU's numbers, the same bits in every run, snapshots, other devices, too little memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import caffelite as caffe
from caffelite import backend, proto
from caffelite.backend import cudnn
from caffelite.backend.convolution import Convolution
from caffelite.blob import Memory
from caffelite.errors import BackendError, CaffeliteError, LayerError
from caffelite.layers import inner_product

ROOT = Path(__file__).resolve().parents[2]
NET = """
layer { name: "input" type: "Input" top: "data" top: "rois" top: "labels" top: "targets"
  input_param { shape { dim: 2 dim: 3 dim: 30 dim: 40 } shape { dim: 12 dim: 5 } shape { dim: 12 }
    shape { dim: 12 dim: 4 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 8 kernel_size: 5 stride: 2 pad: 2 weight_filler { type: "msra" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "norm1" type: "LRN" bottom: "conv1" top: "norm1" lrn_param { alpha: 0.1 } }
layer { name: "pool1" type: "Pooling" bottom: "norm1" top: "pool1" pooling_param { kernel_size: 3 stride: 2 pad: 1 } }
layer { name: "conv2" type: "Convolution" bottom: "pool1" top: "conv2"
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 group: 2 weight_filler { type: "msra" } } }
layer { name: "bn2" type: "BatchNorm" bottom: "conv2" top: "conv2" }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "roi_pool" type: "ROIPooling" bottom: "conv2" bottom: "rois" top: "roi_pool"
  roi_pooling_param { pooled_h: 3 pooled_w: 3 spatial_scale: 0.25 } }
layer { name: "fc" type: "InnerProduct" bottom: "roi_pool" top: "fc"
  inner_product_param { num_output: 16 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" }
layer { name: "score" type: "InnerProduct" bottom: "fc" top: "score"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "boxes" type: "InnerProduct" bottom: "fc" top: "boxes"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "labels" top: "loss" }
layer { name: "box_loss" type: "SmoothL1Loss" bottom: "boxes" bottom: "targets" top: "box_loss" loss_weight: 0.5 }
"""
SOLVER = """base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.001 clip_gradients: 5 display: 0
max_iter: 8 snapshot_after_train: false random_seed: 7"""


@pytest.fixture
def inputs():
    rng = np.random.default_rng(2)
    corners = np.sort(rng.uniform(0, 30, (12, 2, 2)), axis=1).reshape(12, 4)
    return {
        "data": rng.standard_normal((2, 3, 30, 40)),
        "rois": np.hstack([rng.integers(0, 2, (12, 1)), corners]),
        "labels": rng.integers(0, 4, 12),
        "targets": rng.standard_normal((12, 4)),
    }


def solver_of(folder: Path):
    (folder / "net.prototxt").write_text(NET)
    file = folder / "solver.prototxt"
    file.write_text(f'{SOLVER} net: "{folder / "net.prototxt"}" snapshot_prefix: "{folder / "net"}"')
    return caffe.get_solver(str(file))


def trained(folder: Path, inputs, iterations: int = 5, resume: str | None = None):
    """Parameters, and the loss, after so many iterations."""
    solver = solver_of(folder)
    if resume:
        solver.restore(resume)
    for name, values in inputs.items():
        solver.net.blobs[name].data[...] = values
    solver.step(iterations - solver.iter)
    params = {
        f"{name} {i}": blob.data.copy() for name, blobs in solver.net.params.items() for i, blob in enumerate(blobs)
    }
    return {**params, "loss": np.array(solver.net.blobs["loss"].data)}, solver


def assert_same_bits(first: dict, second: dict) -> None:
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def assert_close(actual: dict, expected: dict, tolerance: float) -> None:
    for name in expected:
        scale = max(1e-3, float(np.abs(expected[name]).max()))
        np.testing.assert_allclose(actual[name], expected[name], rtol=0, atol=tolerance * scale, err_msg=name)


def test_two_trainings_are_equal_in_every_bit(tmp_path, inputs):
    assert_same_bits(trained(tmp_path, inputs)[0], trained(tmp_path, inputs)[0])


def test_training_is_the_cpus(tmp_path, inputs):
    on_gpu, solver = trained(tmp_path, inputs)
    mask = backend.to_host(solver.net.layer_dict["drop"].kept)
    backend.set_mode_cpu()
    on_cpu, solver = trained(tmp_path, inputs)
    np.testing.assert_array_equal(mask, solver.net.layer_dict["drop"].kept)
    assert_close(on_gpu, on_cpu, 1e-4)


def test_resume_is_exact(tmp_path, inputs):
    whole, _ = trained(tmp_path, inputs, 6)
    _, solver = trained(tmp_path, inputs, 3)
    _, state = solver.snapshot()
    assert_same_bits(trained(tmp_path, inputs, 6, resume=state)[0], whole)


def test_another_device_gives_the_same_run(tmp_path, inputs):
    devices = backend.xp.cuda.runtime.getDeviceCount()
    if devices < 2:
        pytest.skip("needs two GPUs")
    first, _ = trained(tmp_path, inputs)
    backend.set_device(1)
    assert_same_bits(trained(tmp_path, inputs)[0], first)
    with pytest.raises(BackendError, match=f"GPU {devices} does not exist"):
        backend.set_device(devices)


def test_without_cudnn_the_numbers_are_the_same(tmp_path, inputs, monkeypatch):
    with_cudnn, _ = trained(tmp_path, inputs)
    monkeypatch.setattr(cudnn, "library", lambda: None)
    assert_close(trained(tmp_path, inputs)[0], with_cudnn, 1e-4)


def test_algorithms_by_trial_give_close_numbers(tmp_path, inputs):
    exact, _ = trained(tmp_path, inputs)
    backend.set_deterministic(False)
    assert_close(trained(tmp_path, inputs)[0], exact, 1e-3)


def convolved(shape=(1, 256, 40, 60), outputs=256):
    """(product on the GPU, product in float64 of some outputs) of a large convolution."""
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal(shape, np.float32), rng.standard_normal((outputs, shape[1], 3, 3), np.float32)
    y = backend.xp.empty((shape[0], outputs, *shape[2:]), np.float32)
    Convolution((1, 1), (1, 1), (1, 1)).forward(*map(backend.xp.asarray, (x, w)), None, y)
    window = np.float64(x[0, :, 10:13, 20:23])
    return backend.to_host(y)[0, :, 11, 21], np.einsum("oijk,ijk->o", np.float64(w), window)


def relative_error(pair) -> float:
    actual, expected = pair
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def test_float32_is_exact_unless_tf32_is_allowed(emulated):
    small = {"shape": (1, 8, 20, 30), "outputs": 8} if emulated else {}
    assert relative_error(convolved(**small)) < 5e-5  # as minimal filtering rounds
    backend.allow_tf32()
    error = relative_error(convolved(**small))
    assert error < 2e-3
    capability = backend.xp.cuda.runtime.getDeviceProperties(0)["major"]
    assert emulated or capability < 8 or error > 5e-5, "TF32 was allowed and not used"


def test_too_little_memory_names_the_layer(monkeypatch):
    net = proto.parse_text(NET, "NetParameter", "net.prototxt")
    net = caffe.Net(net, caffe.TRAIN)

    def refuse(*arguments, **named):
        raise backend.xp.cuda.memory.OutOfMemoryError(1 << 40, 1 << 30)

    monkeypatch.setattr(backend._module, "zeros", refuse)
    with pytest.raises(LayerError, match=r"layer 'conv1' .*out of memory.*smaller images"):
        net.forward()


def test_an_error_of_cuda_names_the_layer(monkeypatch):
    net = caffe.Net(proto.parse_text(NET, "NetParameter", "net.prototxt"), caffe.TRAIN)

    def fail(*arguments, **named):
        raise backend.xp.cuda.runtime.CUDARuntimeError(700)

    monkeypatch.setattr(inner_product, "gemm", fail)
    with pytest.raises(LayerError, match=r"layer 'fc' .*the GPU reports .*CUDA_LAUNCH_BLOCKING=1"):
        net.forward()


def test_data_stays_on_the_device_between_layers(monkeypatch, inputs):
    net = caffe.Net(proto.parse_text(NET, "NetParameter", "net.prototxt"), caffe.TRAIN)

    def feed():
        for name, values in inputs.items():
            net.blobs[name].data[...] = values

    feed()
    net.forward()
    net.backward()
    feed()
    copied = []

    def watched(method):
        def call(memory):
            copied.extend([memory] if memory._newest == "device" else [])
            return method(memory)

        return call

    for name in ("host", "read"):
        monkeypatch.setattr(Memory, name, watched(getattr(Memory, name)))
    net._forward(0, len(net.layers) - 1)
    net._backward(len(net.layers) - 1, 0)
    assert copied == []
    assert net.blobs["fc"].data.any() and len(copied) == 1


@pytest.mark.parametrize("options", [[], ["--tf32"], ["--measure"]])
def test_the_command_trains_on_the_gpu(tmp_path, environment, options):
    solver_of(tmp_path)
    (tmp_path / "net.prototxt").write_text(
        NET.replace('type: "Input"', 'type: "DummyData"').replace(
            "input_param {", 'dummy_data_param { data_filler { type: "constant" value: 1 }'
        )
    )
    command = [
        sys.executable,
        "-c",
        "import sys; from caffelite.cli import main; sys.exit(main())",
        "train",
        "--gpu",
        "0",
    ]
    run = subprocess.run(
        [*command, "--solver", str(tmp_path / "solver.prototxt"), *options], capture_output=True, text=True, cwd=ROOT,
        env=environment,
    )  # fmt: skip
    assert run.returncode == 0 and "Optimization done." in run.stderr, run.stderr[-2000:]


def test_device_query_tells_the_card_and_cudnn(capsys):
    from caffelite.cli import main

    assert main(["device_query"]) == 0
    text = capsys.readouterr().out
    assert "compute capability" in text and "cuDNN" in text and "driver" in text
    with pytest.raises(CaffeliteError, match="does not exist"):
        caffe.set_device(99)
