"""Batches on their way to the GPU: staged by threads, copied on a stream of their own, taken by the layers."""

import contextlib
import gc
import itertools
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import h5py
import numpy as np
import pytest

import caffelite as caffe
from caffelite import backend, proto
from caffelite.backend import nms, prefetch, transfer
from caffelite.backend.prefetch import Prefetcher
from caffelite.backend.transfer import Staging
from caffelite.blob import Blob, Memory
from caffelite.errors import BackendError, LayerError
from caffelite.io import array_to_datum
from caffelite.layers.data.data import Data
from detection.config import cfg
from detection.fast_rcnn.memory import memory_plan
from detection.fast_rcnn.test import test_net as detect_set
from detection.prefetch import prefetcher
from tests.detection.fast_rcnn.tiny import OPTIONS, make_entries, solver_param, trainer_of
from tests.engine.data_nets import IMAGES, data_net, net_of, write

LARGE = (2, 3, 300, 310)
generator = np.random.default_rng(4)


def arrays():
    shapes = (LARGE, (7, 5), (), (0, 4), (3,))
    return [generator.standard_normal(shape).astype(np.float32) for shape in shapes]


def taken(staged) -> list[Blob]:
    """Blobs that took a staged batch."""
    blobs = []
    with staged as batch:
        for values in batch:
            blobs.append(Blob())
            blobs[-1].put(*values)
    return blobs


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


@pytest.fixture(params=["Data", "ImageData"])
def image_net(request, tmp_path):
    """A net whose batches of images take random crops, and the file with its images."""
    files = [tmp_path / f"{i}.png" for i in range(len(IMAGES))]
    for file, image in zip(files, IMAGES):
        cv2.imwrite(str(file), image.transpose(1, 2, 0))
    (tmp_path / "list.txt").write_text("".join(f"{file.name} {i}\n" for i, file in enumerate(files)))
    database = write(tmp_path / "lmdb", [array_to_datum(image, i) for i, image in enumerate(IMAGES)])
    crop = "transform_param { crop_size: 4 mirror: true }"
    listed = (
        f'image_data_param {{ source: "{tmp_path}/list.txt" root_folder: "{tmp_path}/" batch_size: 2 shuffle: true }}'
    )
    if request.param == "Data":
        return lambda: data_net(database, crop, phase=caffe.TRAIN, seed=3), database / "data.mdb"
    return lambda: net_of("ImageData", f"{listed} {crop}", phase=caffe.TRAIN, seed=3), files[0]


def test_data_layers_read_images_in_other_processes(image_net):
    def found(net):
        pool = net.layers[0]._prefetcher and net.layers[0]._prefetcher._pool
        return [[blob.read().copy() for blob in net.blobs.values()], net.layers[0].get_state()["cursor"], type(pool)]

    def run():
        net, seen = image_net[0](), []
        for k in range(24):
            if k in (10, 15):  # back, and on
                net.layers[0].set_state({"cursor": 4 * k - 38})
            net.forward()
            seen.append(found(net))
        return seen

    on_gpu = run()
    gc.collect()
    backend.set_mode_cpu()
    on_cpu = run()
    assert [cursor for _, cursor, _ in on_gpu] == [*range(1, 11), *range(3, 8), *range(23, 32)]
    assert {pool.__name__ for _, _, pool in on_gpu} == {"_Processes"} != {pool.__name__ for _, _, pool in on_cpu}
    for (blobs, cursor, _), (others, other, _) in zip(on_gpu, on_cpu):
        assert cursor == other
        for actual, expected in zip(blobs, others):
            np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("mode", ["gpu", "cpu"])
def test_after_an_interrupt_each_pass_has_its_own_batch(mode, tmp_path, monkeypatch):
    if mode == "cpu":
        backend.set_mode_cpu()
    path = write(tmp_path / "lmdb", [array_to_datum(image, i) for i, image in enumerate(IMAGES)])
    net, collect = data_net(path, batch=1), []
    for k in range(12):
        if k % 4 == 2:

            def interrupted(prefetcher):
                raise KeyboardInterrupt

            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(Prefetcher, "__next__", interrupted)
                net.forward()
        net.forward()
        collect.append((int(net.blobs["label"].read()[0]), (net.layers[0].get_state()["cursor"] - 1) % len(IMAGES)))
    assert all(label == cursor for label, cursor in collect)


