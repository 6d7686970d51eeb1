"""Boxes that may hold an object: made by selective search, read from the authors' files, or dense."""
