"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer: values of the original, and hostile ones.

This is what fits into a usual run of the tests; `python tests/sanitizers/sanitized.py` runs all.
"""

import pytest

from tests.sanitizers import sanitized

pytestmark = pytest.mark.skipif(not sanitized.available(), reason="needs g++ with libasan and libubsan")

TEXT = """
KERNEL(bad)(const int n, const float* x, const int at, const int huge, float* y) {
  KERNEL_LOOP(i, n) y[i] = x[at] + (float)(huge + i);
}
"""
CODE = """
import sys
import numpy as np
from caffelite.backend.kernels import kernels
y = np.zeros(8, np.float32)
kernels(sys.argv[1]).bad(8, np.zeros(8, np.float32), int(sys.argv[2]), int(sys.argv[3]), y)
"""


def test_kernels_keep_to_their_memory():
    well, output = sanitized.run(
        *sanitized.PYTEST,
        "-W",
        "ignore",
        "tests/sanitizers/test_hostile.py",
        "tests/engine/layers/test_original_values.py",
        "-k",
        "rois or none or scale or Pool or Soft or alone",
    )
    assert well, output[-6000:]
    assert " passed" in output


@pytest.mark.parametrize(
    ("at", "huge", "complaint"),
    [(7, 0, ""), (8, 0, "heap-buffer-overflow"), (-1, 0, "heap-buffer-overflow"), (0, 2**31 - 4, "integer overflow")],
)
def test_a_bad_kernel_is_noticed(tmp_path, at, huge, complaint):
    (tmp_path / "bad.cu").write_text(TEXT)
    well, output = sanitized.run("-c", CODE, str(tmp_path / "bad.cu"), str(at), str(huge))
    assert well == (not complaint) and complaint in output, output
