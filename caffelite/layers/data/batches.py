"""What the data layers have in common: batches in order, loaded ahead, and images stacked to batches."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import os
import weakref
from collections.abc import Iterator

import numpy as np

from caffelite.backend import random, transfer
from caffelite.backend.prefetch import Load, Prefetcher
from caffelite.blob import Blob
from caffelite.layer import PassState
from caffelite.layers.data.transform import Transform
from caffelite.layers.input import Source
from caffelite.proto import message

log = logging.getLogger("caffelite")


class Epochs:
    """Positions in an endless run through `count` items -> the item; with a stream, each epoch in an order of its own.

    `stream` is (seed, words...) as for `random.generator`.
    """

    def __init__(self, count: int, stream: tuple | None = None):
        self.count, self.stream = count, stream
        self._epoch, self._order = -1, None

    def __getitem__(self, position: int) -> int:
        epoch, place = divmod(position, self.count)
        if self.stream is None:
            return place
        if epoch != self._epoch:
            self._epoch, self._order = epoch, random.generator(*self.stream, epoch).permutation(self.count)
        return int(self._order[place])


class Batches(Source):
    """Tops that get a new batch in every pass.

    Batch k is a function of k, the seed and the files. Which batch a pass gets follows from its number in the run,
    which a solver restores: training resumes with the batches it would have had. A thread loads `ahead` batches before
    they are asked for, or, where `elsewhere` says how, processes beside a GPU; they end with the layer.
    """

    ahead = 4

    def setup(self, bottom, top):
        self._batch, self._lead = -1, 0
        self._following: int | None = None  # number of the batch that the prefetcher gives next
        self._prefetcher: Prefetcher | None = None

    def load(self, batch: int) -> list[np.ndarray]:
        """The arrays of batch number `batch` for the tops. Runs on a thread, one batch at a time."""
        raise NotImplementedError

    def elsewhere(self) -> Load | None:
        """What loads batches in other processes, if it is worth it."""
        return None

    def forward(self, bottom, top):
        number = self.pass_state.number + self._lead
        if number == self._batch:  # the pass before did not reach the net's end: this is one more
            self._lead += 1
            number += 1
        self._batch = number
        if self._prefetcher is None:
            load = functools.partial(_load, weakref.WeakMethod(self.load))  # which does not keep the layer
            size = transfer.room([blob.shape for blob in top])
            self._prefetcher = Prefetcher(load, _from(number), 1, self.elsewhere(), self.ahead, size)
        elif number != self._following:
            self._prefetcher.restart(_from(number))
        self._following = None  # until the batch is here: whatever comes between, the next pass asks for its own
        try:
            staged = next(self._prefetcher)[0]
        except KeyboardInterrupt:
            self._prefetcher.close()
            self._prefetcher = None
            raise
        self._following = number + 1
        with staged as batch:
            for blob, values in zip(top, batch):
                blob.put(*values)

    def get_state(self) -> dict[str, int]:
        """Where the layer stands: {"cursor": number of the next batch}."""
        return {"cursor": self._batch + 1}

    def set_state(self, state: dict[str, int]) -> None:
        """Go on with batch state["cursor"] in the next pass."""
        self._batch = state["cursor"] - 1
        self._lead = state["cursor"] - self.pass_state.number

    def generator(self, batch: int) -> np.random.Generator:
        """The random numbers of a batch: the same whatever ran before."""
        return random.generator(self.pass_state.seed, self.name, "batch", batch)

    def check_batch_size(self, param) -> int:
        """The batch_size of a parameter message, held to be positive."""
        self.expect(param.batch_size > 0, f"expected a batch_size of at least 1, actual {param.batch_size}")
        return param.batch_size

    def first_position(self, rand_skip: int) -> int:
        """How many items to leave out at the start: a random number below rand_skip."""
        if not rand_skip:
            return 0
        return int(random.generator(self.pass_state.seed, self.name, "skip").integers(rand_skip))


def _load(load: weakref.WeakMethod, number: int) -> tuple[list[np.ndarray], None]:
    return load()(number), None


def _from(number: int) -> Iterator[tuple[int, None]]:
    return ((k, None) for k in itertools.count(number))


class ImageBatches(Batches):
    """Batches of images and their labels; a subclass says what an item is."""

    def elsewhere(self):
        if not type(self).__module__.startswith("caffelite."):
            return None  # a program's own class, of which another process need not know all
        described = type(self), self.param.SerializeToString(), self.phase, self.pass_state.seed, self.where
        return functools.partial(_load_elsewhere, self.folder, *described)

    def begin(self, top, param) -> None:
        """Read the parameters that all have, and shape the tops by the first item."""
        self.folder = "/"
        with contextlib.suppress(OSError):  # it may have been removed
            self.folder = os.getcwd()  # from which paths have been found
        self.batch_size = self.check_batch_size(param)
        unused = [name for name in ("scale", "mean_file", "crop_size", "mirror") if param.HasField(name)]
        if unused:
            log.warning("layer %r: %s: no effect outside of transform_param, as in Caffe", self.name, ", ".join(unused))
        self.transform = Transform(self.param.transform_param, self.phase)
        self.skip = self.first_position(param.rand_skip)
        _, image, label = self.item(self.skip, self.generator(0))
        self.give_shape(top[0], (self.batch_size, *image.shape))
        if len(top) > 1:
            top[1].reshape(*self.label_shape(label))

    def item(self, position: int, generator: np.random.Generator) -> tuple[str, np.ndarray, object]:
        """Name, image (channels, height, width) float32 and label at a position in the endless run through the data."""
        raise NotImplementedError

    def label_shape(self, label) -> tuple[int, ...]:
        """The shape of the second top where all labels of a batch are like this one."""
        return (self.batch_size,)

    def label_array(self, labels: list) -> np.ndarray:
        """The second top of a batch's labels: here one number per image."""
        return np.array(labels, np.float32)

    def load(self, batch):
        labels: list = []
        data = self._stack(self._items(batch, labels))
        return [data, self.label_array(labels)]

    def _items(self, batch: int, labels: list) -> Iterator[tuple[str, np.ndarray]]:
        generator = self.generator(batch)
        start = self.skip + batch * self.batch_size
        for position in range(start, start + self.batch_size):
            name, image, label = self.item(position, generator)
            labels.append(label)
            yield name, image

    def _stack(self, images: Iterator[tuple[str, np.ndarray]]) -> np.ndarray:
        data = None
        for i, (name, image) in enumerate(images):
            if data is None:
                data = np.empty((self.batch_size, *image.shape), np.float32)
            self.expect(
                image.shape == data.shape[1:],
                f"{name}: expected an image of shape {data.shape[1:]} like the first of its batch, actual "
                f"{image.shape}; give new sizes or a crop_size, or a batch_size of 1",
            )
            data[i] = image
        return data


def _load_elsewhere(*described_and_number) -> tuple[list[np.ndarray], None]:
    *described, number = described_and_number
    return _twin(*described).load(number), None


@functools.lru_cache(1)
def _twin(folder: str, kind: type[ImageBatches], param: bytes, phase: int, seed: int, where: str) -> ImageBatches:
    """A layer that loads the same batches as the one that is described, in another process."""
    with contextlib.suppress(OSError):  # it may have been removed since, and all paths be absolute
        os.chdir(folder)
    param = message("LayerParameter").FromString(param)
    layer = kind(param, phase, PassState(seed), where)
    layer.setup([], [Blob() for _ in param.top])
    return layer
