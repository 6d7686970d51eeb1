"""The checker of data sets and its command."""

import subprocess
import sys
from pathlib import Path

from detection.datasets.check import check, summary
from detection.datasets.voc import VocDataset

TOOL = Path(__file__).resolve().parents[3] / "tools" / "check_dataset.py"

GOOD = {"a": [("cat", (1, 1, 30, 20), False), ("dog", (5, 5, 14, 14), True)], "b": [("cat", (3, 3, 12, 12), False)]}
BAD = {
    "a": [("cat", (30, 1, 20, 20), False), ("dog", (5, 5, 90, 14), True), ("cat", (0, 5, 9, 14), True)],
    "b": [("cat", (3, 3, 12, 12), False)],
    "c": [("cat", (3, 3, 12, 12), False)],
    "d": [],
}


def spoiled(voc_folder) -> Path:
    folder = voc_folder(BAD)
    (folder / "JPEGImages/b.png").write_bytes(b"no image")
    (folder / "JPEGImages/c.png").unlink()
    return folder


def test_everything_is_found(voc_folder):
    findings = check(VocDataset(spoiled(voc_folder), "all"))
    kinds = [finding.kind for finding in findings]
    assert kinds == ["inverted box", "box outside", "box clipped", "unreadable image", "missing image", "no objects"]
    assert [finding.kind for finding in findings if not finding.is_error] == ["box clipped", "no objects"]
    assert "b.png" in findings[3].path and "c.jpg" in findings[4].path


def test_decoding_finds_damaged_pixels(voc_folder):
    dataset = VocDataset(voc_folder(GOOD), "all")
    path = dataset.image_path(1)
    path.write_bytes(path.read_bytes()[:60])
    assert check(dataset) == []
    assert [finding.kind for finding in check(dataset, decode=True)] == ["unreadable image"]


def test_summary(voc_folder):
    lines = summary(VocDataset(voc_folder(GOOD), "all")).splitlines()
    assert lines[1].split() == ["cat", "2", "2", "0", "10,", "17,", "24"]
    assert lines[2].split() == ["dog", "1", "1", "1", "10,", "10,", "10"]
    assert lines[3].split()[:4] == ["all", "2", "3", "1"]
    assert lines[-1] == "image widths: 60, 60, 60; heights: 40, 40, 40"


def run(*arguments) -> tuple[int, str]:
    done = subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_command(voc_folder):
    folder = voc_folder(GOOD)
    status, output = run(f"{folder}:all")
    assert status == 0 and "2 images, 2 class(es)" in output and output.endswith("no errors\n")
    status, output = run(f"{spoiled(voc_folder)}:all")
    assert status == 1
    assert "error: inverted box: 1" in output and "object 1 (cat)" in output and "warning: no objects: 1" in output
    status, output = run(f"{folder}:none")
    assert status == 1 and "there is no such image set" in output
    status, output = run(f"{folder}:all:cat,dog,Dog")
    assert ": cat, dog, Dog\n" in output and "classes whose names differ in case only: dog, Dog" in output
