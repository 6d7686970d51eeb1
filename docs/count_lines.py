"""Write the section "Size" of docs/architecture.md: the engine's lines, room by room.

Run as `python docs/count_lines.py`. A test allows the table to be off by a few percent.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
ROOMS = {
    "caffelite/*": "nets, blobs, the Layer class, pycaffe's modules, commands",
    "caffelite/proto": "file formats in and out, upgrades",
    "caffelite/backend": "arrays, launching, gemm, convolution",
    "caffelite/layers": "all layers but the two kinds below",
    "caffelite/layers/ssd": "the layers of SSD",
    "caffelite/layers/data": "the data layers",
    "caffelite/solver": "the loop, updates, policies",
    "caffelite/kernels": "CUDA and C++",
}
KERNELS = (".cu", ".cc", ".h")


def count(room: str) -> int:
    """Lines of the Python files, or kernel texts, that lie in a room itself."""
    files = (ROOT / room.removesuffix("/*")).iterdir()
    return sum(len(file.read_text().splitlines()) for file in files if file.suffix in (".py", *KERNELS))


def make() -> str:
    """The table: room, lines, what it holds."""
    counts = {room: count(room) for room in ROOMS}
    kernels = counts["caffelite/kernels"]
    rows = [f"| `{room}` | {lines:,} | {ROOMS[room]} |" for room, lines in counts.items()]
    total = (
        f"| **all** | **{sum(counts.values()):,}** | {sum(counts.values()) - kernels:,} Python, {kernels:,} kernels |"
    )
    return "\n".join(["| room | lines | |", "| --- | ---: | --- |", *rows, total])


def section() -> str:
    """The whole section "Size"."""
    return (
        "## Size\nLines with comments and blank lines; the schema `caffe.proto` is not counted. "
        f"Made by `python docs/count_lines.py`.\n\n{make()}\n"
    )


if __name__ == "__main__":
    others = re.sub(r"^## Size\n.*?(?=^## |\Z)", "", PAGE.read_text(), flags=re.M | re.S).rstrip()
    PAGE.write_text(f"{others}\n\n{section()}")
