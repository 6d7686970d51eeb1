"""Batches on their way to the GPU: staged by threads, copied on a stream of their own, taken by the layers."""

import re
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest

import caffelite as caffe
from caffelite import backend, proto
from caffelite.backend import nms, transfer
from caffelite.backend.transfer import Staging
from caffelite.blob import Memory
from caffelite.errors import LayerError
from detection.config import cfg
from detection.fast_rcnn.memory import memory_plan
from detection.fast_rcnn.test import test_net as detect_set
from tests.detection.fast_rcnn.tiny import OPTIONS, make_entries, solver_param, trainer_of
from tests.gpu.staged import taken

LARGE = (2, 3, 300, 310)
generator = np.random.default_rng(4)


def arrays():
    shapes = (LARGE, (7, 5), (), (0, 4), (3,))
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


def assert_holds(blobs, batch) -> None:
    for blob, values in zip(blobs, batch):
        assert blob.shape == values.shape
        np.testing.assert_array_equal(backend.to_host(blob.array), values)
        np.testing.assert_array_equal(blob.read(), values)


def test_blobs_take_what_was_staged():
    batch = arrays()
    assert_holds(taken(Staging().stage(batch)), batch)


def test_arrays_of_other_types_become_float32():
    batch = [np.arange(6).reshape(2, 3), np.array([True, False]), np.ones((4, 6))[:, ::2]]
    assert_holds(taken(Staging().stage(batch)), batch)


def test_batches_staged_by_threads_arrive_whole_while_memory_is_used_again():
    staging, batches = Staging(), [arrays() for _ in range(20)]
    with ThreadPoolExecutor(3) as pool:
        for batch, staged in zip(batches, pool.map(staging.stage, batches)):
            assert_holds(taken(staged), batch)
    assert 1 <= len(staging._free) <= 20
    before = len(staging._free)
    for batch in batches:
        assert_holds(taken(staging.stage(batch)), batch)
    assert len(staging._free) == before


def test_memory_is_not_used_again_before_it_was_copied(stand_in):
    if not stand_in:
        pytest.skip("the stand-in counts who waits")
    staging = Staging()
    taken(staging.stage(arrays()))
    (slot,) = staging._free
    assert not slot.taken.waits
    staged = staging.stage(arrays())
    assert slot.taken.waits == 1 and staged._slot is slot


def test_larger_batches_get_larger_memory():
    staging = Staging()
    taken(staging.stage([np.ones(5)]))
    batch = arrays()
    assert_holds(taken(staging.stage(batch)), batch)


def test_what_would_take_too_much_memory_is_copied_when_it_is_taken(monkeypatch):
    monkeypatch.setattr(transfer, "MOST", 2**20)
    staging, batches = Staging(), [arrays() for _ in range(3)]
    staged = [staging.stage(batch) for batch in batches]
    assert [one._slot is None for one in staged] == [False, True, True]
    for one, batch in zip(staged, batches):
        assert_holds(taken(one), batch)
    assert len(staging._free) == 1 and staging._size == 2**20
    assert staging.stage([np.ones(2**20 + 1)])._slot is None and len(staging._free) == 1


def test_threads_stage_for_the_device_that_was_chosen():
    if backend.xp.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    backend.set_device(1)
    staging, batch = Staging(), arrays()
    with ThreadPoolExecutor(1) as pool:
        staged = pool.submit(staging.stage, batch).result()
    assert_holds(taken(staged), batch)
    staged = staging.stage(batch)
    backend.set_device(0)
    assert_holds(taken(staged), batch)


def test_a_batch_outlives_a_change_of_mode():
    batch = arrays()
    staged = Staging().stage(batch)
    backend.set_mode_cpu()
    assert_holds(taken(staged), batch)
    assert len(staged._staging._free) == 1
    staged = Staging().stage(batch)
    backend.set_mode_gpu()
    assert_holds(taken(staged), batch)


def test_without_page_locked_memory_batches_arrive_all_the_same(monkeypatch):
    def refuse(size):
        raise backend.xp.cuda.runtime.CUDARuntimeError(2)

    monkeypatch.setattr(backend.xp.cuda, "alloc_pinned_memory", refuse)
    batch = arrays()
    assert_holds(taken(Staging().stage(batch)), batch)
    assert not transfer.host_zeros(transfer.LARGE.start).any()


def test_who_reads_a_small_array_need_not_ask_the_gpu(monkeypatch):
    batch = [generator.standard_normal(9), generator.standard_normal(LARGE)]
    small, large = taken(Staging().stage(batch))
    copies = []
    monkeypatch.setattr(
        Memory, "read", lambda memory, read=Memory.read: (copies.append(memory._newest), read(memory))[1]
    )
    small.read(), large.read()
    assert copies == ["both", "device"]
    small.array[...] = 3
    assert (small.read() == 3).all() and copies[-1] == "device"
    small.data[...] = 4
    assert backend.to_host(small.array).tolist() == [4] * 9


DATA = """layer { name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param { source: "%s" batch_size: 3 shuffle: true } }"""


@pytest.fixture
def hdf5_net(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["data"], file["label"] = generator.standard_normal((10, 4, 150, 150)), np.arange(10)
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'data.h5'}\n")
    text = DATA % (tmp_path / "list.txt")
    return lambda: caffe.Net(proto.parse_text(text, "NetParameter", "data.prototxt"), caffe.TRAIN, seed=3)


def test_data_layers_give_the_cpus_batches(hdf5_net):
    def batches():
        net = hdf5_net()
        return [{name: values.copy() for name, values in net.forward().items()} for _ in range(9)]

    on_gpu = batches()
    backend.set_mode_cpu()
    for actual, expected in zip(on_gpu, batches()):
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name])


