"""Data: images and labels from a database."""

from __future__ import annotations

import logging
import os

import numpy as np

from caffelite.errors import CaffeliteError, FileFormatError
from caffelite.images import decode_image
from caffelite.io import datum_to_array
from caffelite.layer import register
from caffelite.layers.data.batches import ImageBatches
from caffelite.layers.data.database import Database

log = logging.getLogger("caffelite")
MAX_AHEAD = 32  # batches; beyond, they only cost memory


def datum_image(datum, color: bool | None, name: str) -> np.ndarray:
    """The image (height, width, channels) of a Datum, uint8 or float32. Raises FileFormatError, which says `name`."""
    if datum.encoded:
        return decode_image(datum.data, color, name)
    try:
        image = datum_to_array(datum)
    except FileFormatError as e:
        raise FileFormatError(f"{name}: {e}") from None
    if not image.size:
        raise FileFormatError(f"{name}: Datum: an image of shape {image.shape} (channels, height, width)")
    return image.transpose(1, 2, 0)


class DatabaseBatches(ImageBatches):
    """Batches of records of an LMDB in the order of their keys, over and over, after `rand_skip`."""

    min_tops = 1
    max_tops = 2
    record_type = ""
    _warned = False

    def setup(self, bottom, top):
        super().setup(bottom, top)
        param = self.param.data_param
        self.ahead = min(max(1, param.prefetch), MAX_AHEAD)
        self.database = self._open(param)
        self.begin(top, param)

    def _open(self, param) -> Database:
        source = param.source
        self.expect(bool(source), "expected a database in data_param.source, actual none")
        self.expect(os.path.exists(source), f"data_param.source {source!r}: no such database")
        if param.backend != param.LMDB:
            raise self.error(
                f"data_param.source {source!r}: the database is an LMDB: write `backend: LMDB`, LEVELDB is the default"
                if os.path.exists(os.path.join(source, "data.mdb"))
                else f"data_param.source {source!r}: LevelDB is not supported; make an LMDB of the images by "
                "`caffelite convert_imageset` and write `backend: LMDB`"
            )
        try:
            return Database(source)
        except CaffeliteError as e:
            raise self.error(f"data_param.source: {e}") from e

    def record(self, position: int):
        """Name and message at a position in the endless run through the database."""
        return self.database.read(position % len(self.database), self.record_type)

    def image(self, datum, name: str) -> np.ndarray:
        """The image (height, width, channels) of a Datum, decoded as transform_param says."""
        color = True if self.param.data_param.force_encoded_color else self.transform.color
        if color is not None and not datum.encoded and not self._warned:
            self._warned = True
            log.warning("layer %r: force_color and force_gray are for encoded images; these are not", self.name)
        return datum_image(datum, color, name)


@register("Data")
class Data(DatabaseBatches):
    """Images and labels from an LMDB of Datum records.

    An image is encoded (PNG, JPEG), or bytes, or floats. The first image of a batch gives its size. LevelDB, the
    schema's default, is refused: write `backend: LMDB`. Tops: data (batch, channels, height, width); optionally label
    (batch,). Source: data_layer.cpp.
    """

    record_type = "Datum"

    def item(self, position, generator):
        name, datum = self.record(position)
        return name, self.transform(self.image(datum, name), generator)[0], datum.label
