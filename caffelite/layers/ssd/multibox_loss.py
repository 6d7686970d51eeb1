"""MultiBoxLoss: match priors to ground truth, mine negatives, weigh confidence and location."""

from __future__ import annotations

import logging

import numpy as np

from caffelite.layer import Layer, register
from caffelite.layers.ssd import boxes, ground_truth, losses
from caffelite.layers.ssd.checks import check_predictions, errors_of
from caffelite.layers.ssd.matcher import Matcher

log = logging.getLogger("caffelite")


@register("MultiBoxLoss")
class MultiBoxLoss(Layer):
    """(confidence loss + loc_weight * location loss) / normalizer over the matched and the mined priors of a batch.

    The location loss is smooth L1 (or half the square) between predicted and encoded offsets of matched priors, the
    confidence loss softmax or logistic over matched and selected unmatched ones; VALID (the default) divides both by
    the number of matches, at least 1. `propagate_down: false` takes a term out of the loss as well.
    With `encode_variance_in_target` the location gradient is that of the offsets divided by their variances, not
    multiplied by the inner derivative; with LOGISTIC and no mining the targets of image i start at element i * priors,
    not i * priors * classes. Both as in the original.
    Bottoms: locations (N, P * 4), times the classes if not share_location; confidences (N, P * classes); priors and
    variances (1, 2, P * 4); ground truth (1, 1, G, 8), rows of item id (-1: no object), label, instance, box,
    difficult. Top: the loss (). Source: multibox_loss_layer.cpp of the SSD fork.
    """

    exact_bottoms = 4
    exact_tops = 1
    is_loss = True
    in_place = False

    def setup(self, bottom, top):
        param = self.options = self.param.multibox_loss_param
        kind = type(param)
        self.expect(param.HasField("num_classes"), "expected num_classes, actual none")
        self.expect(param.num_classes >= 1, f"expected at least 1 class, actual num_classes {param.num_classes}")
        self.classes, self.background = param.num_classes, param.background_label_id
        self.location_classes = 1 if param.share_location else self.classes
        self.softmax = param.conf_loss_type == kind.SOFTMAX
        self.location_loss = losses.location(param)
        self.mining = param.mining_type != kind.NONE
        if param.HasField("do_neg_mining"):
            log.warning("layer %r: do_neg_mining is deprecated, use mining_type instead", self.name)
            self.expect(
                param.do_neg_mining == self.mining,
                f"do_neg_mining: {str(param.do_neg_mining).lower()} contradicts mining_type: "
                f"{kind.MiningType.Name(param.mining_type)}; give mining_type only",
            )
        if self.softmax or self.mining:
            self.expect(
                self.background < self.classes,
                f"expected background_label_id below num_classes {self.classes}, actual {self.background}",
            )
        if self.mining:
            self.expect(np.isfinite(param.neg_pos_ratio), "expected finite neg_pos_ratio, actual infinity or NaN")
            self.expect(param.share_location, "mining needs share_location: true; otherwise set mining_type: NONE")
        if param.mining_type == kind.HARD_EXAMPLE:
            self.expect(param.sample_size > 0, f"expected positive sample_size, actual {param.sample_size}")
        if param.map_object_to_agnostic:
            self.expect(
                self.classes == 2 and self.background == 0,
                f"map_object_to_agnostic needs num_classes: 2 and background_label_id: 0, "
                f"actual {self.classes} and {self.background}",
            )
        self.in_loss = list(self.param.propagate_down) or [True, True, False, False]
        self.normalization = self._normalization()

    def _normalization(self) -> str:
        """Name of the LossParameter.NormalizationMode; the old flag `normalize` counts where that is not given."""
        param = self.param.loss_param
        if param.HasField("normalize") and not param.HasField("normalization"):
            return "VALID" if param.normalize else "BATCH_SIZE"
        return type(param).NormalizationMode.Name(param.normalization)

    def allow_force_backward(self, bottom_index):
        return bottom_index < 2

    def reshape(self, bottom, top):
        with errors_of(self):
            ground_truth.check_shape(bottom[3].shape)
        self.images, self.priors = check_predictions(self, *bottom[:3], self.location_classes, self.classes)
        top[0].reshape()

    def forward(self, bottom, top):
        location = bottom[0].data.reshape(self.images, self.priors, self.location_classes, 4)
        confidence = bottom[1].data.reshape(self.images, self.priors, self.classes)
        with errors_of(self):
            priors, variances = boxes.read_priors(bottom[2].data)
            truth = self._ground_truth(bottom[3].data)
            matcher = Matcher(self.options, priors, variances, truth)
            matches, negatives = matcher.match(location, confidence)
            self.matched = np.nonzero(matches >= 0)  # image, class of the location, prior
            difference = matcher.location_difference(location, matches, self.matched)
        location_losses, self.location_derivative = self.location_loss(difference)
        loss = self.options.loc_weight * float(location_losses.sum(dtype=np.float64)) if self.in_loss[0] else 0.0

        labels = truth.labels[matches[self.matched]]
        if self.options.map_object_to_agnostic:
            labels[:] = self.background + 1
        confidence_losses = self._confidence_losses(confidence.reshape(-1, self.classes), labels, negatives)
        loss += float(confidence_losses.sum(dtype=np.float64)) if self.in_loss[1] else 0.0
        top[0].data[...] = loss / self._normalizer()

    def backward(self, top, propagate_down, bottom):
        self.expect(not any(propagate_down[2:]), "expected no gradient of priors or ground truth (propagate_down)")
        scale = np.float32(float(top[0].read_diff()) / self._normalizer())
        if propagate_down[0]:
            bottom[0].diff[...] = 0
            image, label, prior = self.matched
            gradient = bottom[0].diff.reshape(self.images, self.priors, self.location_classes, 4)
            gradient[image, prior, label] = self.location_derivative * (scale * np.float32(self.options.loc_weight))
        if propagate_down[1]:
            gradient = bottom[1].diff.reshape(-1, self.classes)
            gradient[...] = 0
            gradient[self.confidence_rows] = self.confidence_derivative * scale

    def _ground_truth(self, data: np.ndarray) -> ground_truth.GroundTruth:
        param = self.options
        labels_count = self.mining or not (param.map_object_to_agnostic and param.share_location)
        truth = ground_truth.read(data, self.background, self.classes if labels_count else None)
        wrong = truth.images[(truth.images < 0) | (truth.images >= self.images)]
        if len(wrong):
            raise ValueError(f"expected item ids from 0 to {self.images - 1} in the ground truth, actual {wrong[0]}")
        return truth if param.use_difficult_gt else truth[~truth.difficult]

    def _confidence_losses(self, scores: np.ndarray, labels: np.ndarray, negatives: np.ndarray) -> np.ndarray:
        """Loss per row of scores that counts, and for the backward pass which rows these are and their derivative.

        `labels` are those of the matched priors; `negatives` are the rows of the selected unmatched ones.
        """
        image, _, prior = self.matched
        rows = image * self.priors + prior
        if self.mining:
            self.confidence_rows = np.concatenate([rows, negatives])
            labels = np.concatenate([labels, np.full(len(negatives), self.background)])
            scores = scores[self.confidence_rows]
        else:
            self.confidence_rows = slice(None)
        if self.softmax:
            if not self.mining:
                labels_of_all = np.full(len(scores), self.background)
                labels_of_all[rows] = labels
                labels = labels_of_all
            result, self.confidence_derivative = losses.softmax_loss(scores, labels)
            return result
        targets = np.full(scores.shape, self.background, np.float32)
        if self.mining:
            targets[np.arange(len(labels)), labels] = 1
        else:
            targets.reshape(-1)[image * self.priors + prior * self.classes + labels] = 1
        result, self.confidence_derivative = losses.logistic_loss(scores, targets)
        return result

    def _normalizer(self) -> float:
        counts = {"FULL": self.images * self.priors, "VALID": len(self.matched[0]), "BATCH_SIZE": self.images}
        return max(1.0, float(counts.get(self.normalization, 1)))