def test_too_little_memory_for_a_batch_names_the_layer(hdf5_net, monkeypatch):
    def refuse(*arguments, **named):
        raise backend.xp.cuda.memory.OutOfMemoryError(1 << 40, 1 << 30)

    net = hdf5_net()
    monkeypatch.setattr(backend._module, "empty", refuse)
    with pytest.raises(LayerError, match=r"layer 'data' .*out of memory"):
        net.forward()


@pytest.fixture
def entries(tmp_path):
    cfg.reset()
    cfg.merge(OPTIONS)
    yield make_entries(tmp_path)
    cfg.reset()


def test_fast_rcnn_learns_the_same_from_files_in_every_run(tmp_path, entries):
    models = [trainer_of(solver_param(tmp_path, folder), entries).train(6).read_bytes() for folder in ("a", "b")]
    assert models[0] == models[1]


def test_too_little_memory_for_a_minibatch_names_the_layer(tmp_path, entries, monkeypatch):
    def small_only(size, shared, slot=transfer.Slot):
        if size > 2:
            raise backend.xp.cuda.memory.OutOfMemoryError(1 << 40, 1 << 30)
        return slot(size, shared)

    trainer = trainer_of(solver_param(tmp_path), entries)
    monkeypatch.setattr(transfer, "Slot", small_only)
    with pytest.raises(LayerError, match=r"layer 'data' .*out of memory"):
        trainer.net.launch()
    trainer.data_layer.close()


def test_the_memory_plan_tells_what_the_gpu_has(tmp_path, entries, caplog, monkeypatch):
    caplog.set_level("INFO", "detection")
    trainer = trainer_of(solver_param(tmp_path), entries)
    assert re.search(r"memory for the largest minibatch: \d+ MiB \(weights .*; the GPU has .* GiB free", caplog.text)
    assert "run out of memory" not in caplog.text
    scratch = [trainer.net.layer_dict["conv1"].workspace(*trainer.net.bottom_blobs[1], *trainer.net.top_blobs[1], True)]
    assert memory_plan(trainer.solver).get("scratch memory", 0) == max(scratch)
    monkeypatch.setattr(backend, "device_memory", lambda: (1000, 2**30))
    trainer.set_data(entries)
    assert "expect it to run out of memory. Lower TRAIN.SCALES" in caplog.text
    trainer.train(2)
    assert '"gpu_mib": ' in trainer.loss_log.read_text()


def test_minibatches_are_the_cpus_and_are_not_read_back(tmp_path, entries, monkeypatch):
    def run(folder):
        trainer = trainer_of(solver_param(tmp_path, folder), entries)
        tops = trainer.net.top_blobs[trainer.net.layers.index(trainer.data_layer)]
        seen, copies = [], []

        def watched(method):
            def call(memory):
                copies.extend([memory] if memory._newest == "device" else [])
                return method(memory)

            return call

        for _ in range(4):
            with monkeypatch.context() as patch:
                for name in ("host", "read"):
                    patch.setattr(Memory, name, watched(getattr(Memory, name)))
                trainer.net.launch()
            seen.append([top.read().copy() for top in tops])
        assert copies == []
        trainer.data_layer.close()
        return seen

    on_gpu = run("gpu")
    backend.set_mode_cpu()
    for actual, expected in zip(on_gpu, run("cpu")):
        for a, b in zip(actual, expected):
            np.testing.assert_array_equal(a, b)


TEST_NET = """
layer { name: "input" type: "Input" top: "data" top: "rois"
  input_param { shape { dim: 1 dim: 3 dim: 32 dim: 48 } shape { dim: 1 dim: 5 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 stride: 2 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "ROIPooling" bottom: "conv1" bottom: "rois" top: "pool"
  roi_pooling_param { pooled_h: 2 pooled_w: 2 spatial_scale: 0.5 } }
layer { name: "cls_score" type: "InnerProduct" bottom: "pool" top: "cls_score"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 0.003 } } }
layer { name: "bbox_pred" type: "InnerProduct" bottom: "pool" top: "bbox_pred"
  inner_product_param { num_output: 16 weight_filler { type: "gaussian" std: 0.001 } } }
layer { name: "cls_prob" type: "Softmax" bottom: "cls_score" top: "cls_prob" }
"""


@pytest.mark.parametrize("selection", ["rising", "threshold"])
def test_detections_are_the_cpus(selection, monkeypatch):
    """Images of several sizes one after another, while the detections of the one before are selected."""
    cfg.reset()
    cfg.merge({"TEST": {"SCALES": [40], "SELECTION": selection}})
    monkeypatch.setattr(nms, "WORTH_PAIRS", 100)
    rng = np.random.default_rng(9)
    images = [rng.integers(0, 256, (30 + 5 * i, 60 - 6 * i, 3)).astype(np.uint8) for i in range(5)]
    corners = [np.sort(rng.integers(0, (25, 25), (40 * (i != 3), 2, 2)), axis=1).reshape(-1, 4) for i in range(5)]
    roidb = [{"boxes": boxes} for boxes in corners]

    def detect():
        net = caffe.Net(proto.parse_text(TEST_NET, "NetParameter", "test.prototxt"), caffe.TEST, seed=3)
        seconds = []
        found = detect_set(net, images, roidb, 4, seconds)
        assert len(seconds) == 5
        return found

    try:
        on_gpu = detect()
        backend.set_mode_cpu()
        for actual, expected in zip(on_gpu, detect()):
            for a, b in zip(actual, expected):
                assert len(a) == len(b)
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    finally:
        cfg.reset()
