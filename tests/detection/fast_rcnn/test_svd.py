"""Compression by truncated SVD: the factors, the net made of a net, and its files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffelite import TEST, Net, proto
from caffelite.errors import CaffeliteError, WeightsError
from detection.errors import ConfigError
from detection.fast_rcnn.svd import RANKS, compress, compress_definition, truncated_svd

ROOT = Path(__file__).resolve().parents[3]
NET = """
name: "small"
input: "data" input_shape { dim: 3 dim: 2 dim: 4 dim: 5 }
layer { name: "fc6" type: "InnerProduct" bottom: "data" top: "fc6" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 12 weight_filler { type: "gaussian" std: 1 }
    bias_filler { type: "uniform" min: 1 max: 2 } } }
layer { name: "relu6" type: "ReLU" bottom: "fc6" top: "fc6" }
layer { name: "fc7" type: "InnerProduct" bottom: "fc6" top: "fc7" param { lr_mult: 1 }
  inner_product_param { num_output: 8 bias_term: false weight_filler { type: "gaussian" std: 1 } %s } }
layer { name: "last" type: "InnerProduct" bottom: "fc7" top: "last"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 1 } } }
"""


@pytest.fixture
def model(tmp_path):
    """A function that writes a net, with `more` in fc7's parameters, and its weights; returns both paths."""

    def write(more: str = "") -> tuple[str, str]:
        files = str(tmp_path / "test.prototxt"), str(tmp_path / "net.caffemodel")
        Path(files[0]).write_text(NET % more)
        Net(files[0], phase=TEST, seed=1).save(files[1])
        return files

    return write


def answers(definition, weights):
    net = Net(definition, phase=TEST)
    assert not net.copy_from(weights, strict=True).missing
    net.blobs["data"].data[...] = np.random.RandomState(0).standard_normal(net.blobs["data"].shape)
    return net.forward()["last"].copy()


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (40, 5000)])
def test_factors_are_the_best_of_their_rank(shape):
    weights = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    values = np.linalg.svd(weights.astype(np.float64), compute_uv=False)
    u, left, energy = truncated_svd(weights, 10)
    assert u.shape == (shape[0], 10) and left.shape == (10, shape[1]) and u.dtype == left.dtype == np.float32
    rest = weights - u.astype(np.float64) @ left
    np.testing.assert_allclose((rest**2).sum(), (values[10:] ** 2).sum(), rtol=1e-6)
    np.testing.assert_allclose(energy, (values[:10] ** 2).sum() / (values**2).sum(), rtol=1e-9)
    np.testing.assert_allclose(u.T @ u, np.eye(10), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(left, axis=1), values[:10], rtol=1e-6)  # diag(s) V^T
    again, _, _ = truncated_svd(weights.copy(), 10)
    np.testing.assert_array_equal(u, again)
    assert (u[np.abs(u).argmax(axis=0), np.arange(10)] > 0).all()


def test_weights_of_low_rank_survive():
    random = np.random.RandomState(0)
    weights = (random.standard_normal((20, 3)) @ random.standard_normal((3, 70))).astype(np.float32)
    u, left, energy = truncated_svd(weights, 5)
    np.testing.assert_allclose(u @ left, weights, atol=1e-5)
    assert energy == pytest.approx(1)
    u, left, energy = truncated_svd(np.zeros((4, 6), np.float32), 2)
    assert not (u @ left).any() and energy == 1


@pytest.mark.parametrize("more", ["", "transpose: true", "axis: -1"])
def test_at_full_rank_nothing_changes(model, tmp_path, more):
    definition, weights = model(more)
    out = str(tmp_path / "svd.prototxt"), str(tmp_path / "svd.caffemodel")
    done = compress(definition, weights, {"fc6": 12, "fc7": 8}, *out)
    np.testing.assert_allclose(answers(*out), answers(definition, weights), rtol=1e-4, atol=1e-4)
    assert [(c.layer, c.shape, c.rank) for c in done] == [("fc6", (12, 40), 12), ("fc7", (8, 12), 8)]
    assert all(c.energy == pytest.approx(1) for c in done)
    net = Net(out[0], phase=TEST)
    assert [len(net.params[name]) for name in ("fc6_L", "fc6_U", "fc7_L", "fc7_U")] == [1, 2, 1, 1]
    assert net.params["fc6_L"][0].shape == (12, 40) and net.params["fc6_U"][0].shape == (12, 12)
    assert out[0] and Path(out[0]).read_text().startswith(
        "# Made by tools/compress_net.py of test.prototxt: fc6 12 x 40"
    )


def test_a_lower_rank_answers_as_its_factors_do(model, tmp_path):
    definition, weights = model()
    out = str(tmp_path / "svd.prototxt"), str(tmp_path / "svd.caffemodel")
    (done,) = compress(definition, weights, {"fc6": 3}, *out)
    assert 0.2 < done.energy < 1 and done.operations == pytest.approx(3 * 52 / 480)
    assert "fc6 12 x 40: rank 3, energy kept " in str(done) and "operations 32.5% of before" in str(done)
    net = Net(definition, phase=TEST)
    net.copy_from(weights)
    u, left, _ = truncated_svd(net.params["fc6"][0].data, 3)
    net.params["fc6"][0].data[...] = u @ left
    net.save(str(tmp_path / "reference.caffemodel"))
    np.testing.assert_allclose(
        answers(*out), answers(definition, str(tmp_path / "reference.caffemodel")), rtol=1e-4, atol=1e-4
    )


