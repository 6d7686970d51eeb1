"""Softmax and the losses of scores against labels: gradients, normalisation, ignored and impossible labels."""

import numpy as np
import pytest

from caffelite import proto
from caffelite.errors import LayerError
from tests.engine.gradient_check import LayerRun, check_gradient

generator = np.random.default_rng(0)
SCORES = generator.normal(size=(3, 4, 2, 2))
LABELS = np.arange(12).reshape(3, 2, 2) * 5 % 4
ROWS = generator.normal(size=(6, 5))
CLASSES = generator.integers(0, 5, 6)
GAINS = generator.uniform(0, 1, (1, 1, 4, 4))


def softmax(x, axis=1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize("in_place", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_gradients(axis, in_place):
    run = check_gradient(f'type: "Softmax" softmax_param {{ axis: {axis} }}', [SCORES], in_place=in_place)
    np.testing.assert_allclose(run.forward()[0], softmax(SCORES, axis), rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    ["", "loss_weight: 0.3", "loss_param { ignore_label: 2 }", "loss_param { ignore_label: 7 normalization: FULL }"],
)
def test_softmax_loss_gradients(options):
    check_gradient(f'type: "SoftmaxWithLoss" {options}', [SCORES, LABELS], propagate_down=[True, False])


@pytest.mark.parametrize(
    ("options", "divisor"),
    [
        ("ignore_label: 2", lambda counted: counted),
        ("ignore_label: 2 normalization: VALID", lambda counted: counted),
        ("ignore_label: 2 normalization: FULL", lambda counted: 12),
        ("ignore_label: 2 normalization: BATCH_SIZE", lambda counted: 3),
        ("ignore_label: 2 normalization: NONE", lambda counted: 1),
        ("ignore_label: 2 normalize: true", lambda counted: counted),
        ("ignore_label: 2 normalize: false", lambda counted: 3),
        ("ignore_label: 2 normalize: false normalization: FULL", lambda counted: 12),
    ],
)
def test_normalisations(options, divisor):
    counted = (LABELS != 2).sum()
    assert 0 < counted < 12
    probabilities = np.take_along_axis(softmax(SCORES), LABELS[:, None], axis=1)[:, 0]
    expected = -np.log(probabilities)[LABELS != 2].sum() / divisor(counted)
    run = LayerRun(f'type: "SoftmaxWithLoss" loss_param {{ {options} }}', [SCORES, LABELS])
    np.testing.assert_allclose(run.forward()[0], expected, rtol=1e-6)
    assert run.top[0].shape == ()
    (dx, _), _ = run.backward([2.0], [True, False])
    one = np.moveaxis(np.eye(4)[LABELS], -1, 1)
    np.testing.assert_allclose(dx, (softmax(SCORES) - one) * (LABELS != 2)[:, None] * 2 / divisor(counted), atol=1e-6)


@pytest.mark.parametrize("label", [4, -1, 3e9, np.nan, np.inf])
@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "Accuracy"])
def test_labels_that_are_no_class(kind, label):
    labels = LABELS.astype(np.float32)
    labels[1, 0, 1] = label
    run = LayerRun(f'type: "{kind}"', [SCORES, labels])
    value = str(float(np.float32(label))).replace("+", r"\+")
    with pytest.raises(LayerError, match=rf"label {value} at position \(1, 0, 1\) .*from 0 to 3"):
        run.forward()


@pytest.mark.parametrize("kind", ["HingeLoss", "MultinomialLogisticLoss"])
def test_row_labels_that_are_no_class(kind):
    run = LayerRun(f'type: "{kind}"', [ROWS, [0, 1, 2, 5, 4, 0]])
    with pytest.raises(LayerError, match=r"label 5.0 at position \(3,\) .*from 0 to 4"):
        run.forward()


def test_labels_are_cut_to_integers():
    cut = LayerRun('type: "SoftmaxWithLoss"', [SCORES, LABELS + 0.9]).forward()
    assert cut == LayerRun('type: "SoftmaxWithLoss"', [SCORES, LABELS]).forward()


def test_nothing_counts():
    run = LayerRun('type: "SoftmaxWithLoss" loss_param { ignore_label: 9 }', [ROWS, np.full(6, 9)])
    assert run.forward()[0] == 0
    (dx, _), _ = run.backward([1.0], [True, False])
    assert not dx.any()
    run = LayerRun('type: "SoftmaxWithLoss"', [np.zeros((0, 5)), np.zeros(0)])
    assert run.forward()[0] == 0


