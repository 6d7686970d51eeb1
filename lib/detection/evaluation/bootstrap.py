"""The band of chance: how far mAP would move with other test images of the same kind."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from detection.evaluation.voc import ClassResult, Evaluation

REPLICATES = 1000
SEED = 3
LEVEL = 0.95

_CELLS = 4_000_000  # numbers held at once for a class


@dataclass(frozen=True)
class Band:
    """An interval (low, high) of mAP and of every class's AP, and the standard deviation of the replicates' mAP."""

    low: float
    high: float
    deviation: float
    classes: dict[str, tuple[float, float]]
    level: float
    replicates: int
    seed: int


def band(evaluation: Evaluation, replicates: int = REPLICATES, seed: int = SEED, level: float = LEVEL) -> Band | None:
    """The percentile interval of a bootstrap over the test images (Efron): as many images are drawn with replacement,
    again and again, and mAP is measured on each draw; which detection is true does not change by it.

    A class without objects in a draw is left out of that draw's mean, and a draw without any object is drawn in vain.
    None where no class has objects.
    """
    results = [result for result in evaluation.classes if result.objects]
    if not results:
        return None
    images = evaluation.images
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=replicates)
    aps = np.array([resampled_ap(result, weights, evaluation.use_07_metric) for result in results])
    aps = aps[:, ~np.isnan(aps).all(axis=0)]
    means = np.nanmean(aps, axis=0)
    limits = (50 * (1 - level), 50 * (1 + level))
    low, high = np.percentile(means, limits)
    classes = {result.name: tuple(np.nanpercentile(ap, limits).tolist()) for result, ap in zip(results, aps)}
    return Band(float(low), float(high), float(means.std(ddof=1)), classes, level, replicates, seed)


def resampled_ap(result: ClassResult, weights: np.ndarray, use_07_metric: bool) -> np.ndarray:
    """AP of a class on every draw, (R,), nan where it has no objects: `weights` (R, N) says how often each image is in
    each draw."""
    objects = weights @ result.objects_in_images
    hits = np.flatnonzero(result.true)
    if not len(hits):
        return np.where(objects > 0, 0.0, np.nan)
    # precision has its peaks at true detections, so that only the sums between them are needed
    false = np.flatnonzero(result.false[: hits[-1]])
    places = np.searchsorted(hits, false), result.images[false]
    false_before = csr_matrix((np.ones(len(false)), places), shape=(len(hits), weights.shape[1]))
    step = max(1, _CELLS // len(hits))
    parts = [weights[start : start + step] for start in range(0, len(weights), step)]
    aps = []
    for part, total in zip(parts, np.split(objects, range(step, len(objects), step))):
        true_positives = part[:, result.images[hits]].cumsum(axis=1)
        false_positives = (false_before @ part.T).T.cumsum(axis=1)
        precision = true_positives / np.maximum(true_positives + false_positives, 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        with np.errstate(invalid="ignore"):  # 0 / 0: no objects in the draw
            recall = true_positives / total[:, None]
        aps.append(_eleven_points(recall, envelope) if use_07_metric else _area(recall, envelope))
    return np.where(objects > 0, np.concatenate(aps), np.nan)


def _eleven_points(recall: np.ndarray, envelope: np.ndarray) -> np.ndarray:
    padded = np.concatenate([envelope, np.zeros((len(envelope), 1))], axis=1)
    rows = np.arange(len(envelope))
    return sum(padded[rows, (recall < point).sum(axis=1)] for point in np.arange(11) * 0.1) / 11


def _area(recall: np.ndarray, envelope: np.ndarray) -> np.ndarray:
    return (np.diff(recall, axis=1, prepend=0.0) * envelope).sum(axis=1)
