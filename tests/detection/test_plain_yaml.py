"""YAML without aliases, tags and depth."""

import time

import pytest
import yaml

from detection.plain_yaml import MAX_LENGTH, load


def test_values():
    assert load("'num_classes': 21") == {"num_classes": 21}
    assert load("A: {B: [1, 2.5, text, true]}\nC:\n") == {"A": {"B": [1, 2.5, "text", True]}, "C": None}
    assert load("") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [1]\nb: *a", "aliases"),
        ("a: &a [*a]", "aliases"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("[" * 100_000, "nested too deeply"),
        ("a: " + "9" * 5000, "too many digits"),
        ("a: 1" + "0" * 400, "too many digits"),
        ("a: 0x" + "f" * 5000, "too many digits"),
        ("a: 2001-13-45", "cannot be read"),
        ("a: !!float x", "cannot be read"),
        ("{[]: 1}", "unhashable"),
        ("# " + "x" * MAX_LENGTH, "at most 1048576"),
    ],
)
def test_refusals(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        load(text)


def test_many_laughs_cost_nothing():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    start = time.process_time()
    with pytest.raises(yaml.YAMLError, match="aliases"):
        load("\n".join(lines))
    assert time.process_time() - start < 1
