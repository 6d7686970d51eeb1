"""The values of the original Caffe, replayed through the pycaffe face by the checker that comes with them."""

import re
import subprocess
import sys

import pytest

# the same nets as accuracy_ties_mainline and infogain_mainline with the SSD fork's other answers: mainline's are given
OTHER_ANSWERS = {"layers/accuracy_ties_old", "layers/infogain_old"}
EXPECTED = {"layers": (234, OTHER_ANSWERS), "solvers": (32, set()), "train": (2, set()), "parse": (23, set()),
            "errors": (87, set())}  # fmt: skip


@pytest.mark.parametrize("kind", EXPECTED)
def test_golden_values(shared, kind):
    run = subprocess.run(
        [sys.executable, str(shared / "golden/check.py"), "--module", "caffelite", "--only", kind],
        capture_output=True,
        text=True,
    )
    passed, failed = EXPECTED[kind]
    assert set(re.findall(r"^FAIL (\S+):", run.stdout, re.M)) == failed, run.stdout[-3000:] + run.stderr[-3000:]
    assert f"\n{passed} passed, {len(failed)} failed" in "\n" + run.stdout
