"""Which priors of a batch are matched to ground truth, and which unmatched ones count as background."""

from __future__ import annotations

import numpy as np

from caffelite.layers.ssd import boxes, losses
from caffelite.layers.ssd.ground_truth import GroundTruth


class Matcher:
    """Matches and mines as a MultiBoxLossParameter says (FindMatches and MineHardExamples of bbox_util.cpp).

    Matches are rows of the ground truth, or UNMATCHED, or IGNORED for boxes across the image's boundary, in an array
    [images, classes of locations, priors].
    """

    def __init__(self, param, priors: np.ndarray, variances: np.ndarray, truth: GroundTruth):
        self.param = param
        self.priors, self.variances, self.truth = priors, variances, truth
        self.code_variances = np.ones_like(variances) if param.encode_variance_in_target else variances

    def match(self, location: np.ndarray, confidence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Matches, and the selected negatives as rows of [images * priors, classes].

        location is [images, priors, classes of locations, 4], confidence [images, priors, classes].
        An image without ground truth has no matches and no negatives, with any kind of mining.
        """
        images, count, location_classes, _ = location.shape
        matches = np.full((images, location_classes, count), boxes.UNMATCHED)
        negatives = [np.empty(0, int)]
        for image in np.unique(self.truth.images):
            objects = np.flatnonzero(self.truth.images == image)
            strongest = self._match_image(location[image], objects, matches[image])
            if self.param.mining_type != self.param.NONE:
                chosen = self._mine(image, location, confidence[image], strongest, matches)
                negatives.append(image * count + chosen)
        return matches, np.concatenate(negatives)

    def _match_image(self, location: np.ndarray, objects: np.ndarray, matches: np.ndarray) -> np.ndarray:
        """Fill `matches` [classes of locations, priors] of one image; returns the largest overlap of every prior."""
        labels = self.truth.labels[objects]
        if self.param.use_prior_for_matching:
            found, strongest = self._match_boxes(self.priors, objects)
            if self.param.share_location:
                matches[0] = found
            else:
                hit = np.flatnonzero(found >= 0)
                matches[self.truth.labels[found[hit]], hit] = found[hit]
            return strongest
        strongest = np.zeros(matches.shape[1], np.float32)
        for label in range(len(matches)):
            if self.param.share_location:
                wanted = objects
            elif label == self.param.background_label_id:
                continue
            else:
                wanted = objects[labels == label]
            matches[label], strongest = self._match_boxes(self._decode(location[:, label]), wanted)
        return strongest

    def _match_boxes(self, candidates: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        overlap = boxes.overlaps(self.truth.boxes[objects], candidates)
        overlap[~(overlap > boxes.MIN_OVERLAP)] = 0  # NaN as well
        outside = boxes.crosses_boundary(candidates).any(1) & self.param.ignore_cross_boundary_bbox
        overlap[:, outside] = 0
        per_prediction = self.param.match_type == self.param.PER_PREDICTION
        found = boxes.match(overlap, per_prediction, self.param.overlap_threshold)
        found[found >= 0] = objects[found[found >= 0]]
        found[outside] = boxes.IGNORED
        return found, overlap.max(0, initial=0)

    def _mine(self, image: int, location, confidence, strongest, matches) -> np.ndarray:
        """The priors of an image that count as background; HARD_EXAMPLE also drops matches that are not selected."""
        param, found = self.param, matches[image, 0]
        matched = found >= 0
        labels = np.full(len(found), param.background_label_id)
        labels[matched] = self.truth.labels[found[matched]]
        hardness = losses.confidence(param, confidence, labels)
        hard_example = param.mining_type == param.HARD_EXAMPLE
        if hard_example:
            prior = np.flatnonzero(matched)
            where = np.full_like(prior, image), np.zeros_like(prior), prior
            difference = self.location_difference(location, matches, where)
            hardness[prior] += losses.location(param)(difference)[0].sum(1)
            eligible = np.arange(len(found))
            count = param.sample_size
        else:
            eligible = np.flatnonzero((found == boxes.UNMATCHED) & (strongest < param.neg_overlap))
            count = int(np.float32(matched.sum()) * np.float32(param.neg_pos_ratio))
        hardness[np.isnan(hardness)] = np.inf  # where the net has diverged, the loss shall show it
        selected = np.zeros(len(found), bool)
        selected[self._hardest(hardness, location[image], eligible, count)] = True
        negatives = np.flatnonzero(selected & (found == boxes.UNMATCHED))
        if hard_example:
            found[matched & ~selected] = boxes.UNMATCHED
        return negatives

    def _hardest(self, hardness: np.ndarray, location: np.ndarray, eligible: np.ndarray, count: int) -> np.ndarray:
        """The `count` hardest of the eligible priors; with nms_param, of those left of its top_k (0 if not given)."""
        nms = self.param.nms_param
        if not (self.param.HasField("nms_param") and nms.nms_threshold > 0):
            return eligible[boxes.best_first(hardness[eligible], count)]
        order = eligible[boxes.best_first(hardness[eligible], nms.top_k if nms.top_k > -1 else None)]
        candidates = (self.priors if self.param.use_prior_for_nms else self._decode(location[:, 0]))[order]
        large = boxes.areas(candidates).astype(np.float64) >= 1e-5
        return order[large][boxes.nms(candidates[large], nms.nms_threshold)][: max(0, count)]

    def _decode(self, location: np.ndarray) -> np.ndarray:
        boxes.check_sizes(self.priors, self.param.code_type)
        return boxes.decode(location, self.priors, self.code_variances, self.param.code_type)

    def location_difference(self, location: np.ndarray, matches: np.ndarray, where: tuple) -> np.ndarray:
        """Predicted minus encoded offsets [M, 4] of the matches at `where` = (images, classes of locations, priors)."""
        image, label, prior = where
        priors, variances, code_variances = self.priors[prior], self.variances[prior], self.code_variances[prior]
        boxes.check_sizes(priors, self.param.code_type)
        if not (variances > 0).all():
            raise ValueError(f"expected positive variances of priors, actual {variances.min()}")
        predicted = location[image, prior, label]
        target = boxes.encode(self.truth.boxes[matches[where]], priors, code_variances, self.param.code_type)
        if self.param.encode_variance_in_target:
            difference = predicted / variances - target / variances
        else:
            difference = predicted - target
        if self.param.bp_inside:
            reference = priors
            if not self.param.use_prior_for_matching:
                reference = boxes.decode(predicted, priors, code_variances, self.param.code_type)
            difference[boxes.crosses_boundary(reference)] = 0
        return difference
