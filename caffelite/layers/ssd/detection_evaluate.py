"""DetectionEvaluate: which detections are true, which are false, and how many objects there are."""

from __future__ import annotations

import numpy as np

from caffelite.layer import Layer, register
from caffelite.layers.ssd import boxes, ground_truth
from caffelite.layers.ssd.checks import errors_of
from caffelite.layers.ssd.detection_files import read_name_sizes, to_pixels


@register("DetectionEvaluate")
class DetectionEvaluate(Layer):
    """Compares detections with ground truth, for an average precision over all batches of a test.

    A detection, best first, is true if the object of its class that it overlaps most does so by overlap_threshold and
    was not found before. Without evaluate_difficult_gt, difficult objects and what overlaps them do not count. With
    name_size_file, overlaps are taken in pixels (inclusive) of the original images, which must come in the order of
    that file.
    Bottoms: (1, 1, D, 7), the top of DetectionOutput; ground truth (1, 1, G, 8), rows of item id, label, instance, box,
    difficult. Top: (1, 1, classes + detections, 5): a row -1, class, number of objects, -1, -1 for every class but the
    background, then rows of image, label, confidence, true positive, false positive. Source:
    detection_evaluate_layer.cpp of the SSD fork.
    """

    exact_bottoms = 2
    exact_tops = 1
    in_place = False

    def setup(self, bottom, top):
        param = self.options = self.param.detection_evaluate_param
        self.expect(param.HasField("num_classes"), "expected num_classes, actual none")
        self.expect(
            param.overlap_threshold > 0, f"expected positive overlap_threshold, actual {param.overlap_threshold}"
        )
        self.class_rows = param.num_classes - (param.background_label_id < param.num_classes)
        self.resize = param.resize_param if param.HasField("resize_param") else None
        with errors_of(self):
            self.sizes = read_name_sizes(param.name_size_file)[1] if param.HasField("name_size_file") else []
        self.position = 0  # in sizes

    def reshape(self, bottom, top):
        shape = bottom[0].shape
        self.expect(
            len(shape) == 4 and shape[:2] == (1, 1) and shape[3] == 7,
            f"expected detections of shape 1 x 1 x detections x 7, actual {shape}",
        )
        with errors_of(self):
            ground_truth.check_shape(bottom[1].shape)
        top[0].reshape(1, 1, self.class_rows + shape[2], 5)  # how many are real shows in the forward pass

    def forward(self, bottom, top):
        background = self.options.background_label_id
        detections = bottom[0].data.reshape(-1, 7)
        with errors_of(self):
            truth = ground_truth.read(bottom[1].data, background, self.options.num_classes)
        top[0].reshape(1, 1, self.class_rows + np.count_nonzero(detections[:, 1] != -1), 5)
        rows = top[0].data[0, 0]
        rows[...] = 0
        at = self.class_rows
        classes = np.arange(self.options.num_classes)
        counted = truth.labels[np.logical_not(truth.difficult) | self.options.evaluate_difficult_gt]
        rows[:at] = -1
        rows[:at, 1] = classes[classes != background]
        rows[:at, 2] = np.bincount(counted, minlength=len(classes))[classes != background]

        detections = detections[detections[:, 0] != -1]
        self.expect(np.isfinite(detections[:, :3]).all(), "expected finite images, labels and scores of detections")
        self.expect(background not in detections[:, 1], f"found the background label {background} in the detections")
        for image in np.unique(detections[:, 0]):
            of_image = detections[detections[:, 0] == image]
            for label in np.unique(of_image[of_image[:, 1] != -1, 1]):
                found = of_image[of_image[:, 1] == label]
                objects = truth[(truth.images == image) & (truth.labels == label)]
                if len(objects):
                    found = found[boxes.best_first(found[:, 2])]
                rows[at : at + len(found), :3] = found[:, :3]
                with errors_of(self):
                    rows[at : at + len(found), 3:] = self._judge(found[:, 3:], objects)
                at += len(found)
            if self.sizes:
                self.position = (self.position + 1) % len(self.sizes)

    def _judge(self, found: np.ndarray, objects: ground_truth.GroundTruth) -> np.ndarray:
        """(true, false) of the detections [N, 4] of one image and class, best first."""
        result = np.tile(np.float32([0, 1]), (len(found), 1))
        if not len(objects):
            return result
        if self.sizes:
            size = self.sizes[self.position]
            found, found_area = to_pixels(found, size, self.resize)
            box, area = to_pixels(objects.boxes, size, self.resize)
            overlap = boxes.overlaps(found, box, found_area, area, extra=1)
        else:
            overlap = boxes.overlaps(found, objects.boxes)
        seen = set()
        for i, nearest in enumerate(overlap.argmax(1)):
            if overlap[i, nearest] < self.options.overlap_threshold:
                continue
            if objects.difficult[nearest] and not self.options.evaluate_difficult_gt:
                result[i] = 0, 0
            elif nearest not in seen:
                result[i] = 1, 0
                seen.add(nearest)
        return result
