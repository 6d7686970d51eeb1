"""The log of a training: what a crash, a full disk and an older training do to it, and what is read and drawn."""

import errno
import json
import os

import cv2
import numpy as np
import pytest

from caffelite.errors import FileFormatError
from detection import training_log
from detection.training_log import TrainingLog, loss_names, read_log, summary
from detection.visualize import plot_logs


def write(path, iterations, first=0, **values):
    log = TrainingLog(path, first)
    for i in range(first, first + iterations):
        log.add(iter=i, lr=0.1, **{"loss": 3.0 - i, "loss_cls": 1.0, "seconds": 0.5, "peak_mib": 100.0 + i, **values})
    log.close()
    return path


def test_an_older_log_is_moved_aside(tmp_path):
    path = tmp_path / "net_loss.jsonl"
    for n in (1, 2, 3):
        write(path, n)
    assert len(path.read_text().splitlines()) == 3
    assert [len((tmp_path / f"net_loss.{n}.jsonl").read_text().splitlines()) for n in (1, 2)] == [1, 2]
    TrainingLog(path, 0).close()
    TrainingLog(path, 0).close()  # one without lines is not worth keeping
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "net_loss.1.jsonl", "net_loss.2.jsonl", "net_loss.3.jsonl", "net_loss.jsonl",
    ]  # fmt: skip


def test_a_resume_goes_on_where_it_was(tmp_path):
    path = write(tmp_path / "log.jsonl", 5)
    with open(path, "a") as file:
        file.write('{"iter": 5, "lr')
    write(path, 2, first=3)
    assert read_log(path)["iter"].tolist() == [0, 1, 2, 3, 4]
    assert not (tmp_path / "log.1.jsonl").exists()


def test_what_is_read(tmp_path, caplog):
    path = write(tmp_path / "log.jsonl", 3)
    path.write_text("\n".join([*path.read_text().splitlines(), '{"iter": 3, "loss": null}', "[]", '{"iter"', "7 \x00"]))
    columns = read_log(path)
    assert columns["loss"][:3].tolist() == [3, 2, 1] and np.isnan(columns["loss"][3]) and np.isnan(columns["lr"][3])
    assert loss_names(columns) == ["loss", "loss_cls"]
    assert "3 damaged line(s) are left out" in caplog.text
    assert summary("run", columns) == (
        "run: 4 iterations, loss 2.0000, loss_cls 1.0000 (means of the last 4), 0.500 s each, at most 102 MiB"
    )  # fmt: skip
    on_gpu = read_log(write(tmp_path / "gpu.jsonl", 2, gpu_mib=812.4))
    assert loss_names(on_gpu) == ["loss", "loss_cls"]
    assert summary("run", on_gpu).endswith("at most 101 MiB, 812 MiB of the GPU")
    for text in ("", "nonsense"):
        path.write_text(text)
        with pytest.raises(FileFormatError, match=r"log\.jsonl: holds no line"):
            read_log(path)
    with pytest.raises(FileFormatError, match=r"none\.jsonl: cannot be read"):
        read_log(tmp_path / "none.jsonl")


def test_numbers_that_are_not_finite_are_no_json(tmp_path):
    path = write(tmp_path / "log.jsonl", 1, loss=float("nan"))
    assert json.loads(path.read_text())["loss"] is None
    assert "loss not finite" in summary("x", read_log(path))


@pytest.mark.parametrize("iteration", ["-1", "1" + 400 * "0", "true_", "1.5"])
def test_what_is_no_iteration(tmp_path, iteration):
    (tmp_path / "a.jsonl").write_text(f'{{"iter": {iteration}, "loss": 1}}\n')
    with pytest.raises(FileFormatError, match="holds no line"):
        read_log(tmp_path / "a.jsonl")


def test_a_number_beyond_all_floats(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"iter": 0, "loss": 1' + 400 * "0" + "}\n")
    assert np.isnan(read_log(tmp_path / "a.jsonl")["loss"]).all()


def test_a_log_without_losses_or_with_none_that_is_finite(tmp_path, recwarn):
    (tmp_path / "a.jsonl").write_text('{"iter": 0, "lr": 0.1}\n')
    assert summary("a", read_log(tmp_path / "a.jsonl")) == "a: 1 iterations"
    (tmp_path / "b.jsonl").write_text('{"iter": 0, "loss": null}\n')
    columns = read_log(tmp_path / "b.jsonl")
    assert summary("b", columns) == "b: 1 iterations, loss not finite (means of the last 1)"
    plot_logs({"b": columns}, tmp_path / "b.png")
    assert (tmp_path / "b.png").is_file() and not recwarn.list


def test_a_full_disk_costs_no_lines_and_is_told_once(tmp_path, monkeypatch, caplog):
    log = TrainingLog(tmp_path / "log.jsonl", 0)
    real, room = os.write, [9]

    def full(descriptor, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        size, room[0] = room[0], 0
        return real(descriptor, data[:size])

    log.add(iter=0, loss=1.0)
    monkeypatch.setattr(os, "write", full)
    for i in (1, 2):
        log.add(iter=i, loss=1.0)
        log.flush()
    monkeypatch.setattr(os, "write", real)
    log.add(iter=3, loss=1.0)
    log.close()
    assert read_log(log.path)["iter"].tolist() == [0, 1, 2, 3]
    assert caplog.text.count("No space left") == 1


def test_a_deleted_log_begins_again(tmp_path):
    log = TrainingLog(tmp_path / "log.jsonl", 0)
    log.add(iter=0, loss=1.0)
    log.flush()
    log.path.unlink()
    log.add(iter=1, loss=1.0)
    log.close()
    assert training_log.read_log(log.path)["iter"].tolist() == [1]


def test_lines_are_seen_while_a_training_runs(tmp_path, monkeypatch):
    log = TrainingLog(tmp_path / "log.jsonl", 0)
    now = training_log.time.monotonic()
    log.add(iter=0, loss=1.0)
    assert log.path.read_text() == ""
    monkeypatch.setattr(training_log.time, "monotonic", lambda: now + 5)
    log.add(iter=1, loss=1.0)
    assert len(log.path.read_text().splitlines()) == 2
    log.close()


def test_pictures_of_one_log_and_of_two(tmp_path):
    logs = {name: read_log(write(tmp_path / f"{name}.jsonl", n)) for name, n in (("a", 60), ("b", 40))}
    logs["b"]["loss"][5] = np.nan
    plot_logs({"a": logs["a"]}, tmp_path / "one.png")
    plot_logs(logs, tmp_path / "two.png")
    one, two = (cv2.imread(str(tmp_path / name)) for name in ("one.png", "two.png"))
    assert one.shape == two.shape and not np.array_equal(one, two)
