"""Runs Python with every CPU kernel built under AddressSanitizer and UndefinedBehaviorSanitizer (GCC, Linux).

python tests/sanitizers/sanitized.py            all that is to be run so: some minutes
python tests/sanitizers/sanitized.py FILE ...   Python with these arguments
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = "-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"
COMPLAINTS = ("AddressSanitizer", "runtime error:")
LIBRARIES = ("libasan.so", "libstdc++.so")  # the second must be there when the first looks for the throw that it wraps

# compiles what is not yet there, a kernel file on every core; a compiler under the sanitizers takes ten times as long
BUILD = """
import os
from concurrent.futures import ThreadPoolExecutor
from caffelite.backend.kernels import SOURCES, KernelFamily, build_cpu

def build(file, *defines):
    family = KernelFamily(file, defines)
    build_cpu(family.source, family.family, family.defines)

with ThreadPoolExecutor(os.cpu_count()) as pool:
    files = sorted(SOURCES.glob("*.c[uc]"))
    works = [pool.submit(build, file) for file in files]
    works += [pool.submit(build, file, "-DGATHER=1") for file in files if file.suffix == ".cu"]
    for work in works:
        work.result()
"""
# what the sanitizers say is not captured; NVRTC does not find its files under them
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "--capture=sys", "--tb=short", "--ignore-glob=*/test_cuda_text.py")
GOLDEN = ROOT.parent / "shared" / "golden" / "check.py"
EVERYTHING = [
    (*PYTEST, "tests/sanitizers/test_hostile.py", "tests/engine/layers", "tests/engine/backend"),
    (*PYTEST, "tests/engine/test_net.py", "tests/engine/test_solver.py", "tests/detection/test_boxes.py"),
    ("tests/fuzz/fuzz.py", "--reader", "text", "binary", "hdf5", "--count", "1000", "--megabytes", "0"),
    *([(str(GOLDEN), "--module", "caffelite", "--oracle", "mainline")] if GOLDEN.exists() else []),
]


def available() -> bool:
    """Whether this machine can: GCC with its libraries of the sanitizers."""
    return sys.platform == "linux" and shutil.which("g++") is not None and all(map(_library, LIBRARIES))


def run(*arguments: str) -> tuple[bool, str]:
    """Python with these arguments in the repository's root: whether it ended well without complaints; its output."""
    flags = {"CXX": "g++", "CAFFELITE_CXXFLAGS": FLAGS}
    environment = {**os.environ, **flags, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "lib")])}
    subprocess.run([sys.executable, "-c", BUILD], env=environment, check=True)
    environment |= {
        "LD_PRELOAD": " ".join(map(_library, LIBRARIES)),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",  # Python leaves much to the end of the process
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode == 0 and not any(complaint in done.stdout for complaint in COMPLAINTS), done.stdout


def _library(name: str) -> str:
    """The file of one of the compiler's libraries, or nothing."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return found if os.path.isabs(found) else ""


def main() -> int:
    if not available():
        print("needs Linux, and g++ with libasan and libubsan", file=sys.stderr)
        return 2
    failed = 0
    for arguments in [sys.argv[1:]] if sys.argv[1:] else EVERYTHING:
        well, output = run(*arguments)
        failed += not well
        print(output if not well or sys.argv[1:] else "\n".join(output.splitlines()[-3:]))
        print(f"{'fine' if well else 'NOT FINE'}: {' '.join(arguments)}\n", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
