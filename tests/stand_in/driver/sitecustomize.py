"""Lets CuPy itself run without a GPU: with this folder on PYTHONPATH, Python gives it an emulated CUDA at its start.

`CAFFELITE_EMULATED_CUDA` names the folder with the libraries that fixtures.emulated_cuda has built of driver.cc and
cublas.cc. CuPy finds them loaded when it looks for the driver and cuBLAS. CUDA's runtime is linked into CuPy, so each
of its functions, found by the symbols in the file, is made to jump to driver.cc. What CuPy would give to NVRTC is built
by the host's compiler (threads.py). Works with CuPy 14 on x86-64 Linux.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(os.environ["CAFFELITE_EMULATED_CUDA"])
PAGE = 4096
READ_WRITE_RUN = 7
JUMP = b"\x48\xb8%s\xff\xe0"  # mov rax, address; jmp rax
NAMED_JUMP = b"\x48\xbf%s" + JUMP  # mov rdi, text before it
LONGEST = 22  # bytes of those
_texts = []


def address(function) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value


def redirect(library: Path, target: ctypes.CDLL) -> None:
    """Make CUDA's functions in a library jump to those of `target`, or to one that says which is not there."""
    handle = ctypes.CDLL(str(library))
    listed = subprocess.run(["nm", str(library)], capture_output=True, text=True, check=True).stdout
    symbols = {name: int(at, 16) for at, name in re.findall(r"^([0-9a-f]+) [tT] (\w+)$", listed, re.M)}
    init = f"PyInit_{library.name.split('.')[0]}"
    base = address(getattr(handle, init)) - symbols[init]
    places = {name: base + at for name, at in symbols.items() if re.fullmatch(r"cuda[A-Z]\w*", name)}
    libc = ctypes.CDLL(None, use_errno=True)
    for page in {(place + more) // PAGE for place in places.values() for more in (0, LONGEST)}:
        if libc.mprotect(ctypes.c_void_p(page * PAGE), PAGE, READ_WRITE_RUN):
            raise OSError(ctypes.get_errno(), "mprotect")
    for name, place in places.items():
        own = getattr(target, "emulated_" + re.sub(r"_(ptsz|ptds|v\d)$", "", name), None)
        if own is not None:
            code = JUMP % address(own).to_bytes(8, "little")
        else:
            _texts.append(ctypes.create_string_buffer(name.encode()))
            text, other = ctypes.addressof(_texts[-1]), address(target.emulated_other)
            code = NAMED_JUMP % (text.to_bytes(8, "little"), other.to_bytes(8, "little"))
        ctypes.memmove(place, code, len(code))


def compile_for_host(source, options, arch, *others, name_expressions=None, **named):
    """In the place of CuPy's compiler: the module of a CUDA text."""
    from cupy.cuda.function import Module

    from tests.stand_in import threads

    assert not name_expressions, "not emulated: kernels that are templates"
    names = re.findall(r'extern\s+"C"\s+__global__\s+void\s+(\w+)\s*\(', source)
    own = re.findall(r"^KERNEL\((?!shim_)(\w+)\)", source, re.M)
    head = threads.AS_CUDA if own else Path(__file__).with_name("builtins.h").read_text()
    library = threads.build(source, names + own, head, tuple(o for o in options if o.startswith(("-I", "-D"))))
    module = Module()
    module.load(str(library).encode() + b"\0")
    return module


def install() -> None:
    """Emulate CUDA for the CuPy of this process."""
    driver = ctypes.CDLL(str(FOLDER / "libcuda.so.1"), mode=ctypes.RTLD_GLOBAL)
    for file in FOLDER.glob("libcublas*.so.*"):
        ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
    api = Path(next(iter(find_spec("cupy_backends").submodule_search_locations)), "cuda", "api")
    redirect(next(api.glob("runtime.*.so")), driver)
    os.environ["CUPY_ACCELERATORS"] = ""  # what CUB has compiled beforehand is not emulated
    import cupy.cuda.compiler

    cupy.cuda.compiler._compile_with_cache_cuda = compile_for_host


install()
