"""Names of files that stand in files: they must not lead out of the folder that they belong to."""

from __future__ import annotations

from pathlib import PurePosixPath


def leads_outside(name: str) -> bool:
    """Whether a name is absolute, or goes up by `..`, on this or another system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1])
