"""AnnotatedData: images and their objects from a database, augmented for SSD."""

from __future__ import annotations

import numpy as np

from caffelite.errors import FileFormatError
from caffelite.layer import register
from caffelite.layers.data import augment
from caffelite.layers.data.data import DatabaseBatches

COLUMNS = 8  # image of the batch, label, instance id, xmin, ymin, xmax, ymax, difficult


@register("AnnotatedData")
class AnnotatedData(DatabaseBatches):
    """Images and their objects from an LMDB of AnnotatedDatum records.

    Steps: distort_param, expand_param, one of the parts that the batch_samplers find, then those of Transform. Objects
    go with the image; those outside of it, or against emit_constraint, are left out. `label_map_file` has no effect, as
    in the original.
    Tops: data (batch, channels, height, width); optionally label (1, 1, objects of the batch, 8): number of the image
    in the batch, label, instance id, xmin, ymin, xmax, ymax as fractions, difficult; one row of -1 where there is no
    object. Records without annotations and no `anno_type` give label (batch, 1, 1, 1), as in Data. Source:
    annotated_data_layer.cpp of the SSD fork.
    """

    record_type = "AnnotatedDatum"

    def setup(self, bottom, top):
        self.samplers = self.param.annotated_data_param.batch_sampler
        augment.check_samplers(self, self.samplers)
        self.has_objects = True
        self._check_augmentation(self.param.transform_param)
        super().setup(bottom, top)

    def begin(self, top, param):
        first = self.record(self.first_position(param.rand_skip))[1]
        self.has_objects = first.HasField("type") or self.param.annotated_data_param.HasField("anno_type")
        super().begin(top, param)

    def _check_augmentation(self, p) -> None:
        if p.HasField("expand_param"):
            ratio = p.expand_param.max_expand_ratio
            self.expect(1 < ratio < np.inf, f"expand_param: expected a max_expand_ratio above 1, actual {ratio:g}")
            self.expect(not p.HasField("mean_file"), "expand_param fills with mean_value: expected no mean_file")
        if p.HasField("distort_param"):
            d = p.distort_param
            self.expect(
                0 <= d.contrast_lower <= d.contrast_upper < np.inf
                and 0 <= d.saturation_lower <= d.saturation_upper < np.inf
                and 0 <= d.brightness_delta < np.inf
                and 0 <= d.hue_delta < np.inf,
                "distort_param: expected finite deltas of at least 0, and 0 <= lower <= upper, finite",
            )

    def item(self, position, generator):
        name, record = self.record(position)
        image, p = self.image(record.datum, name), self.param.transform_param
        objects = self._objects(record, name) if self.has_objects else np.empty((0, COLUMNS - 1), np.float32)
        emit = p.emit_constraint if p.HasField("emit_constraint") else None
        if p.HasField("distort_param"):
            self.expect(
                image.dtype == np.uint8 and image.shape[2] == 3,
                f"{name}: distort_param needs images of three channels of bytes, actual {image.shape} {image.dtype}",
            )
            image = augment.distort(image, p.distort_param, generator)
        if p.HasField("expand_param"):
            fill = self.transform.mean_value_of(image.shape[2])
            image, canvas = augment.expand(image, p.expand_param, fill, generator)
            objects = augment.project(objects, canvas, emit)
        part = augment.sample(objects, self.samplers, generator)
        if part is not None:
            image, objects = augment.cut(image, part), augment.project(objects, part, emit)
        transformed, crop, mirrored = self.transform(image, generator)
        if p.HasField("resize_param"):
            objects = augment.resize_objects(objects, p.resize_param, image.shape[:2])
        objects = augment.project(objects, crop, emit)
        if mirrored:
            objects = augment.mirror(objects)
        return name, transformed, objects if self.has_objects else record.datum.label

    def _objects(self, record, name: str) -> np.ndarray:
        """The objects of a record as rows (label, instance id, box, difficult). Raises FileFormatError."""
        if not record.HasField("type"):
            raise FileFormatError(f"{name}: an AnnotatedDatum without type; expected BBOX")
        rows = [
            (group.group_label, a.instance_id, a.bbox.xmin, a.bbox.ymin, a.bbox.xmax, a.bbox.ymax, a.bbox.difficult)
            for group in record.annotation_group
            for a in group.annotation
        ]
        objects = np.array(rows, np.float32).reshape(-1, COLUMNS - 1)
        if not np.isfinite(objects).all():
            raise FileFormatError(f"{name}: an object's box that is not finite")
        return objects

    def label_shape(self, label):
        if not self.has_objects:
            return self.batch_size, 1, 1, 1
        return 1, 1, max(1, len(label) * self.batch_size), COLUMNS

    def label_array(self, labels):
        if not self.has_objects:
            return np.array(labels, np.float32).reshape(-1, 1, 1, 1)
        rows = [np.insert(objects, 0, i, axis=1) for i, objects in enumerate(labels)]
        rows = np.concatenate(rows) if sum(map(len, rows)) else np.full((1, COLUMNS), -1, np.float32)
        return rows.reshape(1, 1, -1, COLUMNS)
