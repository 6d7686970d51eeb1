"""Snapshots: whatever fails or is damaged, a good one is there and a resume from it ends in the same bytes."""

import builtins
import errno
import io
import json
import os
import shutil

import numpy as np
import pytest

from caffelite.errors import CaffeliteError, FileFormatError
from caffelite.proto.weights import read_weights
from detection.errors import ConfigError
from detection.fast_rcnn import snapshots
from tests.detection.fast_rcnn.tiny import CLASSES, NET, OPTIONS, make_entries, solver_param, trainer_of

ITERATIONS = 6


class Crash(BaseException):
    """The process ends here."""


class Faults:
    """Counts what a process asks of the disk, and lets the `fatal`th request fail."""

    def __init__(self, monkeypatch):
        self.error, self.fatal, self.count = None, None, 0
        for name in ("fsync", "replace"):
            monkeypatch.setattr(os, name, self.around(getattr(os, name)))
        plain_open = builtins.open

        def opened(file, mode="r", *arguments, **more):
            if "w" in mode and str(file).endswith(".tmp"):
                raw = FaultyFile(self, file, "w")
                return io.BufferedWriter(raw) if "b" in mode else io.TextIOWrapper(io.BufferedWriter(raw))
            return plain_open(file, mode, *arguments, **more)

        monkeypatch.setattr(builtins, "open", opened)
        monkeypatch.setattr(io, "open", opened)

    def around(self, function):
        def guarded(*arguments, **more):
            self.step()
            return function(*arguments, **more)

        return guarded

    def step(self):
        self.count += 1
        if self.error and self.count == self.fatal:
            raise self.error

    def arm(self, error, fatal):
        self.error, self.fatal, self.count = error, fatal, 0


