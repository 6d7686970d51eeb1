"""What MultiBoxLoss and DetectionOutput expect of their bottoms, and errors that name the layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from caffelite.blob import Blob
from caffelite.errors import PrototxtError
from caffelite.layer import Layer


@contextmanager
def errors_of(layer: Layer) -> Iterator[None]:
    """Turn bad values and files that cannot be read into the layer's own error."""
    try:
        yield
    except (ValueError, OSError, PrototxtError) as e:
        raise layer.error(str(e)) from None


def check_predictions(
    layer: Layer, location: Blob, confidence: Blob, prior: Blob, location_classes: int, classes: int
) -> tuple[int, int]:
    """Numbers of images and priors. Raises LayerError where shapes do not go together."""
    layer.expect(
        prior.ndim >= 3 and prior.shape[1] == 2 and prior.count_from(2) % 4 == 0,
        f"expected priors of shape 1 x 2 x (4 * number of priors), actual {prior.shape}",
    )
    layer.expect(
        location.ndim >= 2 and confidence.ndim >= 2 and location.shape[0] == confidence.shape[0],
        "expected locations and confidences of as many images (axis 0), "
        f"actual shapes {location.shape} and {confidence.shape}",
    )
    priors = prior.count_from(2) // 4
    for blob, what, per_prior in (
        (location, "location", 4 * location_classes),
        (confidence, "confidence", classes),
    ):
        layer.expect(
            blob.count_from(1) == priors * per_prior,
            f"expected {priors} priors * {per_prior} = {priors * per_prior} {what} predictions per image, "
            f"actual shape {blob.shape}; check num_classes and share_location",
        )
    return location.shape[0], priors
