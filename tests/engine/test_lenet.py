"""LeNet learns the generated digits from an LMDB with its usual solver: examples/lenet, shorter."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import caffelite as caffe
from caffelite import cli, proto

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def digits():
    spec = importlib.util.spec_from_file_location("digits", ROOT / "examples" / "lenet" / "digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(digits, tmp_path_factory):
    """LMDBs of 2000 digits to train on and 500 others to test."""
    folder = tmp_path_factory.mktemp("digits")
    for name, count, seed in (("train", 2000, 1), ("test", 500, 2)):
        listed = digits.write_digits(folder, name, count, seed)
        command = ["convert_imageset", "--gray", f"{folder / name}/", str(listed), str(folder / f"{name}_lmdb")]
        assert cli.main(command) == 0
    return folder


def solver_of(folder, **changes):
    param = proto.read_solver(ROOT / "models" / "LeNet" / "solver.prototxt")
    text = (ROOT / "models" / "LeNet" / "train_test.prototxt").read_text().replace("data/digits", str(folder))
    param.ClearField("net")
    param.net_param.CopyFrom(proto.parse_text(text, "NetParameter"))
    param.snapshot_prefix = str(folder / "lenet")
    param.test_iter[0] = 5
    for name, value in changes.items():
        setattr(param, name, value)
    return caffe.get_solver(param)


def test_digits_are_alike_for_a_seed_and_differ_otherwise(digits):
    draw = lambda seed: digits.draw_digit(7, np.random.default_rng(seed))  # noqa: E731
    np.testing.assert_array_equal(draw(1), draw(1))
    assert draw(1).shape == (28, 28) and draw(1).dtype == np.uint8
    assert (draw(1) != draw(2)).any()


def test_learns_within_150_iterations(folder):
    solver = solver_of(folder, max_iter=150, test_initialization=False, test_interval=150, snapshot_after_train=False)
    solver.solve()
    (means,) = solver.test_all()
    assert float(means["accuracy"]) >= 0.95  # the example goes on to 500 iterations and more than 99 %
    assert float(means["loss"]) < 0.15


def test_resumes_with_the_batches_that_it_would_have_had(folder):
    solver = solver_of(folder, test_interval=1000)
    solver.step(3)
    _, state = solver.snapshot()
    solver.step(2)
    resumed = solver_of(folder, test_interval=1000)
    resumed.restore(state)
    resumed.step(2)
    for name in ("conv1", "ip2"):
        for a, b in zip(solver.net.params[name], resumed.net.params[name]):
            np.testing.assert_array_equal(a.data, b.data)
    np.testing.assert_array_equal(solver.net.blobs["data"].data, resumed.net.blobs["data"].data)
