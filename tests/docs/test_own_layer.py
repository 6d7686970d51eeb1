"""The layers of examples/own_layer are right, and docs/adding_a_layer.md shows them as they are."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import caffelite as caffe
from caffelite import cli, layer
from caffelite.backend.kernels import kernels, signatures, source
from caffelite.errors import BackendError, LayerError
from caffelite.layers import python
from tests.engine.backend.test_cuda_text import compile_cuda, nvrtc  # noqa: F401
from tests.engine.gradient_check import LayerRun, check_gradient

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "own_layer"
PAGE = (ROOT / "docs" / "adding_a_layer.md").read_text()
MAXOUT = 'type: "Maxout" python_param { param_str: "%d" }'


@pytest.fixture(autouse=True)
def own_layers(monkeypatch):
    """The modules of the example, importable as for a user in their folder; their types are forgotten afterwards."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setattr(layer, "_registry", dict(layer._registry))
    monkeypatch.setattr(python, "_allowed", set(python._allowed))
    import maxout
    import mish

    caffe.register("Mish")(mish.Mish)
    caffe.register("Maxout")(maxout.Maxout)


def apart(*shape):
    """Different numbers, 0.1 apart, in a random order."""
    count = int(np.prod(shape))
    return (np.random.default_rng(1).permutation(count).reshape(shape) - count / 2) / 10


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5), (7,)])
def test_mish(shape):
    x = np.float32(apart(*shape))
    y = check_gradient('type: "Mish"', [x]).forward()[0]
    np.testing.assert_allclose(y, x * np.tanh(np.log1p(np.exp(np.float64(x)))), rtol=1e-5, atol=1e-6)


def test_mish_of_large_numbers():
    x = np.float32([-1e4, -100, 0, 100, 1e4])
    run = LayerRun('type: "Mish"', [x])
    np.testing.assert_allclose(run.forward()[0], [0, 0, 0, 100, 1e4], atol=1e-30)
    np.testing.assert_allclose(run.backward([np.ones(5)])[0][0], [0, 0, 0.6, 1, 1], rtol=1e-6, atol=1e-30)


def test_mish_refuses_to_run_in_place():
    with pytest.raises(LayerError, match="Mish does not run in place"):
        LayerRun('type: "Mish"', [np.zeros(3)], in_place=1)


@pytest.mark.parametrize(("pieces", "shape"), [(1, (2, 3)), (2, (2, 6)), (3, (2, 6, 4, 5)), (4, (1, 4, 3))])
def test_maxout(pieces, shape):
    x = np.float32(apart(*shape))
    y = check_gradient(MAXOUT % pieces, [x]).forward()[0]
    np.testing.assert_array_equal(y, x.reshape(shape[0], shape[1] // pieces, pieces, *shape[2:]).max(axis=2))


def test_maxout_takes_the_first_of_equals():
    run = LayerRun(MAXOUT % 3, [np.ones((1, 6, 2))])
    run.forward()
    np.testing.assert_array_equal(
        run.backward([np.full((1, 2, 2), 5.0)])[0][0].reshape(2, 3, 2), [[[5, 5], [0, 0], [0, 0]]] * 2
    )


def test_maxout_names_the_shape_it_cannot_share_out():
    with pytest.raises(LayerError, match=r"expected \(N, C 4, ...\), actual \(2, 6\)"):
        LayerRun(MAXOUT % 4, [np.zeros((2, 6))])


def test_maxout_compiles_for_a_gpu(nvrtc):  # noqa: F811
    text = source(FOLDER / "maxout.cu")
    log, cubin = compile_cuda(nvrtc, text, "sm_80")
    assert set(signatures(text)) >= {"maxout_forward", "maxout_backward"}
    assert b"maxout_forward" in cubin and b"maxout_backward" in cubin, log


def test_a_net_that_names_both():
    net = caffe.Net(str(FOLDER / "net.prototxt"), caffe.TEST)
    x = np.random.default_rng(2).normal(size=(2, 3, 8, 8))
    y = net.forward(x=x)["y"]
    greatest = net.blobs["conv"].data.reshape(2, 4, 2, 6, 6).max(axis=2)
    np.testing.assert_allclose(y, greatest * np.tanh(np.log1p(np.exp(greatest))), rtol=1e-5, atol=1e-6)


def test_a_missing_kernel_file_is_named(tmp_path):
    with pytest.raises(BackendError, match=re.escape(f"expected a file {tmp_path / 'none.cu'}, actual none")):
        kernels(tmp_path / "none.cu")


def test_headers_stand_beside_the_users_file(tmp_path):
    (tmp_path / "two.h").write_text("#define TWO 2.0f\n")
    (tmp_path / "twice.cu").write_text(
        '#include "two.h"\nKERNEL(twice)(const int n, const float* x, float* y) {\n'
        "  KERNEL_LOOP(i, n) y[i] = TWO * x[i];\n}\n"
    )
    x, y = np.float32([1, 2, 3]), np.zeros(3, np.float32)
    kernels(tmp_path / "twice.cu").twice(3, x, y)
    np.testing.assert_array_equal(y, [2, 4, 6])


# every code block of the page: the file whose name stands above it (or ""), the language, the text
BLOCKS = re.findall(r"(?:`examples/own_layer/([\w.]+)`:\n\n)?^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)


def test_the_page_shows_the_files():
    shown = {name: text for name, _, text in BLOCKS if name}
    assert shown == {path.name: path.read_text() for path in FOLDER.iterdir() if path.is_file()}


def test_the_pages_snippets_run():
    names = {}
    snippets = [text for name, language, text in BLOCKS if language == "python" and not name]
    assert len(snippets) == 2
    for text in snippets:
        exec(text, names)
    assert names["net"].blobs["y"].data.shape == (2, 3)


def test_the_pages_command_runs(capsys):
    (command,) = [text for _, language, text in BLOCKS if language == "sh"]
    program, *arguments = shlex.split(command)
    assert program == "caffelite" and cli.main(arguments) == 0
    assert "maxout" in "".join(capsys.readouterr())
