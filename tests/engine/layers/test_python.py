"""Python layers: how they are found, what they may import, what is said when they are not there."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import caffelite
from caffelite import layer
from caffelite.errors import CaffeliteError, LayerError
from caffelite.layers import python as python_layer
from caffelite.layers.python import module_aliases
from tests.engine.gradient_check import LayerRun, check_gradient

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "lib")])}
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
    """Modules in the current folder, allowed but for `strange_layers`, and forgotten afterwards."""
    (tmp_path / "user_layers.py").write_text(SCALER)
    (tmp_path / "broken_layers.py").write_text("x = 1 / 0\n")
    (tmp_path / "strange_layers.py").write_text(f"open('it_ran', 'w').close()\n{SCALER}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(python_layer, "_allowed", set())
    caffelite.allow_python("user_layers", "broken_layers", "no_such_module")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.endswith("_layers"):
            del sys.modules[name]


def text_of(module="user_layers", layer="Scaler", param_str="3", **more):
    return f'type: "Python" python_param {{ module: "{module}" layer: "{layer}" param_str: "{param_str}" }}'


def test_a_layer_in_the_current_folder():
    path = list(sys.path)
    run = check_gradient(text_of(), [X])
    np.testing.assert_array_equal(run.forward()[0], 3 * X)
    assert isinstance(run.layer, caffelite.Layer) and type(run.layer).__name__ == "Scaler"
    assert sys.path == path


def test_a_layer_in_a_net():
    text = f"""layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: "s" bottom: "x" top: "y" {text_of(param_str="-1")} }}"""
    net = caffelite.Net(caffelite.proto.parse_text(text, "NetParameter", "test"), caffelite.TEST)
    np.testing.assert_array_equal(net.forward(x=X)["y"], -X)
    assert net.layers[1].type == "Python"


def test_an_alias_stands_for_another_module(monkeypatch):
    monkeypatch.setitem(module_aliases, "published.scaler", "user_layers")
    np.testing.assert_array_equal(LayerRun(text_of("published.scaler"), [X]).forward()[0], 3 * X)


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
        LayerRun('name: "mine" ' + text_of(module, layer), [X])
    for message in [*messages, "test:1: layer 'mine' (Python)"]:
        assert message in str(error.value)


REFUSAL = (
    "module 'strange_layers' may not run, as a prototxt alone runs no code; if you trust it, say "
    "caffelite.allow_python('strange_layers') before the net is built, or give the command --allow-python "
    "strange_layers, or set CAFFELITE_ALLOW_PYTHON=strange_layers"
)


def refused(text):
    with pytest.raises(LayerError) as error:
        LayerRun(text, [X])
    return str(error.value)


def run_python(*arguments):
    return subprocess.run([sys.executable, "-c", *arguments], capture_output=True, text=True, env=ENVIRONMENT)


def test_a_prototxt_alone_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert REFUSAL in refused(text_of("strange_layers"))
    assert not Path("it_ran").exists() and "strange_layers" not in sys.modules


def test_a_module_that_is_imported_is_not_thereby_allowed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    import strange_layers  # noqa: F401

    assert REFUSAL in refused(text_of("strange_layers"))
    assert "'subprocess' may not run" in refused(text_of("subprocess", "Popen"))
    assert "'user_layers_too' may not run" in refused(text_of("user_layers_too"))


def test_a_folder_that_the_caller_put_on_the_path_is_allowed(tmp_path, monkeypatch):
    Path("chosen").mkdir()
    Path("strange_layers.py").rename("chosen/strange_layers.py")
    assert REFUSAL in refused(text_of("strange_layers"))
    monkeypatch.syspath_prepend(tmp_path / "chosen")
    np.testing.assert_array_equal(LayerRun(text_of("strange_layers"), [X]).forward()[0], 3 * X)
    assert "'this' may not run" in refused(text_of("this")), "the standard library is no choice of a caller"
    assert "'pytest' may not run" in refused(text_of("pytest"))
    packages = tmp_path / "home" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "installed_layers.py").write_text(SCALER)
    monkeypatch.syspath_prepend(packages)
    assert "'installed_layers' may not run" in refused(text_of("installed_layers"))


def test_a_module_beside_the_script_that_runs_is_allowed():
    """As in scripts for pycaffe."""
    Path("net.prototxt").write_text(
        f"""layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: "s" bottom: "x" top: "y" {text_of("strange_layers")} }}"""
    )
    Path("script.py").write_text(
        "import caffelite as caffe\nprint(caffe.Net('net.prototxt', caffe.TEST).blobs['y'].shape)"
    )
    run = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, env=ENVIRONMENT)
    assert run.stdout == "(2, 3)\n", run.stderr


@pytest.mark.parametrize("name", ["x; rm -r .", "../x", ".x", "x y"])
def test_what_is_no_name_is_not_recommended(name):
    assert "expected module and layer, actual module" in refused(text_of(name))


def test_a_class_that_is_no_whole_layer():
    assert "Python has no reshape" in refused(text_of("caffelite.layers.python", "Python"))
    assert np.isfinite(LayerRun(text_of("caffelite.layers.softmax", "Softmax"), [X]).forward()[0]).all()


def test_modules_are_allowed_by_name_with_those_below():
    Path("pack_layers").mkdir()
    Path("pack_layers/__init__.py").write_text("")
    Path("pack_layers/scale_layers.py").write_text(SCALER)
    caffelite.allow_python("strange_layers", "pack_layers")
    for module in ("strange_layers", "pack_layers.scale_layers"):
        np.testing.assert_array_equal(LayerRun(text_of(module), [X]).forward()[0], 3 * X)
    assert Path("it_ran").exists()


def test_modules_are_allowed_by_the_environment(monkeypatch):
    monkeypatch.setenv("CAFFELITE_ALLOW_PYTHON", "other,strange_layers")
    np.testing.assert_array_equal(LayerRun(text_of("strange_layers"), [X]).forward()[0], 3 * X)


@pytest.mark.parametrize("name", ["", "layers/mine", "mine.py", "a..b", "a b"])
def test_what_is_allowed_is_the_name_of_a_module(name):
    with pytest.raises(CaffeliteError, match="expected the name of a module as in `import my_layers`, actual"):
        caffelite.allow_python(name)


def test_a_registered_class_needs_no_more(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(layer, "_registry", dict(layer._registry))
    import strange_layers

    caffelite.register("Scaler")(strange_layers.Scaler)
    np.testing.assert_array_equal(LayerRun(text_of("strange_layers"), [X]).forward()[0], 3 * X)
    assert "may not run" in refused(text_of("strange_layers", "Plain"))


def test_a_layer_of_the_script_that_runs():
    net = f'layer {{ name: "s" top: "y" {text_of("__main__", "Mine")} }}'
    code = f"""import caffelite as caffe
