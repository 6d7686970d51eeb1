"""The values of the original Caffe, replayed through the pycaffe face by the checker that comes with them."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("kind", ["layers", "solvers", "train", "parse", "errors"])
def test_golden_values(shared, kind):
    run = subprocess.run(
        [sys.executable, str(shared / "golden/check.py"), "--module", "caffelite", "--only", kind],
        capture_output=True,
        text=True,
        cwd=os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))),
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert " 0 failed" in run.stdout and not run.stdout.endswith("\n0 passed, 0 failed\n")
