"""Linear SVMs in the place of the softmax, as R-CNN has them (Fast R-CNN, section 4.6; train_svms.py).

Every class gets a linear SVM on the features that feed `cls_score`: positives are its ground-truth boxes, negatives
are mined over one pass through the training images, and what was learned so far says which are hard. The weights take
the place of those of `cls_score`; TEST.SVM makes the test use them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffelite import Net
from detection.config import cfg
from detection.datasets.image import read_image
from detection.errors import ConfigError, DatasetError
from detection.fast_rcnn.test import im_detect
from detection.progress import watched

logger = logging.getLogger("detection")


@dataclass(frozen=True)
class SvmOptions:
    """The authors' constants."""

    cost: float = 0.001
    """C: what a negative on the wrong side of its margin costs, per unit of score."""

    positive_weight: float = 2.0
    """A positive costs so many times more."""

    bias: float = 10.0
    """B: the constant feature whose weight makes the intercept; the larger, the less the intercept is regularised."""

    feature_norm: float = 20.0
    """Features are scaled to this mean norm ..."""

    scale_images: int = 100
    """... which is measured on so many images, drawn at random."""

    hard_score: float = -1.0001
    """A negative is hard if its score is above this."""

    negative_overlap: float = 0.3
    """A RoI is a negative of a class if its overlap with the objects of the class is below this."""

    retrain_after: int = 2000
    """A class's SVM is trained anew when more negatives than this have come."""

    evict_score: float = -1.1
    """After that, negatives with a score below this are forgotten."""


def linear_svm(
    features: np.ndarray,
    labels: np.ndarray,
    costs: np.ndarray,
    bias: float,
    seed: int = 3,
    tolerance: float = 1e-4,
    max_passes: int = 1000,
) -> tuple[np.ndarray, float, bool]:
    """Weights w (d,), intercept b of the linear SVM of features (n, d), and whether `tolerance` was reached.

    They minimise (|w|^2 + (b / bias)^2) / 2 + sum costs * max(0, 1 - labels * (features w + b)); labels (n,) are 1 or
    -1, costs (n,) positive. Dual coordinate descent with shrinking: Hsieh et al., ICML 2008, algorithm 3, as in
    liblinear, with its way of stopping.
    """
    rows = np.hstack((features, np.full((len(features), 1), bias))).astype(np.float64)
    rows *= labels[:, None]
    squares = np.einsum("ij,ij->i", rows, rows)
    alpha, w = np.zeros(len(rows)), np.zeros(rows.shape[1])
    random = np.random.RandomState(seed)
    active, highest, lowest = np.arange(len(rows)), np.inf, -np.inf
    for _ in range(max_passes):
        kept, most, least = [], -np.inf, np.inf
        for i in random.permutation(active):
            gradient = rows[i] @ w - 1
            if (alpha[i] == 0 and gradient > highest) or (alpha[i] == costs[i] and gradient < lowest):
                continue  # it will stay at its bound
            kept.append(i)
            projected = gradient
            if alpha[i] == 0:
                projected = min(gradient, 0)
            elif alpha[i] == costs[i]:
                projected = max(gradient, 0)
            most, least = max(most, projected), min(least, projected)
            if projected:
                new = min(max(alpha[i] - gradient / squares[i], 0), costs[i])
                w += (new - alpha[i]) * rows[i]
                alpha[i] = new
        if most - least <= tolerance:
            if len(kept) == len(rows):
                return w[:-1], w[-1] * bias, True
            active, highest, lowest = np.arange(len(rows)), np.inf, -np.inf  # were those left out left out rightly?
        else:
            active = np.array(kept)
            highest, lowest = most if most > 0 else np.inf, least if least < 0 else -np.inf
    return w[:-1], w[-1] * bias, False


class ClassSvm:
    """The SVM of one class: its positives, and the negatives that are hard so far.

    Features go in as the net makes them and are multiplied by `scale` inside; the weights that come out are for
    features as the net makes them.
    """

    def __init__(self, name: str, positives: np.ndarray, scale: float, options: SvmOptions):
        self.name, self.positives, self.scale, self.options = name, positives, scale, options
        self.negatives = np.empty((0, positives.shape[1]), np.float32)
        self.added: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> bool:
        """Take hard negatives (n, d); whether it is time to train."""
        self.added.append(features)
        return sum(map(len, self.added)) > self.options.retrain_after

    def train(self) -> tuple[np.ndarray, float]:
        """Weights (d,) and intercept from all there is; easy negatives are forgotten."""
        o = self.options
        self.negatives, self.added = np.vstack((self.negatives, *self.added)), []
        features = np.vstack((self.positives, self.negatives)) * np.float32(self.scale)
        labels = np.repeat([1.0, -1.0], [len(self.positives), len(self.negatives)])
        costs = np.where(labels > 0, o.cost * o.positive_weight, o.cost)
        w, b, converged = linear_svm(features, labels, costs, o.bias, cfg.RNG_SEED)
        if not converged:
            logger.warning("SVM of %s: not converged with %d examples", self.name, len(labels))
        scores = features[len(self.positives) :] @ w + b
        hard = scores >= o.evict_score
        if hard.any():
            self.negatives = self.negatives[hard]
        logger.debug("SVM of %s: %d positives, %d negatives kept", self.name, len(self.positives), len(self.negatives))
        return w * self.scale, b


