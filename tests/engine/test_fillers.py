"""Fillers: ranges, spread, sums and sparsity as Caffe's own; streams that depend on nothing but their name."""

import json

import numpy as np
import pytest

from caffelite import fillers, proto
from caffelite.backend import random


def fill(text: str, shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    filler = fillers.make(proto.parse_text(text, "FillerParameter"))
    filler.check(shape)
    data = np.zeros(shape, np.float32)
    filler(data, random.generator(seed, "layer", "param", 0))
    return data


def test_statistics_are_those_of_caffe(shared):
    for case in json.loads((shared / "golden/fillers/fillers.json").read_text()):
        data = fill(case["filler"], tuple(case["shape"]))
        spread = case["std"]
        # both sides are samples: means differ by their standard errors, extremes by the tails
        assert abs(data.mean() - case["mean"]) <= 1e-6 + 8 * spread / np.sqrt(data.size), case["filler"]
        assert data.std() == pytest.approx(spread, rel=0.1, abs=1e-6), case["filler"]
        assert data.min() >= case["min"] - 1.5 * spread - 1e-6 and data.max() <= case["max"] + 1.5 * spread + 1e-6
        assert np.mean(data != 0) == pytest.approx(case["nonzero_fraction"], abs=0.02), case["filler"]
        rows = data.reshape(len(data), -1).sum(axis=1)
        if case["all_row_sums_equal"]:
            np.testing.assert_allclose(rows, case["first_row_sum"], rtol=1e-4)


@pytest.mark.parametrize(
    "text, shape, low, high",
    [
        ('type: "uniform" min: -0.2 max: 0.7', (80, 150), -0.2, 0.7),
        ('type: "xavier"', (80, 150), -np.sqrt(3 / 150), np.sqrt(3 / 150)),
        ('type: "xavier" variance_norm: FAN_OUT', (80, 150), -np.sqrt(3 / 80), np.sqrt(3 / 80)),
        ('type: "xavier" variance_norm: AVERAGE', (80, 150), -np.sqrt(3 / 115), np.sqrt(3 / 115)),
    ],
)
def test_uniform_ranges_are_filled(text, shape, low, high):
    data = fill(text, shape)
    assert low <= data.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < data.max() <= high


def test_msra_counts_the_fan_of_a_convolution():
    assert fill('type: "msra"', (64, 32, 3, 3)).std() == pytest.approx(np.sqrt(2 / (32 * 9)), rel=0.02)


def test_bilinear_upsamples_a_constant_to_itself():
    weights = fill('type: "bilinear"', (2, 1, 4, 4))
    np.testing.assert_allclose(weights[0, 0, 0], np.array([0.25, 0.75, 0.75, 0.25]) * 0.25)
    # with stride 2 each output gets every second weight of each axis: they add up to one
    assert weights[0, 0, ::2, ::2].sum() == weights[1, 0, 1::2, 1::2].sum() == 1


def test_a_stream_is_named_not_drawn_in_turn():
    a = fill('type: "gaussian" std: 1', (50,))
    fill('type: "gaussian" std: 1', (7,), seed=9)
    assert np.array_equal(a, fill('type: "gaussian" std: 1', (50,)))
    assert not np.array_equal(a, fill('type: "gaussian" std: 1', (50,), seed=2))


@pytest.mark.parametrize(
    "text, shape, words",
    [
        ('type: "gausian"', (2,), "did you mean 'gaussian'"),
        ('type: "uniform" sparse: 3', (2,), "sparse"),
        ('type: "bilinear"', (2, 3), "4-D"),
        ('type: "gaussian" std: -1', (2,), "negative"),
    ],
)
def test_what_makes_no_sense_is_refused(text, shape, words):
    with pytest.raises(ValueError, match=words):
        fill(text, shape)
