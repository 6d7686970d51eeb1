"""What the tests of batches share."""

from caffelite.blob import Blob


def taken(staged) -> list[Blob]:
    """Blobs that took a staged batch."""
    blobs = []
    with staged as batch:
        for values in batch:
            blobs.append(Blob())
            blobs[-1].put(*values)
    return blobs
