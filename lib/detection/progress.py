"""How far long work is: a bar on a terminal, and elsewhere a line in the log every half minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS = 30.0
"""Between two lines."""


class Progress:
    """Counts images that are done of `total`; a context manager that ends the bar."""

    def __init__(self, total: int, what: str):
        self.total, self.what, self.done = total, what, 0
        # on no terminal, and where there is nothing to wait for, there is no bar
        self.bar = tqdm(total=total, desc=what, unit="image", disable=None if total else True)
        self.began = self.told = time.monotonic()

    def update(self, count: int = 1) -> None:
        """So many more images are done."""
        self.done += count
        self.bar.update(count)
        now = time.monotonic()
        if self.bar.disable and now - self.told >= SECONDS and self.done < self.total:
            self.told = now
            left = (now - self.began) / self.done * (self.total - self.done)
            logger.info("%s: %d of %d images, about %s left", self.what, self.done, self.total, duration(left))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()


def watched(items: Iterable, total: int, what: str) -> Iterator:
    """The items one by one, counted when the next is asked for."""
    with Progress(total, what) as progress:
        for item in items:
            yield item
            progress.update()


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    for name, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} seconds"