class FaultyFile(io.FileIO):
    def __init__(self, faults, *arguments):
        self.faults = faults
        super().__init__(*arguments)

    def write(self, data):
        try:
            self.faults.step()
        except BaseException:
            super().write(bytes(data)[: len(data) // 2])
            raise
        return super().write(data)


@pytest.fixture
def entries(tmp_path, default_cfg, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # no power is cut here, and disks take their time
    default_cfg.merge(OPTIONS)
    return make_entries(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out"


def prefix(folder):
    return folder / "tiny"


def resumed(tmp_path, entries, force=False, **more):
    """A trainer that goes on from the newest intact snapshot, or begins."""
    trainer = trainer_of(solver_param(tmp_path, **more), entries)
    state = snapshots.newest(prefix(tmp_path / "out"))
    if state:
        trainer.restore(state, force)
    return trainer


def test_every_fault_at_every_point_of_a_snapshot(tmp_path, entries, folder, monkeypatch, default_cfg):
    default_cfg.merge({"TRAIN": {"SNAPSHOT_ITERS": 1, "USE_PREFETCH": False}})
    trainer = trainer_of(solver_param(tmp_path), entries)
    faults = Faults(monkeypatch)
    trainer.train(2)
    points = faults.count
    whole = {path.name: path.read_bytes() for path in folder.glob("*.caffemodel")}
    assert len(whole) == 2 and points > 40
    for error in (OSError(errno.ENOSPC, "No space left on device"), Crash()):
        for fatal in range(1, points + 1):
            shutil.rmtree(folder)
            trainer = trainer_of(solver_param(tmp_path), entries)
            faults.arm(error, fatal)
            failed = None
            try:
                trainer.train(2)
            except (CaffeliteError, Crash) as e:
                failed = e
            faults.arm(None, None)
            if trainer.solver.iter == 2 and isinstance(failed, CaffeliteError):
                assert "No space left on device" in str(failed)  # of the last snapshot: there is no next one
            for path in folder.glob("*.caffemodel"):
                assert path.read_bytes() == whole[path.name], (error, fatal)
            again = resumed(tmp_path, entries)
            if trainer.solver.iter == 2:
                # of two snapshots no more than one has failed
                assert again.solver.iter == 2 if not failed else again.solver.iter >= 1, (error, fatal)
            if again.solver.iter < 2:
                again.train(2)
            assert (folder / "tiny_iter_2.caffemodel").read_bytes() == whole["tiny_iter_2.caffemodel"], (error, fatal)


def test_a_failed_snapshot_is_told_and_the_next_one_is_tried(tmp_path, entries, folder, monkeypatch, caplog):
    trainer = trainer_of(solver_param(tmp_path), entries)
    faults = Faults(monkeypatch)
    # what stands in the way of the first snapshot is gone at the second
    trainer.solver.add_callback(
        lambda: trainer.solver.iter == 2 and faults.arm(OSError(errno.ENOSPC, "No space left on device"), 9),
        lambda: None,
    )
    trainer.train(ITERATIONS)
    (line,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert line.startswith("no snapshot of iteration 3 (") and "No space left on device" in line
    assert snapshots.newest(prefix(folder)).name == "tiny_iter_6.solverstate"


def test_a_folder_that_vanishes(tmp_path, entries, folder, caplog):
    whole = trainer_of(solver_param(tmp_path, "whole"), entries).train(ITERATIONS)
    trainer = trainer_of(solver_param(tmp_path), entries)
    trainer.solver.add_callback(lambda: trainer.solver.iter == 2 and shutil.rmtree(folder), lambda: None)
    assert trainer.train(ITERATIONS).read_bytes() == whole.read_bytes()
    assert [line["iter"] for line in map(json.loads, trainer.loss_log.read_text().splitlines())] == [0, 1, 2, 3, 4, 5]

    trainer = trainer_of(solver_param(tmp_path), entries)

    def block():
        if trainer.solver.iter == 2:
            shutil.rmtree(folder)
            folder.write_text("in the way")

    trainer.solver.add_callback(block, lambda: None)
    with pytest.raises(CaffeliteError, match="out: nothing can be written to this folder"):
        trainer.train(ITERATIONS)
    assert "no snapshot of iteration 3" in caplog.text and trainer.solver.iter == ITERATIONS


@pytest.mark.parametrize("prefetch", [True, False])
def test_what_was_learned_before_an_image_vanished_is_kept(tmp_path, entries, folder, default_cfg, prefetch, caplog):
    default_cfg.merge({"TRAIN": {"SNAPSHOT_ITERS": 100, "USE_PREFETCH": prefetch}})
    whole = trainer_of(solver_param(tmp_path, "whole"), entries).train(14)
    trainer = trainer_of(solver_param(tmp_path), entries)
    image = tmp_path / "2.png"
    pixels = image.read_bytes()
    trainer.solver.add_callback(
        lambda: image.unlink(missing_ok=True) if trainer.solver.iter == 2 else None, lambda: None
    )
    with pytest.raises(CaffeliteError, match=r"2\.png"):
        trainer.train(14)
    failed = trainer.solver.iter
    assert 2 <= failed < 14
    assert (
        f"iteration {failed} failed. The weights before it are in {folder}/tiny_iter_{failed}.caffemodel" in caplog.text
    )
    image.write_bytes(pixels)
    assert resumed(tmp_path, entries).train(14).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("suffix", ["caffemodel", "solverstate", "resume.npz"])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_damaged_snapshot_is_named_and_the_one_before_is_taken(tmp_path, entries, folder, suffix, harm, caplog):
    trainer_of(solver_param(tmp_path), entries).train(ITERATIONS)
    path = folder / f"tiny_iter_6.{suffix}"
    data = bytearray(path.read_bytes())
    if harm == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif harm == "changed":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.unlink()
    assert snapshots.newest(prefix(folder)) == folder / "tiny_iter_3.solverstate"
    assert "not resumed from:" in caplog.text and f"tiny_iter_6.{suffix}" in caplog.text
    if harm != "gone":
        with pytest.raises(FileFormatError, match=rf"tiny_iter_6\.{suffix}: damaged"):
            trainer_of(solver_param(tmp_path), entries).restore(folder / "tiny_iter_6.solverstate")


def test_a_mixture_of_two_trainings_is_no_snapshot(tmp_path, entries, folder):
    trainer_of(solver_param(tmp_path), entries).train(3)
    other = trainer_of(solver_param(tmp_path, "other", "weight_decay: 0.1"), entries).train(3)
    for suffix in ("caffemodel", "solverstate"):
        shutil.copy(other.with_suffix(f".{suffix}"), folder / f"tiny_iter_3.{suffix}")
        assert snapshots.newest(prefix(folder)) is None


def test_the_newest_is_the_one_written_last(tmp_path, entries, folder):
    trainer_of(solver_param(tmp_path), entries).train(ITERATIONS)
    trainer_of(solver_param(tmp_path), entries).train(4)  # another training, begun afresh
    assert snapshots.newest(prefix(folder)).name == "tiny_iter_4.solverstate"
    assert snapshots.newest(folder / "tin") is None and snapshots.newest(tmp_path / "nowhere" / "tiny") is None


@pytest.mark.parametrize(
    "says, options, more",
    [
        (r"TRAIN\.BATCH_SIZE: 16 in the snapshot, 8 now", {"BATCH_SIZE": 8}, {}),
        (r"TRAIN\.SCALES: \(32,\) in the snapshot, \(16, 32\) now", {"SCALES": [16, 32]}, {}),
        (r"solver's weight_decay: 0\.0 in the snapshot, 0\.5 now", {}, {"more": "weight_decay: 0.5"}),
        (r"layer drop6: .* in the snapshot, nothing now", {}, {"net": NET.replace('"drop6"', '"drop"')}),
    ],
)
def test_what_must_be_equal(tmp_path, entries, folder, default_cfg, says, options, more, caplog):
    trainer_of(solver_param(tmp_path), entries).train(3)
    default_cfg.merge({"TRAIN": options})
    with pytest.raises(ConfigError, match=rf"tiny_iter_3\.resume\.npz: trained otherwise: {says}.*--force-resume"):
        resumed(tmp_path, entries, **more)
    resumed(tmp_path, entries, force=True, **more).train(4)
    assert "resumed though it was trained otherwise" in caplog.text


def test_both_formats_of_one_iteration(tmp_path, entries, folder):
    trainer_of(solver_param(tmp_path), entries).train(3)
    trainer_of(solver_param(tmp_path, more="snapshot_format: HDF5"), entries).train(3)
    assert snapshots.newest(prefix(folder)).name == "tiny_iter_3.solverstate.h5"
    with pytest.raises(FileFormatError, match=r"belongs to tiny_iter_3\.caffemodel\.h5, .*, not to tiny_iter_3\.caffe"):
        snapshots.read(folder / "tiny_iter_3.solverstate")


def test_what_may_change(tmp_path, entries, folder, default_cfg):
    trainer_of(solver_param(tmp_path), entries).train(3)
    default_cfg.merge({"TRAIN": {"SNAPSHOT_ITERS": 1, "SNAPSHOT_KEEP": 5, "USE_PREFETCH": False, "NONFINITE": "skip"}})
    resumed(tmp_path, entries, more="display: 7 snapshot_format: HDF5 max_iter: 9").train(5)
    assert snapshots.newest(prefix(folder)).name == "tiny_iter_5.solverstate.h5"
    assert resumed(tmp_path, entries).solver.iter == 5


def test_forced_onto_other_data(tmp_path, entries, folder, caplog):
    trainer_of(solver_param(tmp_path), entries).train(3)
    trainer = resumed(tmp_path, entries[:3], force=True)
    assert "another number of images, so their order begins anew" in caplog.text
    _, model = read_weights(folder / "tiny_iter_3.caffemodel")[-3]
    stds = np.where(trainer.stds > 0, trainer.stds, 1)
    np.testing.assert_allclose(trainer.regressor[1].data * stds + trainer.means, model[1], rtol=1e-4, atol=1e-6)
    trainer.train(4)


@pytest.mark.parametrize("ours", [True, False])
def test_a_plain_solverstate_is_taken_with_a_warning(tmp_path, entries, folder, ours, caplog):
    first = trainer_of(solver_param(tmp_path), entries)
    first.train(3)
    (folder / "tiny_iter_3.resume.npz").unlink()
    assert snapshots.newest(prefix(folder)) is None
    assert "tiny_iter_3.solverstate: incomplete, tiny_iter_3.resume.npz is not there" in caplog.text
    if not ours:  # Caffe's own model has the regressors as they are trained
        (folder / "tiny_classes.txt").unlink()
        first.solver.snapshot()
    trainer = trainer_of(solver_param(tmp_path), entries)
    trainer.restore(folder / "tiny_iter_3.solverstate")
    assert "no exact continuation: minibatches are drawn as at the start" in caplog.text
    learned = first.stds > 0 if ours else slice(None)  # of classes without targets a model keeps no regressor
    for blob, before in zip(trainer.regressor, first.regressor):
        np.testing.assert_allclose(blob.data[learned], before.data[learned], rtol=1e-4, atol=1e-6)
    trainer.train(4)
    assert trainer.solver.iter == 4


def test_only_the_newest_are_kept(tmp_path, entries, folder, default_cfg):
    trainer_of(solver_param(tmp_path), entries).train(9)  # of another training: not ours to delete
    default_cfg.merge({"TRAIN": {"SNAPSHOT_ITERS": 1, "SNAPSHOT_KEEP": 2}})
    trainer_of(solver_param(tmp_path), entries).train(2)
    resumed(tmp_path, entries).train(5)
    files = {f"tiny_iter_{n}.{s}" for n in (4, 5, 6, 9) for s in ("caffemodel", "solverstate", "resume.npz")}
    assert {path.name for path in folder.glob("tiny_iter_*")} == files


def test_files_that_are_no_sidecars(tmp_path, entries, folder, caplog):
    trainer = trainer_of(solver_param(tmp_path), entries)
    trainer.train(3)
    file = folder / "tiny_iter_3.resume.npz"
    with np.load(file) as stored:
        arrays = dict(stored)
    for origin in ("[]", "{}", "nonsense", json.dumps({**json.loads(str(arrays["origin"])), "iteration": "3"})):
        np.savez(file, **{**arrays, "origin": np.array(origin)})
        with pytest.raises(FileFormatError, match=r"tiny_iter_3\.resume\.npz: damaged, or not written by a training"):
            trainer.restore(folder / "tiny_iter_3.solverstate")
    del arrays["sampler:permutation"]
    np.savez(file, **arrays)
    with pytest.raises(FileFormatError, match=r"tiny_iter_3\.resume\.npz: damaged.*permutation"):
        trainer.restore(folder / "tiny_iter_3.solverstate")
    with pytest.raises(FileFormatError, match=r"expected a file <prefix>_iter_N\.solverstate"):
        trainer.restore(folder / "tiny_iter_3.caffemodel")


def test_a_snapshot_may_move(tmp_path, entries, folder):
    model = trainer_of(solver_param(tmp_path, "whole"), entries).train(ITERATIONS)
    trainer_of(solver_param(tmp_path), entries).train(3)
    folder.rename(tmp_path / "moved")
    trainer_of(solver_param(tmp_path, more="weight_decay: 0.5"), entries).train(3)  # another model where it was
    trainer = trainer_of(solver_param(tmp_path), entries, CLASSES)
    trainer.restore(tmp_path / "moved" / "tiny_iter_3.solverstate")
    assert trainer.train(ITERATIONS).read_bytes() == model.read_bytes()
