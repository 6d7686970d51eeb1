"""Activations that are formulas: gradients, values by hand, in place, and the checks of the parameters."""

import math

import numpy as np
import pytest

from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

X = np.linspace(-3.05, 3.15, 24).reshape(2, 3, 4)  # no element within 0.02 of 0, of -1 or of 1.5
POSITIVE = np.linspace(0.5, 4, 24).reshape(2, 3, 4)

ANYWHERE = [
    'type: "BNLL"',
    'type: "Clip" clip_param { min: -1 max: 1.5 }',
    'type: "ELU"',
    'type: "ELU" elu_param { alpha: 0.4 }',
    'type: "ELU" elu_param { alpha: -0.4 }',
    'type: "Exp"',
    'type: "Exp" exp_param { base: 2 scale: 0.5 shift: -1 }',
    'type: "Power" power_param { power: 3 scale: 0.5 shift: 1 }',
    'type: "Power" power_param { scale: -2 shift: 3 }',
    'type: "Power" power_param { power: 2 scale: 0 shift: 3 }',
    'type: "Power" power_param { power: 0 scale: 2 }',
    'type: "Sigmoid"',
    'type: "Swish"',
    'type: "Swish" swish_param { beta: 1.7 }',
    'type: "TanH"',
]
ABOVE_ZERO = [
    'type: "Log"',
    'type: "Log" log_param { base: 10 scale: 2 shift: 0.5 }',
    'type: "Power" power_param { power: 0.5 }',
    'type: "Power" power_param { power: -1.5 scale: 2 }',
]


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("text", ANYWHERE + ABOVE_ZERO)
def test_gradients(text, in_place):
    check_gradient(text, [X if text in ANYWHERE else POSITIVE], in_place=in_place, tolerance=2e-3)


def test_gradient_of_the_absolute_value():
    check_gradient('type: "AbsVal"', [X])


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ('type: "AbsVal"', np.abs),
        ('type: "BNLL"', lambda x: np.log1p(np.exp(x))),
        ('type: "Clip" clip_param { min: -1 max: 1.5 }', lambda x: np.clip(x, -1, 1.5)),
        ('type: "ELU" elu_param { alpha: 0.4 }', lambda x: np.where(x > 0, x, 0.4 * (np.exp(x) - 1))),
        ('type: "Exp" exp_param { base: 2 scale: 0.5 shift: -1 }', lambda x: 2 ** (0.5 * x - 1)),
        ('type: "Log" log_param { base: 10 scale: 2 shift: 9 }', lambda x: np.log10(2 * x + 9)),
        ('type: "Power" power_param { power: 3 scale: 0.5 shift: 1 }', lambda x: (0.5 * x + 1) ** 3),
        ('type: "Sigmoid"', lambda x: 1 / (1 + np.exp(-x))),
        ('type: "Swish" swish_param { beta: 1.7 }', lambda x: x / (1 + np.exp(-1.7 * x))),
        ('type: "TanH"', np.tanh),
        ('type: "Threshold" threshold_param { threshold: 0.5 }', lambda x: x > 0.5),
    ],
)
def test_values(text, function):
    (y,) = LayerRun(text, [X]).forward()
    np.testing.assert_allclose(y, function(X), rtol=2e-6, atol=1e-6)


def test_large_inputs_do_not_overflow():
    with np.errstate(over="raise"):
        for kind, expected in (("BNLL", [0, 1000]), ("Sigmoid", [0, 1]), ("Swish", [0, 1000]), ("ELU", [-1, 1000])):
            run = LayerRun(f'type: "{kind}"', [[-1000.0, 1000.0]])
            np.testing.assert_allclose(run.forward()[0], expected, atol=1e-6)
            assert np.isfinite(run.backward([[1.0, 1.0]])[0][0]).all()


def test_threshold_is_strict():
    (y,) = LayerRun('type: "Threshold" threshold_param { threshold: 2 }', [[1.0, 2.0, 2.5]]).forward()
    np.testing.assert_array_equal(y, [0, 0, 1])


def test_the_square_has_a_gradient_at_zero():
    run = LayerRun('type: "Power" power_param { power: 2 }', [[0.0, 2.0]])
    run.forward()
    np.testing.assert_array_equal(run.backward([[1.0, 1.0]])[0][0], [0, 4])


def test_a_derivative_of_the_output_alone_keeps_no_copy():
    for text, copies in (('type: "TanH"', False), ('type: "Swish"', True), ('type: "Power"', False)):
        run = LayerRun(text, [X], in_place=1)
        run.forward()
        assert (run.layer._copy is not None) == copies


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type: "Exp" exp_param { base: -2 }', "expected a base above 0 (or -1 for e), actual -2"),
        ('type: "Exp" exp_param { base: 0 }', "expected a base above 0"),
        ('type: "Log" log_param { base: inf }', "expected a finite base"),
        ('type: "Log" log_param { base: 1 }', "base 1 has no logarithm"),
        ('type: "Clip"', "expected clip_param"),
    ],
)
def test_parameters_are_checked(text, message):
    with pytest.raises(LayerError) as error:
        LayerRun(text, [X])
    assert message in str(error.value)


def test_what_cannot_be_done_says_so():
    with pytest.raises(LayerError, match="does not run in place"):
        LayerRun('type: "AbsVal"', [X], in_place=1)
    run = LayerRun('type: "Threshold"', [X])
    run.forward()
    with pytest.raises(LayerError, match="no backward pass"):
        run.backward([X])


def test_exp_of_the_default_base_is_natural():
    (y,) = LayerRun('type: "Exp"', [[1.0]]).forward()
    assert y[0] == pytest.approx(math.e, rel=1e-6)
