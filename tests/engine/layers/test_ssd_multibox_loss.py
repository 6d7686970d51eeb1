"""MultiBoxLoss: small cases by hand, gradients against differences, and what it refuses."""

import numpy as np
import pytest

from caffelite.errors import LayerError
from caffelite.layers.ssd.ground_truth import read
from tests.engine.gradient_check import LayerRun, check_gradient

DOWN = [True, True, False, False]
GRID = np.stack(np.meshgrid(np.arange(4), np.arange(4)), -1).reshape(-1, 2) / 4
PRIORS = np.concatenate([GRID, GRID + 0.25], 1)  # 16 boxes that tile the image
VARIANCES = np.tile([0.1, 0.1, 0.2, 0.2], (16, 1))
PRIOR = np.stack([PRIORS, VARIANCES]).reshape(1, 2, -1)
# image, label, instance, box, difficult
OBJECTS = [
    [0, 1, 0, 0.02, 0.03, 0.24, 0.27, 0],
    [0, 2, 1, 0.45, 0.55, 0.80, 0.78, 0],
    [1, 2, 0, 0.26, 0.01, 0.52, 0.26, 1],
]


def text(options="", layer="", classes=3):
    return f'type: "MultiBoxLoss" multibox_loss_param {{ num_classes: {classes} {options} }} {layer}'


def inputs(objects=OBJECTS, images=2, classes=3, location_classes=1, seed=0, prior=PRIOR):
    generator = np.random.default_rng(seed)
    priors = prior.shape[2] // 4
    return [
        generator.normal(0, 0.3, (images, priors * location_classes * 4)),
        generator.normal(0, 1, (images, priors * classes)),
        prior,
        np.array(objects, np.float32).reshape(1, 1, -1, 8),
    ]


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def matched(options="", values=None):
    """(image, prior) of the priors that a forward pass matches."""
    run = LayerRun(text(options), values or inputs())
    run.forward()
    image, _, prior = run.layer.matched
    return list(zip(image.tolist(), prior.tolist()))


def counted(run):
    """The rows of scores that count in the loss."""
    return np.flatnonzero(run.layer.rows >= 0).tolist()


def test_loss_by_hand():
    """One object that coincides with a prior: smooth L1 of the prediction itself, cross entropy of 1 + 3 priors."""
    objects = [[0, 2, 0, *PRIORS[5], 0]]
    values = inputs(objects, images=1)
    values[0][0, 20:24] = 0.5, -2, 0.1, 0
    probability = softmax(values[1].reshape(16, 3))
    background = -np.log(np.delete(probability[:, 0], 5))
    confidence = -np.log(probability[5, 2]) + np.sort(background)[-3:].sum()
    location = 0.125 + 1.5 + 0.005
    (loss,) = LayerRun(text("code_type: CENTER_SIZE"), values).forward()
    np.testing.assert_allclose(loss, confidence + location, rtol=1e-5)
    (loss,) = LayerRun(text("code_type: CENTER_SIZE loc_weight: 3 loc_loss_type: L2"), values).forward()
    np.testing.assert_allclose(loss, confidence + 1.5 * (0.25 + 4 + 0.01), rtol=1e-5)
    (loss,) = LayerRun(text("code_type: CENTER_SIZE", "propagate_down: [false, true, false, false]"), values).forward()
    np.testing.assert_allclose(loss, confidence, rtol=1e-5)


def test_only_the_selected_priors_get_a_gradient():
    values = inputs([[0, 2, 0, *PRIORS[5], 0]], images=2)
    run = LayerRun(text("neg_pos_ratio: 2.6"), values)
    run.forward()
    (location, confidence, _, _), _ = run.backward([1.0], DOWN)
    assert np.flatnonzero(location[0].reshape(16, 4).any(1)).tolist() == [5]
    chosen = np.flatnonzero(confidence[0].reshape(16, 3).any(1))
    hardest = np.argsort(np.delete(softmax(values[1][0].reshape(16, 3))[:, 0], 5))[:2]
    assert set(chosen) == {5, *(hardest + (hardest >= 5))}
    assert not location[1].any() and not confidence[1].any()  # no ground truth, no negatives


