"""LSTM: values by the formulas, gradients, sequences that begin and go on, refusals."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

TEXT = """type: "LSTM" recurrent_param { num_output: 3 weight_filler { type: "uniform" min: -0.8 max: 0.8 }
    bias_filler { type: "uniform" min: -0.5 max: 0.5 } }"""
RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(4, 2, 5))
CONT = np.array([[0, 0], [1, 1], [0, 1], [1, 1]])
STATIC = RANDOM.normal(size=(2, 1, 2))


def by_formula(run, x, cont, static=None, state=None):
    """h of every step, one stream and one unit after another, and the last (h, c)."""
    w_x, b, *w_s, w_h = (blob.data.astype(np.float64) for blob in run.layer.blobs)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    steps, streams, size = len(x), x.shape[1], w_h.shape[1]
    h, c = np.zeros((2, streams, size)) if state is None else np.array(state)
    result = np.empty((steps, streams, size))
    for t in range(steps):
        for n in range(streams):
            if not cont[t, n]:
                h[n] = c[n] = 0
            total = w_x @ x[t, n].ravel() + b + w_h @ h[n]
            if static is not None:
                total += w_s[0] @ static[n].ravel()
            for d in range(size):
                i, f, o = (sigmoid(total[k * size + d]) for k in range(3))
                c[n, d] = f * c[n, d] + i * np.tanh(total[3 * size + d])
                result[t, n, d] = o * np.tanh(c[n, d])
            h[n] = result[t, n]
    return result, (h, c)


@pytest.mark.parametrize("static", [None, STATIC])
def test_values_and_gradients(static):
    inputs = [X, CONT] if static is None else [X, CONT, static]
    down = [True, False, True][: len(inputs)]
    run = check_gradient(TEXT, inputs, propagate_down=down, tolerance=2e-3)
    assert [blob.shape for blob in run.layer.blobs] == [(12, 5), (12,), *[(12, 2)] * (len(inputs) - 2), (12, 3)]
    run.layer.last = None
    np.testing.assert_allclose(run.forward()[0], by_formula(run, X, CONT, static)[0], rtol=1e-5, atol=1e-6)


def test_the_last_step_of_a_pass_goes_on_in_the_next():
    run = LayerRun(TEXT, [X, CONT])
    run.forward()
    run.inputs[1][...] = 1
    _, state = by_formula(run, X, CONT)
    expected, _ = by_formula(run, X, np.ones((4, 2)), state=state)
    np.testing.assert_allclose(run.forward()[0], expected, rtol=1e-5, atol=1e-6)


def test_no_streams():
    run = LayerRun(TEXT, [X[:, :0], CONT[:, :0], STATIC[:0]])
    assert run.forward()[0].shape == (4, 0, 3)
    (dx, _, ds), params = run.backward([np.zeros((4, 0, 3))], [True, False, True])
    assert dx.shape == (4, 0, 5) and ds.shape == (0, 1, 2) and not any(diff.any() for diff in params)


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        ('type: "LSTM"', [X, CONT], "num_output must be positive"),
        (TEXT.replace("num_output", "expose_hidden: true num_output"), [X, CONT], "expose_hidden is not supported"),
        (TEXT, [X, CONT[:3]], r"one indicator per step and stream \(4, 2\), actual \(3, 2\)"),
        (TEXT, [X[0, 0], CONT], "expected x"),
        (TEXT, [X, CONT, STATIC[:1]], "expected 2 rows in the third bottom"),
        (TEXT, [X], "at least 2 bottom"),
    ],
)
def test_refusals(text, inputs, message):
    with pytest.raises(LayerError, match=message):
        LayerRun(text, inputs)


def test_refusals_at_work():
    run = LayerRun(TEXT, [X, CONT])
    run.forward()
    with pytest.raises(LayerError, match="indicators get no gradient"):
        run.backward([np.zeros((4, 2, 3))])
    run.bottom[0].reshape(4, 2, 6)
    with pytest.raises(LayerError, match="vectors of 5, actual 6"):
        run.layer.reshape(run.bottom, run.top)
