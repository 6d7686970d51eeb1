"""The nets of a row: a stage's to train, and the one that is tested, for the classes of its data and at its scale."""

from __future__ import annotations

from detection.experiments.scale_down import ScaleDown
from detection.experiments.study import Row, Stage
from detection.fast_rcnn.classes import fit_classes
from detection.models import build


def train_net(row: Row, stage: Stage, num_classes: int, scale: ScaleDown | None):
    """The NetParameter that a stage trains; `num_classes` with the background."""
    return _fitted(build.train_net(row.model, stage.variant), num_classes, scale)


def test_net(row: Row, num_classes: int, scale: ScaleDown | None):
    """The NetParameter that the row's last stage is tested with, before it is compressed."""
    variant = row.stages[-1].variant
    return _fitted(build.test_net(row.model, variant if variant.own_test else build.DEFAULT), num_classes, scale)


def _fitted(net, num_classes: int, scale: ScaleDown | None):
    fit_classes(net, num_classes)
    if scale:
        scale.net(net)
    return net
