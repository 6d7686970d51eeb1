"""Boxes that may hold an object: made by selective search, or read from the authors' files."""