class SvmTrainer:
    """Trains the SVMs of all classes on a test net with a softmax-trained model, and puts them into its `cls_score`.

    `entries` are roidb entries (detection.roi_data.roidb), mirror images among them if they are wanted; `classes` begin
    with the background. Raises ConfigError, DatasetError.
    """

    def __init__(
        self,
        net: Net,
        entries: Sequence[Mapping[str, Any]],
        classes: Sequence[str],
        options: SvmOptions = SvmOptions(),
    ):
        names = list(net.layer_dict)
        if "cls_score" not in names or net.layer_dict["cls_score"].type != "InnerProduct":
            raise ConfigError(f"{net.file}: expected an InnerProduct layer cls_score, whose weights the SVMs replace")
        if len(net.params["cls_score"]) != 2:
            raise ConfigError(f"{net.file}: layer 'cls_score': expected a bias: the SVMs' intercepts")
        self.net, self.classes, self.options = net, classes, options
        self.entries = [entry for entry in entries if len(entry["boxes"])]
        self.features = net.bottom_blobs[names.index("cls_score")][0]
        self.weights, self.intercepts = net.params["cls_score"]

    def train(self) -> list[ClassSvm]:
        """Train; returns the classes' SVMs, the background's left out. `cls_score` then holds them, zeros for the
        background."""
        with _options_for_mining():
            scale = self._feature_scale()
            self.weights.data[...] = 0
            self.intercepts.data[...] = 0
            svms = self._with_positives(scale)
            self._mine(svms)
            for c, svm in enumerate(svms, 1):
                self._train(c, svm)
        return svms

    def _forward(self, entry: Mapping[str, Any], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (R, K) and features (R, d) of these RoIs of an image."""
        image = read_image(entry["image"])
        if entry["flipped"]:
            image = np.ascontiguousarray(image[:, ::-1])
        scores, _ = im_detect(self.net, image, entry["boxes"][rows])
        return scores, self.features.read().reshape(len(rows), -1)

    def _feature_scale(self) -> float:
        """What makes the mean norm of the features `feature_norm`."""
        random = np.random.RandomState(cfg.RNG_SEED)
        count = min(self.options.scale_images, len(self.entries))
        total = rois = 0
        for i in watched(random.choice(len(self.entries), count, replace=False), count, "svm: feature norm"):
            _, features = self._forward(self.entries[i], np.arange(len(self.entries[i]["boxes"])))
            total += float(np.linalg.norm(features, axis=1).sum(dtype=np.float64))
            rois += len(features)
        if not total:
            raise DatasetError(f"{self.net.file}: the features of {count} images are all 0: an untrained net?")
        scale = self.options.feature_norm * rois / total
        logger.info("features of length %d, mean norm %.3g, scaled by %.3g", features.shape[1], total / rois, scale)
        return scale

    def _with_positives(self, scale: float) -> list[ClassSvm]:
        """The SVM of every class with its positives: the ground-truth boxes."""
        positives: list[list[np.ndarray]] = [[] for _ in self.classes]
        for entry in watched(self.entries, len(self.entries), "svm: positives"):
            rows = np.flatnonzero(entry["gt_classes"] > 0)
            if len(rows):
                _, features = self._forward(entry, rows)
                for c, feature in zip(entry["gt_classes"][rows], features):
                    positives[c].append(feature.copy())
        dimension = self.weights.shape[1]
        svms = [
            ClassSvm(name, np.array(found, np.float32).reshape(-1, dimension), scale, self.options)
            for name, found in zip(self.classes[1:], positives[1:])
        ]
        logger.info("positives: %s", ", ".join(f"{svm.name} {len(svm.positives)}" for svm in svms))
        return svms

    def _mine(self, svms: Sequence[ClassSvm]) -> None:
        """One pass over the images: hard negatives are collected and, when enough have come, an SVM trained anew."""
        o = self.options
        for entry in watched(self.entries, len(self.entries), "svm: hard negatives"):
            scores, features = self._forward(entry, np.arange(len(entry["boxes"])))
            example = entry["max_overlaps"] >= 0  # crowds are none
            for c, svm in enumerate(svms, 1):
                # the original knows a RoI's overlap with the object that it overlaps most, and no other
                overlaps = np.where(entry["max_classes"] == c, entry["max_overlaps"], 0)
                hard = (scores[:, c] > o.hard_score) & (overlaps < o.negative_overlap) & example
                if hard.any() and svm.add(features[hard]):
                    self._train(c, svm)

    def _train(self, c: int, svm: ClassSvm) -> None:
        self.weights.data[c], self.intercepts.data[c] = svm.train()


@contextmanager
def _options_for_mining() -> Iterator[None]:
    """Every RoI has a row of its own in the net's blobs, and the scores are those of `cls_score`."""
    saved = cfg.DEDUP_BOXES, cfg.TEST.SVM, cfg.TEST.BBOX_REG
    cfg.DEDUP_BOXES, cfg.TEST.SVM, cfg.TEST.BBOX_REG = 0.0, True, False
    try:
        yield
    finally:
        cfg.DEDUP_BOXES, cfg.TEST.SVM, cfg.TEST.BBOX_REG = saved
