"""Layers that read data from files, databases and memory, and the one that writes: importing registers them."""

from caffelite.layers.data import annotated, data, hdf5, image_data, memory  # noqa: F401
