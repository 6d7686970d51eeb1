"""The whole way of an experiment in minutes: generated images, few iterations, thin nets, random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detection.datasets import shapes
from detection.experiments.study import Row
from detection.models.files import merge_options

SIBLINGS = ("cls_score", "bbox_pred")
PIXEL_SPREAD = 60
"""About the standard deviation of an image's values once their mean is subtracted."""


@dataclass(frozen=True)
class ScaleDown:
    """How much smaller everything is.

    `images` of each generated set, the shorter `side` of the image at its smallest scale in pixels, `iterations` of a
    stage, `rois` of a minibatch, `proposals` of an image where the row has 2000, `width`: most outputs of a fully
    connected layer.
    """

    images: int = 8
    side: int = 96
    iterations: int = 20
    rois: int = 32
    proposals: int = 100
    width: int = 256

    def __str__(self) -> str:
        return (
            f"{self.images} generated images to learn from and {self.images} to test, shorter side "
            f"{self.side} pixels, {self.iterations} iterations, {self.rois} RoIs per minibatch, about {self.proposals} "
            f"proposals per image, fully connected layers of at most {self.width}, random weights: it shows that the "
            "pipeline runs, its numbers mean nothing"
        )

    def row(self, row: Row, output: Path) -> Row:
        """The row made small; its data set is generated below `output`."""
        folder = output / f"shapes_{self.images}"
        shapes.make(folder, shapes.ShapesOptions(train=self.images, test=self.images))
        classes = ",".join(shapes.CLASSES)
        options = row.configured(row.stages[-1])
        factor = min(1.0, self.side / min(options.TRAIN.SCALES))
        asked = options.PROPOSALS
        few = {"MAX_PROPOSALS": self._share(asked.MAX_PROPOSALS or 2000), "ADD_DENSE": self._share(asked.ADD_DENSE)}
        train = self._scales(options.TRAIN, factor) | {"BATCH_SIZE": self.rois, "SNAPSHOT_ITERS": self.iterations}
        small = {"TRAIN": train, "TEST": self._scales(options.TEST, factor), "PROPOSALS": few}
        return replace(
            row.shortened(self.iterations),
            train=f"{folder}:train:{classes}",
            test=f"{folder}:test:{classes}",
            weights=None,
            proposals="search",
            options=merge_options(row.options, small),
            svd={layer: max(1, min(rank, self.width) // 4) for layer, rank in row.svd.items()},
        )

    def _share(self, count: int) -> int:
        return round(count * self.proposals / 2000)

    @staticmethod
    def _scales(options, factor: float) -> dict[str, Any]:
        scales = [max(1, round(scale * factor)) for scale in options.SCALES]
        return {"SCALES": scales, "MAX_SIZE": max(1, round(options.MAX_SIZE * factor))}

    def net(self, definition) -> None:
        """Make a NetParameter's fully connected layers thin and let its layers begin with random weights, in place."""
        for layer in definition.layer:
            param = {"Convolution": layer.convolution_param, "InnerProduct": layer.inner_product_param}.get(layer.type)
            if param is None or layer.name in SIBLINGS:
                continue
            if layer.type == "InnerProduct":
                param.num_output = min(param.num_output, self.width)
            if not param.HasField("weight_filler"):
                param.weight_filler.MergeFrom(type(param.weight_filler)(**_filler(layer, param)))


def _filler(layer, param) -> Mapping[str, Any]:
    """He's filler; where a layer sees the image itself, one that brings its values to about 1."""
    if layer.bottom[0] != "data":
        return {"type": "msra"}
    inputs = 3 * param.kernel_size[0] ** 2
    return {"type": "gaussian", "std": (2 / inputs) ** 0.5 / PIXEL_SPREAD}