def test_a_hopeless_score_costs_what_the_smallest_float_does():
    run = LayerRun('type: "SoftmaxWithLoss"', [[[0, 500]], [0]])
    np.testing.assert_allclose(run.forward()[0], -np.log(np.finfo(np.float32).tiny), rtol=1e-6)
    (dx, _), _ = run.backward([1.0], [True, False])
    assert dx.tolist() == [[-1, 1]]


@pytest.mark.parametrize("kind", ["SoftmaxWithLoss", "InfogainLoss", "HingeLoss", "MultinomialLogisticLoss"])
def test_labels_get_no_gradient(kind):
    inputs = [np.abs(ROWS), CLASSES, np.eye(5)][: 3 if kind == "InfogainLoss" else 2]
    run = LayerRun(f'type: "{kind}"', inputs)
    run.forward()
    assert not run.layer.allow_force_backward(1) and run.layer.allow_force_backward(0)
    with pytest.raises(LayerError, match="labels get no gradient"):
        run.backward([1.0])


@pytest.mark.parametrize("options", ["", "loss_param { ignore_label: 1 normalization: BATCH_SIZE }"])
def test_infogain_gradients(options):
    run = check_gradient(
        f'type: "InfogainLoss" {options} loss_weight: 1 loss_weight: 0',
        [SCORES, LABELS, GAINS],
        propagate_down=[True, False, False],
        tops=2,
    )
    np.testing.assert_allclose(run.forward()[1], softmax(SCORES), rtol=1e-5)


def test_infogain_of_the_identity_is_softmax_loss():
    infogain = LayerRun('type: "InfogainLoss"', [SCORES, LABELS, np.eye(4)]).forward()
    np.testing.assert_allclose(infogain, LayerRun('type: "SoftmaxWithLoss"', [SCORES, LABELS]).forward(), rtol=1e-6)


def test_gains_from_a_file(tmp_path):
    blob = proto.message("BlobProto")(num=1, channels=1, height=4, width=4, data=GAINS.ravel())
    proto.write_binary(tmp_path / "gains.binaryproto", blob)
    text = f'type: "InfogainLoss" infogain_loss_param {{ source: "{tmp_path / "gains.binaryproto"}" }}'
    from_file = LayerRun(text, [SCORES, LABELS])
    from_bottom = LayerRun('type: "InfogainLoss"', [SCORES, LABELS, GAINS])
    assert from_file.forward() == from_bottom.forward()
    first, second = from_file.backward([1.0], [True, False]), from_bottom.backward([1.0], [True, False, False])
    np.testing.assert_array_equal(first[0][0], second[0][0])
    with pytest.raises(LayerError, match="5 x 5 gains, actual 16"):
        LayerRun(text, [ROWS, CLASSES])


def test_multinomial_logistic_gradients():
    check_gradient('type: "MultinomialLogisticLoss"', [softmax(ROWS), CLASSES], propagate_down=[True, False], step=1e-3)


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_hinge_gradients(norm):
    text = f'type: "HingeLoss" hinge_loss_param {{ norm: {norm} }}'
    far = np.where(np.abs(np.abs(ROWS) - 1) < 0.05, 0.5, ROWS)
    run = check_gradient(text, [far, CLASSES], propagate_down=[True, False])
    signs = np.where(np.eye(5)[CLASSES] > 0, 1, -1)
    expected = (np.maximum(0, 1 - signs * far) ** {"L1": 1, "L2": 2}[norm]).sum() / 6
    np.testing.assert_allclose(run.forward()[0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        ('type: "SoftmaxWithLoss"', [ROWS, CLASSES[:5]], "same first dimension"),
        ('type: "SoftmaxWithLoss"', [SCORES, CLASSES[:3]], "one label per prediction: 12"),
        ('type: "SoftmaxWithLoss" softmax_param { axis: 4 }', [SCORES, LABELS], "axis 4 is out of range"),
        ('type: "InfogainLoss"', [SCORES, LABELS], "matrix of gains"),
        ('type: "InfogainLoss"', [SCORES, LABELS, np.eye(3)], "4 x 4 gains, actual 9"),
        ('type: "InfogainLoss" loss_param { normalize: true }', [SCORES, LABELS, GAINS], "normalization"),
        ('type: "HingeLoss"', [SCORES, LABELS], "one label per row"),
        ('type: "MultinomialLogisticLoss"', [SCORES, LABELS], "one label per row"),
        ('type: "Softmax" softmax_param { axis: -5 }', [SCORES], "axis -5 is out of range"),
    ],
)
def test_refusals(text, inputs, message):
    with pytest.raises(LayerError, match=message):
        LayerRun(text, inputs)