@pytest.mark.parametrize(
    ("layer", "divisor"),
    [
        ("", 3),
        ("loss_param { normalization: FULL }", 32),
        ("loss_param { normalization: BATCH_SIZE }", 2),
        ("loss_param { normalization: NONE }", 1),
        ("loss_param { normalize: false }", 2),
        ("loss_param { normalize: true }", 3),
        ("loss_param { normalize: true normalization: NONE }", 1),
    ],
)
def test_normalization(layer, divisor):
    (loss,) = LayerRun(text("match_type: BIPARTITE", layer), inputs()).forward()
    (total,) = LayerRun(text("match_type: BIPARTITE", "loss_param { normalization: NONE }"), inputs()).forward()
    np.testing.assert_allclose(loss * divisor, total, rtol=1e-6)


def test_no_ground_truth_no_loss_no_gradient():
    run = LayerRun(text(), inputs([[-1] * 8]))
    assert run.forward()[0] == 0
    (location, confidence, _, _), _ = run.backward([1.0], DOWN)
    assert not location.any() and not confidence.any()


def test_kinds_of_matching():
    assert matched("match_type: BIPARTITE") == [(0, 0), (0, 10), (1, 1)]
    assert matched("overlap_threshold: 0.05") == [(0, 0), (0, 9), (0, 10), (0, 11), (0, 14), (1, 1)]
    assert matched("match_type: BIPARTITE use_difficult_gt: false") == [(0, 0), (0, 10)]
    shifted = PRIOR.copy()
    shifted[0, 0] -= 0.005  # the priors of the first row and column now leave the image
    options = "match_type: BIPARTITE ignore_cross_boundary_bbox: true"
    assert matched(options, inputs(prior=shifted)) == [(0, 10), (1, 5)]


def test_predictions_can_be_matched_instead_of_priors():
    values = inputs([[0, 1, 0, *PRIORS[5], 0]], images=1)
    values[0][...] = 0
    values[0][0, 12:16] = (PRIORS[5] - PRIORS[3]) / VARIANCES[3]
    values[0][0, 20:24] = (PRIORS[3] - PRIORS[5]) / VARIANCES[5]
    assert matched("use_prior_for_matching: false match_type: BIPARTITE", values) == [(0, 3)]
    diverged = [values[0].copy(), *values[1:]]
    diverged[0][0, 12:16] = np.nan
    assert (0, 3) not in matched("use_prior_for_matching: false", diverged)


def test_hard_examples_drop_easy_matches():
    values = inputs([[0, 1, 0, *PRIORS[5], 0], [0, 2, 0, *PRIORS[9], 0]], images=1)
    values[1][...] = 0
    scores = values[1].reshape(16, 3)
    scores[5, 1] = 20  # a perfect prediction
    values[0].reshape(16, 4)[5] = 0
    scores[7, 2] = 9  # a false alarm
    options = "mining_type: HARD_EXAMPLE sample_size: 2"
    run = LayerRun(text(options), values)
    run.forward()
    assert run.layer.matched[2].tolist() == [9]
    assert counted(run) == [7, 9]
    near = "nms_param { nms_threshold: 0.1 top_k: 16 } use_prior_for_nms: true"
    overlapping = PRIOR.copy()
    overlapping[0, 0, 9 * 4 : 10 * 4] = PRIORS[7] + 0.02
    run = LayerRun(text(f"{options} {near}"), [*values[:2], overlapping, values[3]])
    run.forward()
    assert 9 not in counted(run)


def test_a_diverged_confidence_shows_in_the_loss():
    values = inputs()
    values[1][0, 7 * 3] = np.nan
    assert np.isnan(LayerRun(text(), values).forward()[0])


@pytest.mark.parametrize(
    "options",
    [
        "",
        "code_type: CENTER_SIZE",
        "code_type: CORNER_SIZE loc_loss_type: L2 loc_weight: 0.5",
        "overlap_threshold: 0.2 neg_pos_ratio: 1.5",
        "mining_type: NONE conf_loss_type: LOGISTIC",
        "mining_type: NONE background_label_id: 0 share_location: false",
        "conf_loss_type: LOGISTIC code_type: CENTER_SIZE",
        "mining_type: HARD_EXAMPLE sample_size: 6 code_type: CENTER_SIZE",
        "bp_inside: true code_type: CENTER_SIZE",
    ],
)
def test_gradient(options):
    location_classes = 3 if "share_location: false" in options else 1
    step = 1e-3 if "NONE" not in options else 1e-2  # mined sets change at once
    check_gradient(
        text(options, "loss_weight: 0.7"),
        inputs(location_classes=location_classes, seed=3),
        propagate_down=DOWN,
        step=step,
        tolerance=4e-3,
    )


