"""Kernels: one CUDA text per family in caffelite/kernels, compiled and launched on either machine.

`kernels("pooling")` gives an object with a method per KERNEL of pooling.cu, and `kernels("path/to/mine.cu")` one for a
file of the user's own. On numpy arrays a call runs the text as C++ built by the host's compiler; on CuPy arrays it runs
as CUDA built by NVRTC. Each call checks number, type, dtype and contiguity of its arguments against the kernel's own
signature.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import operator
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from caffelite.backend import xp
from caffelite.errors import BackendError

SOURCES = Path(__file__).resolve().parent.parent / "kernels"
CUDA_OPTIONS = ("-std=c++11", "--fmad=false")
BLOCK, MOST_BLOCKS = 256, 1 << 20
WARP = 32
MOST_ELEMENTS = 2**31 - 1  # of an array: kernels count in 32 bits
NULL = np.intp(0)  # as a GPU's kernel takes it
NO_COMPILER = (
    "no C++ compiler found for the CPU kernels: install one (Debian/Ubuntu: apt install g++; macOS: xcode-select "
    "--install), or, without root, pip install ziglang"
)
# {C's type: (ctypes', numpy's, the least and the largest of integers)}
_SCALARS = {
    "int": (ctypes.c_int, np.int32, (-(2**31), 2**31 - 1)),
    "unsigned": (ctypes.c_uint, np.uint32, (0, 2**32 - 1)),
    "float": (ctypes.c_float, np.float32, None),
    "double": (ctypes.c_double, np.float64, None),
    "long long": (ctypes.c_longlong, np.int64, (-(2**63), 2**63 - 1)),
}
_POINTEES = {
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    "int": np.dtype(np.int32),
    "unsigned": np.dtype(np.uint32),
    "long long": np.dtype(np.int64),
    "unsigned char": np.dtype(np.uint8),
}
log = logging.getLogger("caffelite")
progress = logging.getLogger("caffelite.kernels")  # of its own, so that a tool can show it alone
_threads = 0
# GNU OpenMP's threads spin for milliseconds before they sleep: on a busy machine they take the cores that others need
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@functools.cache
def kernels(family: str | Path) -> KernelFamily:
    """The kernels of caffelite/kernels/<family>.cu, or of the .cu file named (.cc: text for the CPU only)."""
    return KernelFamily(family)


def warps(count: int) -> int:
    """The number of GPU threads for a kernel of WARP_LOOP over so much work: a warp for each, as far as a grid goes."""
    return min(WARP * count, BLOCK * MOST_BLOCKS)


def blocks(count: int) -> int:
    """The number of GPU threads for a kernel in which a block does each of so many pieces."""
    return BLOCK * min(count, MOST_BLOCKS)


def address(array) -> int:
    """Where the numbers of an array begin."""
    return array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr


def families() -> list[str]:
    """Names of all families whose text is for both machines."""
    return sorted(p.stem for p in SOURCES.glob("*.cu"))


def source_file(family: str | Path) -> Path:
    """The file of a family. Raises BackendError where there is none."""
    path = Path(family)
    if path.suffix not in (".cu", ".cc"):
        path = SOURCES / f"{family}.cu"
        path = path if path.exists() else path.with_suffix(".cc")
    if not path.is_file():
        raise BackendError(f"kernels({str(family)!r}): expected a file {path}, actual none (families: {families()})")
    return path


def source(family: str | Path) -> str:
    """The shim and the text of a family with the headers beside it, as both compilers see it."""
    path = source_file(family)
    headers, text = [SOURCES / "shim.h"], path.read_text()
    headers += [path.parent / name for name in re.findall(r'^#include "(\w+\.h)"$', text, re.M)]
    text = re.sub(r'^#include "\w+\.h"$', "", text, flags=re.M)
    files = [(header.name, header.read_text()) for header in headers] + [(path.name, text)]
    return "".join(f'#line 1 "{name}"\n{text}' for name, text in files)


def signatures(text: str) -> dict[str, list[tuple[str, bool, bool, str]]]:
    """{kernel: [(type, is pointer, is const, name)]} read off the KERNEL(name)(...) heads."""
    found = {}
    for name, arguments in re.findall(r"^KERNEL\((\w+)\)\s*\(([^)]*)\)", text, re.M):
        signature = []
        for argument in arguments.split(","):
            m = re.match(r"\s*(const\s+)?([\w ]+?)\s*(\*?)\s*(?:__restrict__\s+)?(\w+)\s*$", argument)
            if not m or (m[2] not in _SCALARS and m[2] not in _POINTEES):
                raise BackendError(f"kernel {name}: argument {argument.strip()!r} has a type that the launcher lacks")
            signature.append((m[2], bool(m[3]), bool(m[1]), m[4]))
        found[name] = signature
    return found


def set_threads(n: int) -> None:
    """Let CPU kernels use `n` threads (0: OMP_NUM_THREADS, else all cores). Results do not depend on it.

    Raises BackendError for a negative number.
    """
    global _threads
    if n < 0:
        raise BackendError(f"expected a number of threads of at least 0, actual {n}")
    _threads = n or _usual_threads()
    for family in _loaded:
        family.shim_set_threads(_threads)


def threads() -> int:
    """The number of threads that CPU kernels use."""
    return _threads or _usual_threads()


def _usual_threads() -> int:
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return (int(first) if first.isdigit() else 0) or cores()  # what is no number OpenMP passes over, too


def cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class KernelFamily:
    """The kernels of one source text; each is built at first use and then called like a function."""

    def __init__(self, family: str | Path, defines: tuple[str, ...] = ()):
        file = source_file(family)
        self.family = file.stem
        # text for the CPU alone has no GPU twin to round like: it may fuse multiply-adds
        contract = () if file.suffix == ".cu" else ("-ffp-contract=fast",)
        self.defines = (*contract, *defines)
        self.source = source(family)
        self.signatures = signatures(self.source)
        self._functions: dict = {}

    @functools.cached_property
    def library(self) -> ctypes.CDLL:
        """The text as a CPU library."""
        path = build_cpu(self.source, self.family, self.defines)
        try:
            library = ctypes.CDLL(str(path))
        except OSError as e:
            raise BackendError(f"{path}: cannot be loaded ({e}); delete it and it is compiled anew") from e
        if _threads:
            library.shim_set_threads(ctypes.c_int(_threads))
        _loaded.append(library)
        return library

    @functools.cached_property
    def module(self):
        """The text as a CUDA module."""
        return xp.RawModule(code=self.source, options=CUDA_OPTIONS)

    def __getattr__(self, name: str):
        if name.startswith("_") or name not in self.signatures:
            raise AttributeError(f"{self.family} has no kernel {name}; it has {', '.join(self.signatures)}")
        launch = self._launcher(name, self.signatures[name])
        setattr(self, name, launch)
        return launch

    def _launcher(self, name: str, signature: list[tuple[str, bool, bool, str]]):
        where = f"kernel {self.family}.{name}"
        arrays, numbers = [], []
        for k, (kind, pointer, const, argument) in enumerate(signature):
            if pointer:
                arrays.append((k, argument, _POINTEES[kind], const))
            else:
                numbers.append((k, argument, *_SCALARS[kind]))

        def launch(*arguments):
            if len(arguments) != len(signature):
                raise BackendError(f"{where}: expected {len(signature)} arguments, actual {len(arguments)}")
            on_device = False
            for k, argument, want, const in arrays:
                value = arguments[k]
                if value is None:
                    continue
                if value.dtype != want or not value.flags.c_contiguous:
                    raise BackendError(f"{where}, {argument}: expected a contiguous {want} array, actual {value.dtype}")
                if value.size > MOST_ELEMENTS:
                    raise BackendError(f"{where}, {argument}: {value.size} elements, at most 2^31-1 are possible")
                if not isinstance(value, np.ndarray):
                    on_device = True
                elif not const and not value.flags.writeable:
                    raise BackendError(f"{where}, {argument}: the array is read-only")
            raw = list(arguments)
            for k, argument, in_c, in_numpy, limits in numbers:
                # ctypes cuts off what an integer type does not hold, numpy fractions
                if limits and not limits[0] <= operator.index(arguments[k]) <= limits[1]:
                    raise BackendError(f"{where}, {argument}: {arguments[k]} is beyond {in_numpy.__name__}")
                raw[k] = (in_numpy if on_device else in_c)(arguments[k])
            for k, *_ in arrays:
                if not on_device:
                    raw[k] = ctypes.c_void_p(None if raw[k] is None else raw[k].ctypes.data)
                elif raw[k] is None:
                    raw[k] = NULL
            if not on_device:
                self._on_cpu(name)(*raw)
            elif n := int(arguments[0]):
                grid = min((n + BLOCK - 1) // BLOCK, MOST_BLOCKS)
                self._on_gpu(name)((grid,), (BLOCK,), tuple(raw))

        return launch

    def _on_cpu(self, name: str):
        """The C function of a kernel."""
        if not hasattr(self.library, name):
            raise BackendError(f"kernel {self.family}.{name} is for a GPU alone, and these are numpy's arrays")
        return getattr(self.library, name)

    def _on_gpu(self, name: str):
        """The CUDA function of a kernel on the current device, which CuPy would look for anew in every launch."""
        key = name, self._device()
        if key not in self._functions:
            self._functions[key] = self.module.get_function(name)
        return self._functions[key]

    @functools.cached_property
    def _device(self):
        return xp.cuda.runtime.getDevice  # found at once: a launch should cost its host little


_loaded: list[ctypes.CDLL] = []
_compilers: list[Path] = []


def compiler() -> list[str]:
    """The command of the host's C++ compiler: $CXX, g++, clang++, c++, or the zig wheel's. Raises BackendError."""
    chosen = os.environ.get("CXX", "").split()
    if chosen and not shutil.which(chosen[0]):
        raise BackendError(f"CXX={' '.join(chosen)}: there is no such command; correct it, or unset it")
    for command in (chosen, ["g++"], ["clang++"], ["c++"]):
        if command and shutil.which(command[0]):
            return command
    try:
        import ziglang  # noqa: F401
    except ImportError:
        raise BackendError(NO_COMPILER) from None
    return [sys.executable, "-m", "ziglang", "c++"]


def cache_folder() -> Path:
    """Where compiled kernels are kept: $CAFFELITE_CACHE, else caffelite/ in the user's cache folder."""
    if os.environ.get("CAFFELITE_CACHE"):
        return Path(os.environ["CAFFELITE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caffelite"


def build_cpu(text: str, family: str, defines: tuple[str, ...] = ()) -> Path:
    """Compile a kernel text to a shared library, or find it in the cache. Raises BackendError."""
    command = compiler()
    openmp = [] if "ziglang" in command else ["-fopenmp"]
    # contraction into fused multiply-adds is off so that numpy, CPU kernels and GPU kernels round alike
    flags = ["-O3", "-march=native", *openmp, "-ffp-contract=off", "-fno-math-errno", "-fPIC", "-shared", *defines]
    flags += os.environ.get("CAFFELITE_CXXFLAGS", "").split()
    built_of = text, command[1:], flags, _compiler_version(tuple(command)), _cpu()
    key = hashlib.sha256(repr(built_of).encode()).hexdigest()[:20]
    folder = cache_folder() / "kernels"
    library = folder / f"{family}-{key}.so"
    if library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _announce(" ".join(command), folder)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            file, built = Path(work) / f"{family}.cc", Path(work) / "built.so"
            file.write_text(text)
            errors = _compile(command, flags, file, built)
            if errors is not None and openmp and not _has_openmp(command, work):
                errors = _compile(command, [flag for flag in flags if flag not in openmp], file, built)
                if errors is None:
                    log.warning("%s has no OpenMP: the %s kernels run on one thread", " ".join(command), family)
            if errors is not None:
                text = f"{' '.join(command)} could not compile the {family} kernels:\n{errors[-2000:]}"
                raise BackendError(text.rstrip())
            with open(built, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(built, library)  # atomic: two processes may build at once
    except OSError as e:
        raise BackendError(
            f"compiled kernels cannot be kept in {folder} ({e.strerror}); name another folder in CAFFELITE_CACHE"
        ) from e
    return library


def _has_openmp(command: list[str], folder: str) -> bool:
    """Whether a compiler takes OpenMP: what it then refuses is the text's fault, as a `return` in a loop."""
    empty = Path(folder) / "empty.cc"
    empty.write_text("")
    return _compile(command, ["-fopenmp", "-fPIC", "-shared"], empty, Path(folder) / "empty.so") is None


def tell_if_busy() -> None:
    """Say so where other programs leave fewer cores than there are threads (Linux): each loop waits for all of them."""
    cores, wanted = os.cpu_count() or 1, threads()
    others = _others_running()
    if wanted > 1 and wanted > cores - others:
        progress.info(
            "other programs keep %d of %d cores busy: --threads %d may be faster than %d",
            min(others, cores), cores, max(1, cores - others), wanted,
        )  # fmt: skip


def _others_running() -> int:
    """How many threads of other programs want a core now."""
    try:
        counts = []
        for _ in range(5):
            counts.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1)
            time.sleep(0.01)
        return min(counts)
    except (OSError, ValueError, IndexError):
        return 0


@functools.cache
def _announce(command: str, folder: Path) -> None:
    progress.info("compiling CPU kernels with %s; it is done once, they are kept in %s", command, folder)


def compiling() -> bool:
    """Whether a compiler is at work for this process."""
    return bool(_compilers)


def _compile(command: list[str], flags: list[str], file: Path, built: Path) -> str | None:
    """Run the compiler; returns what it complains of, None where it succeeds. Raises BackendError if it is killed."""
    _compilers.append(file)
    try:
        # in a session of its own Ctrl-C does not reach it: we end it, with its children and files, and nobody takes
        # a compiler that was interrupted for one that found errors
        process = subprocess.Popen(
            [*command, *flags, str(file), "-o", str(built)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True, env={**os.environ, "TMPDIR": str(file.parent)},
        )  # fmt: skip
        try:
            errors, _ = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
    finally:
        _compilers.remove(file)
    if process.returncode < 0:
        raise BackendError(f"{' '.join(command)} was ended by signal {-process.returncode} at {file.name}: try again")
    return errors if process.returncode else None


@functools.cache
def _compiler_version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True).stdout


@functools.cache
def _cpu() -> str:
    try:
        m = re.search(r"^(flags|Features).*$", Path("/proc/cpuinfo").read_text(), re.M)
        return m[0] if m else platform.processor()
    except OSError:
        return platform.processor()