class Mine(caffe.Layer):
    def reshape(self, bottom, top): top[0].reshape(2)
    def forward(self, bottom, top): top[0].data[...] = 7
print(caffe.Net(caffe.proto.parse_text('''{net}''', "NetParameter", "test"), caffe.TEST).forward()["y"])"""
    run = run_python(code)
    assert run.stdout == "[7. 7.]\n", run.stderr
    run = run_python(code.replace("class Mine(caffe.Layer)", "class Mine"))
    assert "module '__main__' may not run" in run.stderr


def test_commands_take_modules():
    Path("net.prototxt").write_text(
        f"""layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
        layer {{ name: "s" bottom: "x" top: "y" {text_of("strange_layers")} }}"""
    )
    command = ["from caffelite.cli import main; main()", "summary", "--model", "net.prototxt"]
    assert REFUSAL in run_python(*command).stderr and not Path("it_ran").exists()
    run = run_python(*command, "--allow-python", "other", "--allow-python", "strange_layers")
    assert "2 layers, 0 parameters" in run.stdout and Path("it_ran").exists(), run.stderr


def test_the_type_itself_is_known():
    assert "Python" in caffelite.layer_type_list()


def test_layers_of_the_originals_that_are_not_here_are_named_so(monkeypatch):
    with pytest.raises(LayerError, match=r"module 'rpn\.proposal_layer' is not part of caffelite: .*Faster R-CNN"):
        LayerRun('type: "Python" python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" }', [])
    with pytest.raises(CaffeliteError, match=r"layer type 'WindowData' is not part of caffelite: .*RoIDataLayer"):
        layer.layer_class("WindowData")
    with pytest.raises(CaffeliteError, match=r"layer type 'ROIAlign' is not part of caffelite"):
        layer.layer_class("ROIAlign")
    monkeypatch.setattr(layer, "_registry", dict(layer._registry))
    own = layer.register("WindowData")(type("Own", (layer.Layer,), {}))
    assert layer.layer_class("WindowData") is own


def test_installed_packages_bring_aliases():
    """The default job's net builds in a process that never imported detection."""
    code = "import caffelite; print(caffelite.Net('prototxt/train.prototxt', caffelite.TRAIN).layers[0])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "RoIDataLayer" in run.stdout, run.stderr