class Doubled(Data):
    """A program's own layer, with a state that no other process has."""

    factor = 2

    def load(self, batch):
        data, label = super().load(batch)
        return [data * self.factor, label]


def test_a_programs_own_layers_read_here(tmp_path):
    path = write(tmp_path / "lmdb", [array_to_datum(image, i) for i, image in enumerate(IMAGES)])
    net = data_net(path)
    layer = Doubled(net.layers[0].param, caffe.TEST, net.layers[0].pass_state)
    layer.setup([], net.top_blobs[0])
    layer.factor = 3
    layer.forward([], net.top_blobs[0])
    np.testing.assert_array_equal(net.blobs["data"].read(), 3.0 * IMAGES[:2])
    assert "thread" in layer._prefetcher.workers


def test_relative_paths_are_those_of_the_layers_set_up(tmp_path, monkeypatch):
    write(tmp_path / "lmdb", [array_to_datum(image, i) for i, image in enumerate(IMAGES)])
    monkeypatch.chdir(tmp_path)
    net = data_net("lmdb")
    monkeypatch.chdir("/")
    net.forward()
    np.testing.assert_array_equal(net.blobs["data"].read(), IMAGES[:2])
    assert "processes" in net.layers[0]._prefetcher.workers


def test_an_image_that_is_damaged_later_is_named_with_the_layer(image_net):
    net = image_net[0]()
    image_net[1].write_bytes(b"nothing")
    with pytest.raises(LayerError, match=rf"layer 'd' .*{image_net[1].name}"):
        for _ in range(8):
            net.forward()


def test_processes_end_with_the_net(image_net):
    net = image_net[0]()
    net.forward()
    processes = net.layers[0]._prefetcher._pool._processes
    pids = [process._process.pid for process in processes._idle + [busy for busy, _ in processes._busy.values()]]
    assert pids and all(os.path.exists(f"/proc/{pid}") for pid in pids)
    del net, processes
    gc.collect()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


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


def read(size):
    """What the prefetcher has read elsewhere: an array of so many numbers, and who read it."""
    if size < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if size == 0:
        raise LayerError("no image")
    return [np.full(size, size), np.arange(size % 5) > 1], (os.getpid(), cfg.TRAIN.MAX_SIZE)


def seen(loaded) -> list[tuple]:
    """What comes of a prefetcher."""
    found = []
    for staged, rest, note in loaded:
        found.append(([blob.read().copy() for blob in taken(staged)], rest, note))
    return found


def test_images_are_read_by_other_processes_in_order():
    sizes = [5, 7, 3000, 4, 300000, 40000, *range(300001, 300040)]
    cfg.TRAIN.MAX_SIZE = 77
    found = seen(loaded := prefetcher(read, ((size, str(size)) for size in sizes)))
    cfg.reset()
    assert [note for _, _, note in found] == list(map(str, sizes))
    pids = {pid for _, (pid, _), _ in found}
    assert os.getpid() not in pids and 1 < len(pids) <= 16 and {most for _, (_, most), _ in found} == {77}
    for (first, second), _, note in found:
        size = int(note)
        assert (
            (first == size).all() and first.shape == (size,) and second.tolist() == (np.arange(size % 5) > 1).tolist()
        )
    shared = loaded._pool._staging._shared
    assert len(shared._locked) >= 2 and loaded._pool._size > 300000
    locked = list(shared._locked)
    del shared, loaded
    gc.collect()
    assert not still_locked(locked)


def still_locked(pointers) -> list[int]:
    """Which of these are page-locked: only such can be unlocked."""
    left = []
    for pointer in pointers:
        with contextlib.suppress(backend.xp.cuda.runtime.CUDARuntimeError):
            backend.xp.cuda.runtime.hostUnregister(pointer)
            left.append(pointer)
    return left


