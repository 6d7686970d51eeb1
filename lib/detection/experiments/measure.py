"""What a result is reported with: versions, the machine, hashes of data and weights, memory."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import platform
from functools import cache
from pathlib import Path

import numpy as np

import caffelite
from caffelite import backend

CHUNK = 1 << 20


def versions() -> dict[str, str]:
    """Of the project, numpy and Python, and what computes."""
    return {
        "caffelite": caffelite.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": machine(),
    }


def machine() -> str:
    """The processor's name and its number of cores, or the GPU's."""
    if backend.on_gpu():
        return "; ".join(backend.describe_gpus())
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass  # not Linux: the platform module's name it is
    return f"{name}, {os.cpu_count()} cores"


@cache
def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def dataset_summary(dataset) -> dict:
    """`name`, `images` and `sha256` of a data set: of its images' names and sizes in bytes, and of its objects."""
    digest = hashlib.sha256("\n".join(dataset.classes).encode())
    for i, name in enumerate(dataset.image_index):
        digest.update(f"{name} {dataset.image_path(i).stat().st_size}\n".encode())
    for entry in dataset.gt_roidb() if dataset.has_annotations else ():
        for key in ("boxes", "gt_classes", "difficult"):
            digest.update(np.ascontiguousarray(entry[key]).tobytes())
    return {"name": dataset.name, "images": len(dataset), "sha256": digest.hexdigest()}


def reset_peak_memory() -> None:
    """Let the peak of `peak_memory` begin anew, where the system can (Linux), without the nets of earlier work."""
    gc.collect()  # a net and its layers refer to each other, and are freed late
    with contextlib.suppress(OSError):  # elsewhere the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int | None:
    """Most bytes of memory that this process held at once, since the reset where there is one; None if not known."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
