"""Confidence and location losses of MultiBoxLoss, per row, with their derivatives."""

from __future__ import annotations

import numpy as np

from caffelite.layers.ssd.boxes import FLT_MIN, exp, log


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities, [classes, N], of scores [N, classes]: summed class by class, in the order of the original."""
    result = np.ascontiguousarray(scores.T)
    result = exp(result - result.max(0))
    result /= result.sum(0)
    return result


def softmax_loss(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-log of the probability of each row's label: (losses [N], derivative [N, classes])."""
    probability = softmax(scores)
    rows = np.arange(len(labels))
    losses = -log(np.maximum(probability[labels, rows], FLT_MIN))
    probability[labels, rows] -= 1
    return losses, probability.T


def logistic_loss(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sigmoid cross entropy summed over classes: (losses [N], derivative [N, classes])."""
    exponential = np.exp(-np.abs(scores))
    losses = np.log1p(exponential) - scores * (targets - (scores >= 0))
    sigmoid = np.where(scores >= 0, 1, exponential) / (1 + exponential)
    return losses.sum(1), sigmoid - targets


def smooth_l1(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """0.5 d^2 where |d| < 1, else |d| - 0.5: (losses, derivative), both in the shape of d."""
    size = np.abs(difference)
    losses = np.where(size < 1, 0.5 * difference * difference, size - 0.5)
    return losses, np.clip(difference, -1, 1)


def half_square(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """0.5 d^2: (losses, derivative), both in the shape of d."""
    return 0.5 * difference * difference, difference


def location(param):
    """The location loss that a MultiBoxLossParameter asks for."""
    return smooth_l1 if param.loc_loss_type == param.SMOOTH_L1 else half_square


def confidence(param, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The confidence losses [N] by which a MultiBoxLossParameter ranks priors with these scores and labels."""
    if param.conf_loss_type == param.SOFTMAX:
        return softmax_loss(scores, labels)[0]
    targets = np.zeros_like(scores)
    targets[np.arange(len(labels)), labels] = 1
    return logistic_loss(scores, targets)[0]
