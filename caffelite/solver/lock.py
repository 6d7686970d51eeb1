"""One training at a time writes the files of a prefix."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from caffelite.errors import SolverError
from caffelite.proto.files import remove_temporaries

log = logging.getLogger("caffelite")

# what follows the prefix in the names of a training's files; those of a longer prefix, which may run, do not match
_OF_A_TRAINING = r"_(iter_\d+\.[^_]*|loss\.jsonl|classes\.txt)"


@contextmanager
def locked(prefix: str | Path) -> Iterator[None]:
    """Inside, no other process gets the lock of a snapshot_prefix; what a killed one left half written is deleted.

    The system frees the lock of a process that dies. Raises SolverError that names the process which has it.
    """
    prefix = Path(prefix)
    path = prefix.with_name(f".{prefix.name}.lock")
    try:
        file = _acquired(path)
    except BlockingIOError as e:
        raise SolverError(
            f"{prefix}: {e.strerror or 'another process'} trains and writes its snapshots there: let it end, or "
            "choose another folder or snapshot_prefix"
        ) from None
    except OSError as e:
        raise SolverError(
            f"snapshot_prefix {str(prefix)!r}: cannot write to the folder {str(prefix.parent)!r} ({e.strerror}): make "
            "sure that it exists and is writable"
        ) from e
    with file:
        with suppress(OSError):  # a full disk, of which the snapshots will tell
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        remove_temporaries(prefix.parent, re.escape(prefix.name) + _OF_A_TRAINING)
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _acquired(path: Path):
    while True:
        file = open(path, "a+")  # noqa: SIM115 - it stays open as long as the lock is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # whoever had the lock deletes the file at the end: then this one is no longer what others find there
            if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                file.truncate(0)
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError as e:
            file.seek(0)
            with file:
                raise BlockingIOError(e.errno, file.read()) from None
        except OSError as e:
            if e.errno in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                log.warning("%s: this file system has no locks: do not train twice at once to one prefix", path)
                return file
            file.close()
            raise
        file.close()
