"""MultiBoxLoss: match priors to ground truth, mine negatives, weigh confidence and location."""

from __future__ import annotations

import logging

import numpy as np

from caffelite.backend import to_host, xp
from caffelite.backend.kernels import kernels
from caffelite.backend.nms import suppressed_of_ssd
from caffelite.blob import Blob
from caffelite.layer import Layer, register
from caffelite.layers.ssd import boxes, ground_truth
from caffelite.layers.ssd.checks import check_predictions, errors_of
from caffelite.layers.ssd.matcher import UNMATCHED, Objects, match

log = logging.getLogger("caffelite")


def logistic_loss(scores, targets):
    """Sigmoid cross entropy summed over classes: (losses (N,), derivative (N, classes))."""
    exponential = xp.exp(-xp.abs(scores))
    losses = xp.log1p(exponential) - scores * (targets - (scores >= 0))
    sigmoid = xp.where(scores >= 0, np.float32(1), exponential) / (1 + exponential)
    return losses.sum(axis=1), sigmoid - targets


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
        self.by_class = self.location_classes > 1 and not param.use_prior_for_matching
        self.suppresses = self.mining and param.HasField("nms_param") and param.nms_param.nms_threshold > 0
        self.decodes = not param.use_prior_for_matching or (self.suppresses and not param.use_prior_for_nms)
        self.checked = None
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
        param, location, scores = self.options, bottom[0].array, bottom[1].array.reshape(-1, self.classes)
        with errors_of(self):
            self._check_priors(bottom[2])
            truth = self._ground_truth(bottom[3].read())
        self.boxes, self.variances = bottom[2].array.reshape(bottom[2].shape[0], 2, -1, 4)[0]
        self.objects = Objects(truth, self.images, self.classes if self.by_class else 1)
        candidates = self.boxes if param.use_prior_for_matching else self._predicted(location)
        self.found, strongest = match(param, self.objects, candidates, self.priors)
        self._check_matched()
        negatives = self._mine(location, scores, truth, strongest) if self.mining else None
        self.rows = self._classes_of_rows(negatives)
        self.normalizer = xp.maximum(1, xp.asarray(self._count()))
        loss = xp.zeros((), np.float64)
        if self.in_loss[0]:
            loss = loss + param.loc_weight * self._location_losses(location).sum(dtype=np.float64)
        if self.in_loss[1]:
            loss = loss + self._confidence_losses(scores).sum(dtype=np.float64)
        top[0].array[...] = loss / self.normalizer

    def backward(self, top, propagate_down, bottom):
        self.expect(not any(propagate_down[2:]), "expected no gradient of priors or ground truth (propagate_down)")
        scale = (xp.full(1, float(top[0].read_diff())) / self.normalizer).astype(np.float32)
        if propagate_down[0]:
            kernels("multibox").multibox_location_gradient(
                self.images * self.priors * self.location_classes, *self._located(bottom[0].array),
                scale * np.float32(self.options.loc_weight), bottom[0].gradient,
            )  # fmt: skip
        if propagate_down[1]:
            scores, gradient = (array.reshape(-1, self.classes) for array in (bottom[1].array, bottom[1].gradient))
            if self.softmax:
                kernels("multibox").multibox_confidence_gradient(
                    len(scores), scores, self.rows, self.classes, scale, gradient
                )  # fmt: skip
            else:
                _, derivative = logistic_loss(scores, self._targets())
                gradient[...] = xp.where(self._counted(), derivative * scale, np.float32(0))

    def _ground_truth(self, data: np.ndarray) -> ground_truth.GroundTruth:
        param = self.options
        labels_count = self.mining or not (param.map_object_to_agnostic and param.share_location)
        truth = ground_truth.read(data, self.background, self.classes if labels_count else None)
        wrong = truth.images[(truth.images < 0) | (truth.images >= self.images)]
        if len(wrong):
            raise ValueError(f"expected item ids from 0 to {self.images - 1} in the ground truth, actual {wrong[0]}")
        return truth if param.use_difficult_gt else truth[~truth.difficult]

    def _check_priors(self, blob: Blob) -> None:
        """Raise ValueError where priors are not finite; what a GPU has computed is looked at once for every shape.

        Those without a size or with a variance that is not positive are no error until they are used: `unusable`.
        """
        if blob.at_hand or self.checked != blob.shape:
            priors, variances = boxes.read_priors(blob.read())
            sizes = (priors[:, 2:] > priors[:, :2]).all(1) | (self.options.code_type == boxes.CORNER)
            rows = np.flatnonzero(~(sizes & (variances > 0).all(1)))
            self.checked, self.unusable = blob.shape, (rows, priors[rows], variances[rows])

    def _check_matched(self) -> None:
        """Raise LayerError where an unusable prior is matched, or decoded to be matched."""
        rows, priors, variances = self.unusable
        if not len(rows) or not self.objects.count:
            return
        with errors_of(self):
            if self.decodes:
                boxes.check_sizes(priors, self.options.code_type)
            matched = (to_host(self.found)[:, rows] >= 0).any(0)
            boxes.check_sizes(priors[matched], self.options.code_type)
        least = variances[matched].min(initial=np.inf)
        self.expect(least > 0, f"expected positive variances of priors, actual {least}")

    def _predicted(self, location):
        """The boxes that the net predicts, (groups, priors, 4)."""
        predicted = xp.empty((self.images * self.location_classes, self.priors, 4), np.float32)
        kernels("multibox").multibox_decode(
            predicted.size // 4, self.priors, self.location_classes, location, self.boxes, self._code_variances(),
            self.options.code_type, predicted,
        )  # fmt: skip
        return predicted

    def _code_variances(self):
        return xp.ones_like(self.variances) if self.options.encode_variance_in_target else self.variances

    def _mine(self, location, scores, truth, strongest):
        """Which priors of every image count as background, (images, priors); HARD_EXAMPLE also drops matches that are
        not selected. An image without ground truth has no negatives, with any kind of mining."""
        param, matched, unmatched = self.options, self.found >= 0, self.found == UNMATCHED
        classes = xp.where(matched, self.objects.labels[xp.maximum(self.found, 0)], np.int32(self.background))
        hardness = self._hardness(scores, classes.ravel()).reshape(self.found.shape)
        if param.mining_type == param.HARD_EXAMPLE:
            hardness = hardness + self._location_losses(location).reshape(hardness.shape)
            eligible = xp.ones_like(matched)
            known = np.bincount(truth.images, minlength=self.images) > 0
            counts = xp.asarray(np.where(known, min(param.sample_size, self.priors), 0))
        else:
            eligible = unmatched & (strongest < np.float32(param.neg_overlap))
            counts = matched.sum(axis=1).astype(np.float32) * np.float32(param.neg_pos_ratio)
            counts = xp.clip(counts, 0, self.priors)
        selected = self._hardest(hardness, eligible, counts.astype(np.int32), location)
        if param.mining_type == param.HARD_EXAMPLE:
            self.found = xp.where(matched & ~selected, np.int32(UNMATCHED), self.found)
        return selected & unmatched

    def _hardness(self, scores, classes):
        """The confidence losses by which priors are ranked."""
        if self.softmax:
            return self._softmax_losses(scores, classes)
        targets = xp.zeros_like(scores)
        targets[xp.arange(len(scores)), classes] = 1
        return logistic_loss(scores, targets)[0]

    def _hardest(self, hardness, eligible, counts, location):
        """The `counts` hardest eligible priors of every image; with nms_param, of those left of its top_k (0 if not
        given), which is the host's work."""
        nms, priors = self.options.nms_param, self.priors
        if not self.suppresses:
            selected = xp.empty(hardness.shape, np.uint8)
            kernels("multibox").multibox_hardest(
                hardness.size, self.images, priors, hardness, eligible.astype(np.uint8), counts, selected
            )  # fmt: skip
            return selected != 0
        candidates = self.boxes if self.options.use_prior_for_nms else self._predicted(location)
        candidates = np.broadcast_to(to_host(candidates), (self.images, priors, 4))
        hardness, eligible, counts = map(to_host, (hardness, eligible, counts))
        selected = np.zeros(eligible.shape, bool)
        for image in range(self.images):
            order = np.flatnonzero(eligible[image])
            hard = np.nan_to_num(hardness[image, order], nan=np.inf, posinf=np.inf)
            order = order[boxes.best_first(hard, nms.top_k if nms.top_k > -1 else None)]
            order = order[boxes.areas(candidates[image, order]).astype(np.float64) >= 1e-5]
            found, starts = xp.asarray(candidates[image, order]), np.array([0, len(order)], np.int32)
            left = order[to_host(suppressed_of_ssd(starts, found, nms.nms_threshold, 1.0)) == 0]
            selected[image, left[: max(0, counts[image])]] = True
        return xp.asarray(selected)

    def _classes_of_rows(self, negatives):
        """The class of every row of scores in the loss, int32 (images * priors,); -1 where it does not count."""
        labels = self.objects.labels
        if self.options.map_object_to_agnostic:
            labels = xp.full_like(labels, self.background + 1)
        classes = xp.where(self.found >= 0, labels[xp.maximum(self.found, 0)], np.int32(-1))
        if self.by_class:  # a prior may be matched in several: the last one counts
            classes = classes.reshape(self.images, self.classes, self.priors).max(axis=1)
        others = np.int32(min(self.background, self.classes))
        others = others if negatives is None else xp.where(negatives, others, np.int32(-1))
        return xp.where(classes >= 0, classes, others).astype(np.int32).ravel()

    def _count(self):
        """What the loss is divided by, if it is over 1."""
        counts = {"FULL": self.images * self.priors, "BATCH_SIZE": self.images, "NONE": 1}
        return counts[self.normalization] if self.normalization in counts else (self.found >= 0).sum()

    def _located(self, location) -> tuple:
        """The arguments that the kernels of location share."""
        param = self.options
        return (
            self.priors, self.location_classes, int(self.by_class), self.found, self.objects.labels, self.boxes,
            self.variances, self.objects.boxes, location, param.code_type, int(param.encode_variance_in_target),
            int(param.bp_inside), int(not param.use_prior_for_matching), int(param.loc_loss_type != param.SMOOTH_L1),
        )  # fmt: skip

    def _location_losses(self, location):
        losses = xp.empty(self.found.size, np.float32)
        kernels("multibox").multibox_location(losses.size, *self._located(location), losses)
        return losses

    def _softmax_losses(self, scores, classes):
        losses = xp.empty(len(scores), np.float32)
        kernels("multibox").multibox_confidence(len(scores), scores, classes, self.classes, losses)
        return losses

    def _confidence_losses(self, scores):
        if self.softmax:
            return self._softmax_losses(scores, self.rows)
        losses, _ = logistic_loss(scores, self._targets())
        return xp.where(self._counted()[:, 0], losses, np.float32(0))

    def _counted(self):
        """Whether a row of scores counts, (rows, 1)."""
        return (self.rows >= 0).reshape(-1, 1) | (not self.mining)

    def _targets(self):
        """The targets of the logistic loss, (rows, classes)."""
        count = self.images * self.priors * self.classes
        if self.mining:
            marked = xp.where(self.rows >= 0, xp.arange(len(self.rows)) * self.classes + self.rows, count)
        else:
            labels = self.objects.labels[xp.maximum(self.found, 0)]
            if self.options.map_object_to_agnostic:
                labels = xp.full_like(labels, self.background + 1)
            image = xp.arange(len(self.found)).reshape(-1, 1) // (self.classes if self.by_class else 1)
            places = image * self.priors + xp.arange(self.priors) * self.classes + labels
            marked = xp.where(self.found >= 0, places, count)
        targets = xp.full(count + 1, np.float32(self.background))  # the last one is for those that are not marked
        targets[marked] = 1
        return targets[:count].reshape(-1, self.classes)

    @property
    def matched(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image, class of locations and prior of every match of the last forward pass."""
        found, labels = to_host(self.found), to_host(self.objects.labels)
        group, prior = np.nonzero(found >= 0)
        if self.by_class:
            return group // self.classes, group % self.classes, prior
        return group, labels[found[group, prior]] * (self.location_classes > 1), prior
