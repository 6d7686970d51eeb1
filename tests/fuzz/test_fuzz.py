"""Every reader refuses damaged files properly; and the fuzzer would notice if one did not."""

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
from tests.fuzz.readers import READERS

FUZZ = Path(__file__).parent / "fuzz.py"


watched = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are watched as Linux tells them")


@watched
def test_damaged_files():
    """Inputs 0 to 1999 of each reader; `fuzz.py --count 50000` is the long run."""
    run = subprocess.run([sys.executable, FUZZ, "--count", "2000"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-5000:]
    assert re.findall(r"^(\w+): 2000 inputs, 0 faults", run.stdout, re.M) == list(READERS)
    # each gets by, and is found out, at times
    tried = re.findall(r"^  (\w+) +[1-9]\d* accepted, [1-9]\d* refused$", run.stdout, re.M)
    assert tried == [target.__name__ for targets in READERS.values() for target in targets], run.stdout


def test_every_layer_type_is_tried():
    elsewhere = {"Input", "Data", "AnnotatedData", "HDF5Data", "ImageData"}
    left_out = {"Python"}  # code of the user's own
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


@watched
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
