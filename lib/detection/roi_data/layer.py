"""The data layer of Fast R-CNN training (roi_data_layer/layer.py)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import yaml

from caffelite.backend.prefetch import Prefetcher, in_turn
from caffelite.layer import Layer
from detection import plain_yaml
from detection.config import cfg
from detection.prefetch import prefetcher
from detection.roi_data.minibatch import DrawnImage, MinibatchSampler, Roidb, drawn_images, minibatch_blobs


def load_minibatch(
    num_classes: int, outside_weights: bool, drawn: Sequence[DrawnImage]
) -> tuple[list[np.ndarray], list[str]]:
    """The arrays for a RoIDataLayer's tops, and the names of the images. Raises DatasetError."""
    blobs = minibatch_blobs(drawn, num_classes)
    arrays = list(blobs.values())
    if outside_weights:
        arrays.append(blobs["bbox_loss_weights"] > 0)
    return arrays, [one.image for one in drawn]


class RoIDataLayer(Layer):
    """Minibatches of a roidb: images, RoIs, labels and box targets.

    Tops, by position: data (N, 3, H, W); rois (R, 5): image of the batch, x1, y1, x2, y2 in pixels of `data`; labels
    (R,); and with TRAIN.BBOX_REG bbox_targets (R, 4 * num_classes) and bbox_loss_weights (the same shape; PFRCN's
    inside weights), and if there is a sixth top, PFRCN's outside weights. `param_str` is YAML with `num_classes`.
    Images are read ahead by threads or other processes, but all draws are made here, in order: the minibatches are the
    same either way.
    """

    exact_bottoms = 0

    def setup(self, bottom, top):
        try:
            options = plain_yaml.load(self.param_str)
            self.num_classes = int(options["num_classes"])
        except (yaml.YAMLError, KeyError, TypeError, ValueError):
            raise self.error(f"expected param_str: \"'num_classes': N\", actual {self.param_str!r}") from None
        self.expect(
            "gt_boxes" not in self.param.top,
            "the top gt_boxes is that of Faster R-CNN's data layer, which is not here yet: expected Fast R-CNN's data, "
            "rois, labels, bbox_targets and bbox_loss_weights",
        )
        counts = (5, 6) if cfg.TRAIN.BBOX_REG else (3,)
        self.expect(
            len(top) in counts,
            f"TRAIN.BBOX_REG is {cfg.TRAIN.BBOX_REG}: expected {' or '.join(map(str, counts))} tops, actual {len(top)}",
        )
        # until the first minibatch: an image that every net can take, as in the original
        for blob, shape in zip(top, ((1, 3, 100, 100), (1, 5), (1,), *[(1, 4 * self.num_classes)] * 3)):
            blob.reshape(*shape)
        self.sampler: MinibatchSampler | None = None
        self.last_images: list[str] = []
        self._source: Iterator | None = None

    def set_roidb(self, roidb: Roidb) -> None:
        """Draw from this roidb from now on, seeded with RNG_SEED: the first epoch's order is drawn here."""
        self.close()
        self.sampler = MinibatchSampler(roidb, cfg.RNG_SEED)
        self._state = self.sampler.get_state()

    def _drawn(self) -> Iterator[tuple[list[DrawnImage], dict[str, np.ndarray]]]:
        """Minibatches, and the state after each."""
        while True:
            drawn = drawn_images(self.sampler.roidb, self.sampler.draw())
            yield drawn, self.sampler.get_state()

    def get_state(self) -> dict[str, np.ndarray]:
        """What decides the minibatches after the last one that `forward` gave out, whatever was read ahead."""
        return self._state

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from a state of `get_state`."""
        self.close()
        self.sampler.set_state(state)
        self._state = self.sampler.get_state()

    def read_ahead(self) -> None:
        """Draw minibatches to come and have them read, which the next `forward` does else, when a GPU waits for it."""
        if isinstance(self._source, Prefetcher):
            try:
                self._source.fill()
            except KeyboardInterrupt:  # in the middle of anything: the next `forward` begins anew
                self.close()
                raise

    @property
    def readers(self) -> str | None:
        """What reads images ahead, e.g. "7 processes"; None where nothing does."""
        return self._source.workers if isinstance(self._source, Prefetcher) else None

    def close(self) -> None:
        """Stop reading ahead; the next `forward` starts it again where the last one ended."""
        if isinstance(self._source, Prefetcher):
            self._source.close()
        if self._source:
            self.sampler.set_state(self._state)
        self._source = None

    def reshape(self, bottom, top):
        pass

    def forward(self, bottom, top):
        self.expect(
            self.sampler is not None,
            "there is no roidb: tools/train_net.py trains such a net on a data set (in a program: "
            "net.layers[i].set_roidb(roidb) before the first pass)",
        )
        if self._source is None:
            load = functools.partial(load_minibatch, self.num_classes, len(self.param.top) == 6)
            self._source = (prefetcher if cfg.TRAIN.USE_PREFETCH else in_turn)(load, self._drawn())
        try:
            staged, self.last_images, self._state = next(self._source)
        except KeyboardInterrupt:
            self.close()
            raise
        with staged as batch:
            for blob, values in zip(top, batch):
                blob.put(*values)
