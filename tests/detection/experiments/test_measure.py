"""Hashes change with what they are of; memory has a peak."""

import hashlib
import os

import numpy as np
import pytest

from detection.datasets import get
from detection.experiments import measure

BOX = ("cat", (5, 5, 20, 20), False)


def test_a_data_sets_hash_is_of_its_images_and_objects(voc_folder):
    folder = voc_folder({"a": [BOX], "b": [BOX]})
    first = measure.dataset_summary(get(f"{folder}:all"))
    assert (first["name"], first["images"], len(first["sha256"])) == ("voc_all", 2, 64)
    assert measure.dataset_summary(get(f"{folder}:all")) == first
    hashes = {first["sha256"]}
    for changed in ({"a": [BOX], "c": [BOX]}, {"a": [BOX], "b": [("cat", (5, 5, 20, 21), False)]},
                    {"a": [BOX], "b": [("cat", (5, 5, 20, 20), True)]}):  # fmt: skip
        voc_folder(changed)
        hashes.add(measure.dataset_summary(get(f"{folder}:all"))["sha256"])
    voc_folder({"a": [BOX], "b": [BOX]})
    (folder / "JPEGImages" / "a.png").write_bytes((folder / "JPEGImages" / "a.png").read_bytes() + b"\0")
    hashes.add(measure.dataset_summary(get(f"{folder}:all"))["sha256"])
    assert len(hashes) == 5


def test_file_sha256(tmp_path):
    file = tmp_path / "weights"
    content = bytes(range(256)) * 10000  # more than one piece
    file.write_bytes(content)
    assert measure.file_sha256(file) == hashlib.sha256(content).hexdigest()


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system keeps no peak of its own")
def test_peak_memory_begins_anew():
    np.ones(30_000_000)
    high = measure.peak_memory()
    measure.reset_peak_memory()
    assert high - measure.peak_memory() > 100_000_000


def test_versions_name_what_computed():
    assert set(measure.versions()) == {"caffelite", "numpy", "python", "machine"}
    assert "cores" in measure.machine()
