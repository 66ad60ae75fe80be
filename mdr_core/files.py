"""Files that are there whole, or not at all; and one process at a time."""

import contextlib
import fcntl
import os
import platform
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def write(path: Path, content: bytes | str) -> None:
    """Write a file and move it into place, so that no reader ever sees half of it.

    Raises:
        OSError: the disk is full, say; nothing is left of the file then.
    """
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(folder: Path):
    """One process at a time works on ``folder`` (or file); the system lets go of the lock when its holder dies."""
    path = folder.with_suffix(".lock")
    while True:
        with open(path, "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            try:
                current = os.stat(path).st_ino == os.fstat(handle.fileno()).st_ino
            except FileNotFoundError:
                current = False
            if current:
                try:
                    yield
                finally:
                    path.unlink()
                return
