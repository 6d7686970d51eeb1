"""Batches made ready ahead by other processes: in order, whole, and whatever fails or is interrupted is told."""

import contextlib
import gc
import itertools
import os
import signal
import time

import cv2
import numpy as np
import pytest

import caffelite as caffe
from caffelite import backend
from caffelite.backend import prefetch, transfer
from caffelite.backend.prefetch import Prefetcher
from caffelite.errors import BackendError, LayerError
from caffelite.io import array_to_datum
from caffelite.layers.data.data import Data
from detection.config import cfg
from detection.prefetch import prefetcher
from tests.engine.data_nets import IMAGES, data_net, net_of, write
from tests.gpu.staged import taken


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