def test_what_fails_in_another_process_is_told_in_its_turn():
    loaded = prefetcher(read, [(size, None) for size in (9, 0, 8, -1, 7, 6)])
    assert [blob.shape for blob in taken(next(loaded)[0])] == [(9,), (4,)]
    with pytest.raises(LayerError, match="no image"):
        next(loaded)
    assert next(loaded)[0] is not None
    with pytest.raises(BackendError, match="SIGKILL"):
        next(loaded)
    assert len(seen(loaded)) == 2
    loaded = prefetcher(read, [(-1, None)] * 20)
    for _ in range(loaded._pool._processes.left):
        with pytest.raises(BackendError, match="SIGKILL"):
            next(loaded)
    with pytest.raises(BackendError, match="all processes that made batches ready have ended"):
        next(loaded)
    loaded.close()


def test_batches_too_large_for_the_shared_memory(monkeypatch):
    monkeypatch.setattr(transfer, "MOST", 2**16)
    sizes = [100, 2**15, 2**16 + 1, 2**15, *[10] * 20]
    for (first, _), _, note in seen(prefetcher(read, [(size, size) for size in sizes])):
        assert first.shape == (note,) and (first == note).all()


SIZES = (1, 50, 3000, 40000, 70000)


def read_slowly(number):
    """Arrays that tell which they are, some of them late, some not there."""
    time.sleep(0.003 * (number % 5 == 2))
    if number % 97 == 13:
        raise LayerError(f"no image {number}")
    return [np.full(SIZES[number % 11 % len(SIZES)], number), np.full(3, number + 1)], number


@pytest.mark.parametrize("most", [2**27, 2**18])
def test_no_batch_is_lost_or_written_over_whatever_is_asked_for(most, monkeypatch):
    """Many restarts, batches that nobody takes, errors, and memory for two batches or all."""
    monkeypatch.setattr(transfer, "MOST", most)
    monkeypatch.setattr(prefetch, "cores", lambda: 5)
    choices = np.random.default_rng(most)
    loaded, number = Prefetcher(read_slowly, ((k, str(k)) for k in itertools.count()), 1, read_slowly), 0
    for _ in range(400):
        if choices.random() < 0.05:
            number = int(choices.integers(10**6))
            loaded.restart((k, str(k)) for k in itertools.count(number))
        if choices.random() < 0.3:
            loaded.fill()
        if number % 97 == 13:
            with pytest.raises(LayerError, match=f"no image {number}$"):
                next(loaded)
        else:
            staged, rest, note = next(loaded)
            assert (rest, note) == (number, str(number))
            if choices.random() < 0.1:
                staged.drop()
            else:
                first, second = taken(staged)
                assert first.shape == (SIZES[number % 11 % len(SIZES)],) and second.shape == (3,)
                assert (first.read() == number).all() and (second.read() == number + 1).all()
                assert (backend.to_host(first.array) == number).all()
        number += 1
    loaded.restart([])
    while loaded._pool._processes._busy:
        loaded._pool.wait([])
    staging = loaded._pool._staging
    assert sum(slot.size for slot in staging._free) == staging._size  # all memory has come back
    loaded.close()


def refuse_to_lock(*arguments):
    raise backend.xp.cuda.runtime.CUDARuntimeError(801)


@pytest.mark.parametrize("why", ["a function of its own", "no page-locked memory"])
def test_threads_read_where_processes_cannot(why, monkeypatch, caplog):
    caplog.set_level("INFO", "caffelite")
    load = read
    if why == "a function of its own":
        load = lambda size: read(size)  # noqa: E731
    else:
        monkeypatch.setattr(backend.xp.cuda.runtime, "hostRegister", refuse_to_lock)
    found = seen(prefetcher(load, [(size, None) for size in range(1, 30)]))
    assert [len(first) for (first, _), _, _ in found] == list(range(1, 30))
    assert {pid for _, (pid, _), _ in found} == {os.getpid()}
    assert "batches are made ready in threads" in caplog.text


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
