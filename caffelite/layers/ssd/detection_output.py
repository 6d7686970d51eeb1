"""DetectionOutput: decode, threshold, non-maximum suppression per class, the best of all classes."""

from __future__ import annotations

import logging

import numpy as np

from caffelite.backend import to_host, xp
from caffelite.backend.kernels import kernels
from caffelite.backend.nms import suppressed_of_ssd
from caffelite.blob import Blob
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
        self.checked = None
        self.top_k = nms.top_k if nms.HasField("top_k") and nms.top_k > -1 else None
        if param.visualize:
            log.warning("layer %r: visualize opens windows in the original; here it does nothing", self.name)
        with errors_of(self):
            self.files = DetectionFiles.from_param(param)

    def reshape(self, bottom, top):
        self.images, self.priors = check_predictions(self, *bottom[:3], self.location_classes, self.options.num_classes)
        top[0].reshape(1, 1, 1, 7)  # how many there are shows in the forward pass

    def forward(self, bottom, top):
        with errors_of(self):
            self._check_priors(bottom[2])
        rows = self._detect(*(blob.array for blob in bottom[:3]))
        found = [rows[rows[:, 0] == image] for image in range(self.images)]
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

    def _check_priors(self, blob: Blob) -> None:
        """Raise ValueError where priors are no boxes; what a GPU has computed is looked at once for every shape."""
        if blob.at_hand or self.checked != blob.shape:
            boxes.check_sizes(boxes.read_priors(blob.read())[0], self.options.code_type)
            self.checked = blob.shape

    def _detect(self, location, confidence, priors) -> np.ndarray:
        """Rows [detections, 7] of all images, sorted by image, label and falling confidence, on the host."""
        param, classes = self.options, self.options.num_classes
        scores = xp.ascontiguousarray(confidence.reshape(self.images, self.priors, classes).transpose(0, 2, 1))
        counts = to_host((scores > self.threshold).sum(axis=2))
        if 0 <= param.background_label_id < classes:
            counts[:, param.background_label_id] = 0
        if self.top_k is not None:
            counts = np.minimum(counts, self.top_k)
        starts = np.concatenate([[0], counts.ravel().cumsum()]).astype(np.int32)
        sets = np.repeat(np.arange(counts.size, dtype=np.int32), counts.ravel())
        candidates, decoded = xp.empty(len(sets), np.int32), xp.empty((len(sets), 4), np.float32)
        prior_boxes, variances = priors.reshape(priors.shape[0], 2, -1, 4)[0]
        if param.variance_encoded_in_target:
            variances = xp.ones_like(variances)
        kernels("detection").detection_candidates(
            scores.size, counts.size, self.priors, scores, self.threshold, xp.asarray(starts), candidates
        )  # fmt: skip
        kernels("detection").detection_boxes(
            len(sets), self.priors, classes, self.location_classes, xp.asarray(sets), candidates, location, prior_boxes,
            variances, param.code_type, decoded,
        )  # fmt: skip
        nms = param.nms_param
        gone = to_host(suppressed_of_ssd(starts, decoded, nms.nms_threshold, nms.eta)).astype(bool)
        confidences = to_host(scores.reshape(-1)[xp.asarray(sets) * self.priors + candidates])
        return self._rows(sets, to_host(decoded), confidences, ~gone)

    def _rows(self, sets, decoded, confidences, left) -> np.ndarray:
        """The detections that are left, the best keep_top_k of each image."""
        image, label = np.divmod(sets, self.options.num_classes)
        wrong = np.isnan(decoded).any(axis=1)
        if wrong.any():
            at = int(wrong.argmax())
            raise self.error(
                f"expected finite boxes, actual NaN for class {label[at]} of image {image[at]}: the net has diverged, "
                "or its weights belong to another net"
            )
        most = self.options.keep_top_k
        for k in range(self.images if most > -1 else 0):
            of_image = np.flatnonzero(left & (image == k))
            left[of_image] = False
            left[of_image[boxes.best_first(confidences[of_image], most)]] = True
        return np.column_stack([image, label, confidences, decoded])[left].astype(np.float32)