def test_gradient_that_is_not_asked_for_is_left_alone():
    run = LayerRun(text(), inputs())
    run.forward()
    run.top[0].diff[...] = 1
    run.layer.backward(run.top, [False, True, False, False], run.bottom)
    assert not run.bottom[0].diff_memory.allocated


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("do_neg_mining: false", "contradicts mining_type"),
        ("share_location: false", "mining needs share_location"),
        ("background_label_id: 3", "background_label_id below num_classes"),
        ("neg_pos_ratio: inf", "finite neg_pos_ratio"),
        ("mining_type: HARD_EXAMPLE sample_size: 0", "positive sample_size"),
        ("map_object_to_agnostic: true", "map_object_to_agnostic needs num_classes: 2"),
        ("mining_type: NONE share_location: false", "16 priors \\* 12 = 192 location predictions"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(LayerError, match=message):
        LayerRun(text(options), inputs())


def test_num_classes_must_fit():
    with pytest.raises(LayerError, match="at least 1 class"):
        LayerRun(text(classes=0), inputs())
    with pytest.raises(LayerError, match="16 priors \\* 4 = 64 confidence predictions"):
        LayerRun(text(classes=4), inputs())


def test_missing_num_classes():
    with pytest.raises(LayerError, match="expected num_classes"):
        LayerRun('type: "MultiBoxLoss"', inputs())


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (3, 64), "as many images"),
        (0, (2, 60), "location predictions"),
        (1, (2, 49), "confidence predictions"),
        (2, (1, 1, 64), "expected priors of shape"),
        (2, (1, 2, 62), "expected priors of shape"),
        (3, (1, 1, 3, 7), "ground truth of shape"),
        (3, (3, 8), "ground truth of shape"),
    ],
)
def test_refused_shapes(index, shape, message):
    values = inputs()
    values[index] = np.zeros(shape)
    with pytest.raises(LayerError, match=message):
        LayerRun(text(), values)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 0, 0, 0.1, 0.1, 0.4, 0.4, 0], "background label 0"),
        ([0, 3, 0, 0.1, 0.1, 0.4, 0.4, 0], "actual 3"),
        ([0, -2, 0, 0.1, 0.1, 0.4, 0.4, 0], "actual -2"),
        ([2, 1, 0, 0.1, 0.1, 0.4, 0.4, 0], "item ids from 0 to 1"),
        ([0, 1, 0, 0.1, np.nan, 0.4, 0.4, 0], "finite ground truth"),
        ([0, 1, 0, 0.1, 0.1, np.inf, 0.4, 0], "finite ground truth"),
    ],
)
def test_refused_ground_truth(row, message):
    run = LayerRun(text(), inputs([*OBJECTS, row]))
    with pytest.raises(LayerError, match=message):
        run.forward()


def test_refused_priors_and_gradients():
    broken = PRIOR.copy()
    broken[0, 0, 3] = np.nan
    with pytest.raises(LayerError, match="finite priors"):
        LayerRun(text(), inputs(prior=broken)).forward()
    broken = PRIOR.copy()
    broken[0, 1, 0] = 0
    with pytest.raises(LayerError, match="positive variances"):
        LayerRun(text(), inputs(prior=broken)).forward()
    run = LayerRun(text(), inputs())
    run.forward()
    with pytest.raises(LayerError, match="no gradient of priors"):
        run.backward([1.0], [True] * 4)


def test_rows_of_item_id_minus_one_do_not_count_wherever_they_stand():
    rows = np.array([[-1] * 8, OBJECTS[0], [-1] * 8, OBJECTS[2]], np.float32)
    truth = read(rows, background=0, classes=3)
    assert truth.images.tolist() == [0, 1] and truth.labels.tolist() == [1, 2]
    assert truth.difficult.tolist() == [False, True]


def test_deprecated_flag_is_said(caplog):
    with caplog.at_level("WARNING", "caffelite"):
        LayerRun(text("do_neg_mining: true"), inputs())
    assert "do_neg_mining is deprecated" in caplog.text
