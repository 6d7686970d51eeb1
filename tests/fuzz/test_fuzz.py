"""The engine refuses damaged files properly; and the fuzzer would notice if it did not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import caffelite
from caffelite.errors import CaffeliteError, LayerError
from tests.fuzz import harness, seeds

FUZZ = Path(__file__).parent / "fuzz.py"


def test_damaged_files(capsys):
    """Inputs 0 to 999; `fuzz.py --count 20000` is the long run."""
    run = subprocess.run([sys.executable, FUZZ, "--count", "1000"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    assert re.search(r"^1000 inputs, 0 faults", run.stdout, re.M)
    targets = re.findall(r"^  (\w+) +(\d+) accepted, (\d+) refused$", run.stdout, re.M)
    assert len(targets) == 9, run.stdout  # each gets by, and is found out, at times
    with capsys.disabled():
        print(" " + "; ".join(" ".join(target) for target in targets), end=" ")


def test_every_layer_type_is_tried():
    elsewhere = {"Input", "Data", "AnnotatedData", "HDF5Data"}
    left_out = {"ImageData", "Python"}  # a list of names; code of the user's own
    assert set(seeds.LAYERS) | elsewhere | left_out == set(caffelite.layer_type_list())


def misbehave(number: int) -> str:
    if number == 1:
        raise LayerError("refused")
    if number == 2:
        return str(1 // 0)
    if number == 3:
        os._exit(3)
    if number == 4:
        while True:
            pass
    if number == 5:
        np.ones(2**28)
    if number == 6:
        try:
            np.ones(2**28)
        except MemoryError as error:
            raise LayerError("out of memory") from error
    return "fine"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_misbehaviour_is_noticed():
    outcomes = list(harness.watch(misbehave, range(8), CaffeliteError, seconds=2, megabytes=256))
    assert [(outcome.number, outcome.verdict) for outcome in outcomes] == [
        (0, harness.ACCEPTED),
        (1, harness.REFUSED),
        (2, harness.FOREIGN),
        (3, harness.CRASH),
        (4, harness.HANG),
        (5, harness.MEMORY),
        (6, harness.MEMORY),
        (7, harness.ACCEPTED),
    ]
    assert "ZeroDivisionError" in outcomes[2].detail and "exit status 3" in outcomes[3].detail