def test_errors_name_layer_and_file(model, tmp_path, caplog):
    definition, weights = model()
    out = str(tmp_path / "svd.prototxt"), str(tmp_path / "svd.caffemodel")
    for ranks, message in [
        ({"fc8": 3}, r"test\.prototxt: has no layer 'fc8' to compress; its InnerProduct layers: fc6, fc7, last"),
        ({"relu6": 3}, "layer 'relu6': expected an InnerProduct, actual ReLU"),
        ({"fc6": 13}, "layer 'fc6': a rank of 13: expected 1 to 12 for weights of 12 x 40"),
        ({"fc6": 0}, "layer 'fc6': a rank of 0: expected at least 1"),
    ]:
        with pytest.raises(CaffeliteError, match=message):
            compress(definition, weights, ranks, *out)
    assert not Path(out[0]).exists() and not Path(out[1]).exists()
    compress(definition, weights, {"fc6": 11}, *out)
    assert "saves no operations" in caplog.text
    with pytest.raises(
        WeightsError, match=r"svd\.caffemodel: is no model of .*test\.prototxt: it lacks the layers fc6"
    ):
        compress(definition, out[1], {"fc6": 3}, *out)
    twice = compress_definition(proto.read_net(out[0])[0], {"fc6_L": 2}, out[0])
    assert [layer.name for layer in twice.layer if layer.name.startswith("fc6")] == ["fc6_L_L", "fc6_L_U", "fc6_U"]
    shared = proto.parse_text((NET % "").replace("param { lr_mult: 1 }", 'param { name: "w" }', 1), "NetParameter", "n")
    with pytest.raises(ConfigError, match="'fc6' shares its weights"):
        compress_definition(shared, {"fc6": 2}, "n")


def test_weights_of_another_shape(model, tmp_path):
    _, weights = model()
    other = tmp_path / "other.prototxt"
    other.write_text((NET % "").replace("dim: 5", "dim: 6"))
    with pytest.raises(
        WeightsError, match=r"layer 'fc6': expected weights \(12, 48\) and biases \[12\], actual \(12, 40\)"
    ):
        compress(str(other), weights, {"fc6": 3}, str(tmp_path / "a"), str(tmp_path / "b"))


def test_weights_that_are_no_numbers(model, tmp_path):
    definition, weights = model()
    net = Net(definition, phase=TEST)
    net.params["fc6"][0].data[3, 5] = np.nan
    net.save(weights)
    with pytest.raises(WeightsError, match=r"net\.caffemodel: layer 'fc6': its weights are not all finite"):
        compress(definition, weights, {"fc6": 3}, str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize("name", ["CaffeNet", "VGG_CNN_M_1024", "VGG16"])
def test_the_papers_models(name):
    file = str(ROOT / "models" / name / "test.prototxt")
    net = Net(compress_definition(proto.read_net(file)[0], RANKS, file), phase=TEST)
    length, outputs = net.params["fc6_L"][0].shape[1], net.params["fc7_U"][0].shape[0]
    assert [net.params[layer][0].shape for layer in ("fc6_L", "fc6_U", "fc7_L", "fc7_U")] == [
        (1024, length), (4096, 1024), (256, 4096), (outputs, 256),
    ]  # fmt: skip
    assert net.blobs["fc7"].shape[1] == outputs and "cls_prob" in net.outputs


def test_the_tool(model, tmp_path):
    definition, weights = model()
    command = [sys.executable, str(ROOT / "tools/compress_net.py"), "--def", definition, "--net", weights]
    (tmp_path / "config.yml").write_text("")
    run = subprocess.run([*command, "--rank", "fc6=3", "fc7=2"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "fc7 8 x 12: rank 2" in run.stdout
    out = tmp_path / "net_svd.prototxt", tmp_path / "net_svd.caffemodel"
    assert f"--def {out[0]} --net {out[1]}\n" in run.stdout
    assert answers(*map(str, out)).shape == (3, 4)
    (tmp_path / "config.yml").write_text("TEST: {SCALES: [64]}")
    (tmp_path / "other").mkdir()
    elsewhere = [*command, "--rank", "fc6=3", "--out", str(tmp_path / "other/w.caffemodel")]
    run = subprocess.run(elsewhere, capture_output=True, text=True)
    assert (
        tmp_path / "other/config.yml"
    ).read_text() == "TEST: {SCALES: [64]}" and "has other options" not in run.stderr
    (tmp_path / "config.yml").write_text("TEST: {SCALES: [80]}")
    run = subprocess.run(elsewhere, capture_output=True, text=True)
    assert "64" in (tmp_path / "other/config.yml").read_text() and "has other options" in run.stderr
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1 and "a rank of 1024" in run.stderr
    run = subprocess.run([*command, "--rank", "fc6"], capture_output=True, text=True)
    assert run.returncode == 2 and "expected NAME=RANK" in run.stderr
