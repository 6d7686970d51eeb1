"""Python layers: how they are found, what they may import, what is said when they are not there."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import caffelite
from caffelite.errors import LayerError
from caffelite.layers.python import module_aliases
from tests.engine.gradient_check import LayerRun, check_gradient

ROOT = Path(__file__).resolve().parents[3]
SCALER = """
import caffe

class Scaler(caffe.Layer):
    def setup(self, bottom, top):
        self.factor = float(self.param_str)
        assert self.param_str_ == self.param_str

    def reshape(self, bottom, top):
        import caffe.net as later
        assert later.Net is caffe.Net
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = self.factor * top[0].diff

class Plain:
    pass
"""
X = np.arange(6.0).reshape(2, 3)


@pytest.fixture(autouse=True)
def user_layers(tmp_path, monkeypatch):
    """A module `user_layers` in the current folder, forgotten afterwards."""
    (tmp_path / "user_layers.py").write_text(SCALER)
    (tmp_path / "broken_layers.py").write_text("x = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.endswith("_layers"):
            del sys.modules[name]


def python(module="user_layers", layer="Scaler", param_str="3", **more):
    return f'type: "Python" python_param {{ module: "{module}" layer: "{layer}" param_str: "{param_str}" }}'


def test_a_layer_in_the_current_folder():
    path = list(sys.path)
    run = check_gradient(python(), [X])
    np.testing.assert_array_equal(run.forward()[0], 3 * X)
    assert isinstance(run.layer, caffelite.Layer) and type(run.layer).__name__ == "Scaler"
    assert sys.path == path


def test_a_layer_in_a_net():
    text = f"""layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: "s" bottom: "x" top: "y" {python(param_str="-1")} }}"""
    net = caffelite.Net(caffelite.proto.parse_text(text, "NetParameter", "test"), caffelite.TEST)
    np.testing.assert_array_equal(net.forward(x=X)["y"], -X)
    assert net.layers[1].type == "Python"


def test_an_alias_stands_for_another_module(monkeypatch):
    monkeypatch.setitem(module_aliases, "published.scaler", "user_layers")
    np.testing.assert_array_equal(LayerRun(python("published.scaler"), [X]).forward()[0], 3 * X)


@pytest.mark.parametrize(
    ("module", "layer", "messages"),
    [
        ("no_such_module", "X", ["cannot import module 'no_such_module' for layer 'X'", "ModuleNotFoundError"]),
        ("broken_layers", "X", ["cannot import module 'broken_layers'", "ZeroDivisionError: division by zero"]),
        ("user_layers", "Scalar", ["'Scalar' in module 'user_layers'", "actual none of that name"]),
        ("user_layers", "Plain", ["a class derived from caffelite.Layer", "user_layers.Plain"]),
        ("user_layers", "caffe", ["a class derived from caffelite.Layer", "<module"]),
        ("", "X", ["expected module and layer, actual module '', layer 'X'"]),
        ("user_layers", "", ["expected module and layer"]),
    ],
)
def test_errors_name_module_class_and_place(module, layer, messages):
    with pytest.raises(LayerError) as error:
        LayerRun('name: "mine" ' + python(module, layer), [X])
    for message in [*messages, "test:1: layer 'mine' (Python)"]:
        assert message in str(error.value)


def test_the_type_itself_is_known():
    assert "Python" in caffelite.layer_type_list()


def test_installed_packages_bring_aliases():
    """The default job's net builds in a process that never imported detection."""
    code = "import caffelite; print(caffelite.Net('prototxt/train.prototxt', caffelite.TRAIN).layers[0])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "RoIDataLayer" in run.stdout, run.stderr
