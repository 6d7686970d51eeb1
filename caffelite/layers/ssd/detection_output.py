"""DetectionOutput: decode, threshold, non-maximum suppression per class, the best of all classes."""

from __future__ import annotations

import logging

import numpy as np

from caffelite.layer import Layer, register
from caffelite.layers.ssd import boxes
from caffelite.layers.ssd.checks import check_predictions, errors_of
from caffelite.layers.ssd.detection_files import DetectionFiles

log = logging.getLogger("caffelite")


@register("DetectionOutput")
class DetectionOutput(Layer):
    """The detections of every image.

    Per class but the background: boxes of confidence above confidence_threshold, the best nms_param.top_k of them (all
    if not given), non-maximum suppression; of all classes the best keep_top_k, if that is not -1. Equal scores keep the
    order of classes and priors. With save_output_param, result files as well (DetectionFiles).
    Bottoms: locations (N, P * 4), times the classes if not share_location; confidences (N, P * classes); priors and
    variances (1, 2, P * 4); optionally the net's input, which is not looked at. Top: (1, 1, detections, 7), rows of
    image, label, confidence, xmin, ymin, xmax, ymax, sorted by image, label and falling confidence; if nothing at all
    is found, a row of image and six times -1 per image. Source: detection_output_layer.cpp of the SSD fork.
    """

    min_bottoms = 3
    max_bottoms = 4
    exact_tops = 1
    in_place = False

    def setup(self, bottom, top):
        param = self.options = self.param.detection_output_param
        nms = param.nms_param
        self.expect(param.HasField("num_classes"), "expected num_classes, actual none")
        self.expect(nms.nms_threshold >= 0, f"expected nms_threshold of at least 0, actual {nms.nms_threshold}")
        self.expect(0 < nms.eta <= 1, f"expected eta above 0 and up to 1, actual {nms.eta}")
        self.expect(
            param.background_label_id != -1 or not param.share_location,
            "found no location predictions for label -1: background_label_id: -1 needs share_location: false",
        )
        self.location_classes = 1 if param.share_location else param.num_classes
        self.threshold = (
            param.confidence_threshold if param.HasField("confidence_threshold") else np.finfo(np.float32).min
        )
        self.top_k = nms.top_k if nms.HasField("top_k") and nms.top_k > -1 else None
        if param.visualize:
            log.warning("layer %r: visualize opens windows in the original; here it does nothing", self.name)
        with errors_of(self):
            self.files = DetectionFiles.from_param(param)

    def reshape(self, bottom, top):
        self.images, self.priors = check_predictions(self, *bottom[:3], self.location_classes, self.options.num_classes)
        top[0].reshape(1, 1, 1, 7)  # how many there are shows in the forward pass

    def forward(self, bottom, top):
        param = self.options
        location = bottom[0].data.reshape(self.images, self.priors, self.location_classes, 4)
        confidence = bottom[1].data.reshape(self.images, self.priors, param.num_classes)
        with errors_of(self):
            priors, variances = boxes.read_priors(bottom[2].data)
            boxes.check_sizes(priors, param.code_type)
        if param.variance_encoded_in_target:
            variances = np.ones_like(variances)
        found = [
            self._detect(image, location[image], np.ascontiguousarray(confidence[image].T), priors, variances)
            for image in range(self.images)
        ]
        rows = np.concatenate([np.empty((0, 7), np.float32), *found])  # the batch may be empty
        if not len(rows):
            log.info("layer %r: couldn't find any detections", self.name)
            rows = np.full((self.images, 7), -1, np.float32)
            rows[:, 0] = np.arange(self.images)
        top[0].reshape(1, 1, len(rows), 7)
        top[0].data[...] = rows
        if self.files:
            with errors_of(self):
                for detections in found:
                    self.files.add(detections)

    def _detect(self, image: int, location, scores, priors, variances) -> np.ndarray:
        """Rows [detections, 7] of one image from location [P, classes of locations, 4] and scores [classes, P]."""
        param, rows = self.options, [np.empty((0, 7), np.float32)]
        for label in range(param.num_classes):
            if label == param.background_label_id:
                continue
            candidates = np.flatnonzero(scores[label] > self.threshold)
            candidates = candidates[boxes.best_first(scores[label, candidates], self.top_k)]
            codes = location[candidates, 0 if param.share_location else label]
            decoded = boxes.decode(codes, priors[candidates], variances[candidates], param.code_type)
            self.expect(
                not np.isnan(decoded).any(),
                f"expected finite boxes, actual NaN for class {label} of image {image}: the net has diverged, or its "
                "weights belong to another net",
            )
            kept = boxes.nms(decoded, param.nms_param.nms_threshold, param.nms_param.eta)
            row = np.empty((len(kept), 7), np.float32)
            row[:, 0], row[:, 1], row[:, 2] = image, label, scores[label, candidates[kept]]
            row[:, 3:] = decoded[kept]
            rows.append(row)
        rows = np.concatenate(rows)
        if -1 < param.keep_top_k < len(rows):
            rows = rows[boxes.best_first(rows[:, 2], param.keep_top_k)]
            rows = rows[np.argsort(rows[:, 1], kind="stable")]
        return rows
