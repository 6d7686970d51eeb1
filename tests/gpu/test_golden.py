"""The values of the original Caffe, on the GPU: replayed by the checker that comes with them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# two builds of the original differ in these; caffelite follows the mainline
OTHER_BUILD = {"layers/accuracy_ties_old", "layers/infogain_old"}


@pytest.mark.parametrize("kind", ["layers", "solvers", "train", "parse", "errors"])
def test_golden_values(shared, environment, kind):
    run = subprocess.run(
        [sys.executable, str(shared / "golden/check.py"), "--module", "caffelite", "--gpu", "--only", kind],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    failed = {line.split()[1].rstrip(":") for line in run.stdout.splitlines() if line.startswith("FAIL")}
    assert failed <= OTHER_BUILD, run.stdout[-3000:] + run.stderr[-3000:]
    assert "passed" in run.stdout and not run.stdout.startswith("0 passed")
