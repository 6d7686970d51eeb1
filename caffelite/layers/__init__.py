"""All layer types of the engine: importing this package registers them."""

from caffelite.layers import ssd  # noqa: F401
