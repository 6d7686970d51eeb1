"""Streams: a function of the seed and the words, and of nothing else."""

import numpy as np

import caffelite as caffe
from caffelite.backend import random


def test_a_stream_is_a_function_of_its_name():
    numbers = random.generator(3, "fc6", "param", 0).random(4)
    random.generator(3, "fc6", "param", 1).random(100)
    np.testing.assert_array_equal(random.generator(3, "fc6", "param", 0).random(4), numbers)
    for other in ((4, "fc6", "param", 0), (3, "fc7", "param", 0), (3, "fc6", "param", 1), (3, "fc6", "param0")):
        assert not np.array_equal(random.generator(*other).random(4), numbers)


def test_the_bits_of_a_stream_never_change():
    # weights of published seeds must come out alike on every machine and version
    assert random.stream_key(3, "conv1", "param", 0) == 0x3BC2D0726266D4C
    drawn = random.generator(3, "conv1", 7).random(3, np.float32)
    np.testing.assert_array_equal(drawn, np.float32([0.5795459, 0.8674159, 0.49800813]))


def test_seeds(monkeypatch):
    monkeypatch.setattr(random, "_seed", None)
    drawn = random.random_seed()
    assert 0 <= drawn < 2**31 and random.random_seed() == drawn
    caffe.set_random_seed(np.int64(5))
    assert random.random_seed() == 5 and type(random.random_seed()) is int
