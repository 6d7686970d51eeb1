"""CUDA texts as libraries of the host: threads.h in front of them, and for each kernel a function that runs it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from caffelite.backend.kernels import build_cpu

HEADER = Path(__file__).with_name("threads.h")
AS_CUDA = "#define __CUDACC__ 1\n"
"""What shim.h takes for NVRTC."""

INTRINSICS = re.compile(r"\b__(sync(threads|warp)|\w+_sync)\(")
RUN = """
extern "C" void run_{name}(unsigned grid, unsigned block, void** arguments) {{
  emulation::run({name}, grid, block, arguments);
}}"""


def build(text: str, names: Iterable[str], head: str = "", flags: tuple[str, ...] = ()) -> Path:
    """Compile a CUDA text, with `head` before it, to a library that has run_<name> for each of its kernels `names`."""
    together = int(bool(INTRINSICS.search(text)))
    runs = "".join(RUN.format(name=name) for name in names)
    whole = f"#define TOGETHER {together}\n{HEADER.read_text()}{head}\n#line 1\n{text}{runs}\n"
    return build_cpu(whole, "emulated", ("-std=c++17", "-O1", "-fopenmp-simd", *flags))
