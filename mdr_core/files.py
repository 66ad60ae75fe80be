"""Write files whole or not at all, and let one process at a time work on a folder."""

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from mdr_core.errors import StudyError

REPOSITORY = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def replacing(path: Path, partial: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a file that moves to ``path`` at the end, so that no reader ever sees half of it.

    Until then it lies at ``partial``, by default a name of this process's own.

    Raises:
        OSError: it cannot be written (a full disk). After any error nothing is left of it.
    """
    partial = partial or path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, content: bytes | str) -> None:
    """Write a file as :func:`replacing` does."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def check_writable(folder: Path, setting: str) -> None:
    """Refuse a folder that no file can be made in, before hours are spent; it is not made.

    The message names the ``setting`` that takes another folder.

    Raises:
        StudyError: no file can be made there, or in the folder above it that exists.
    """
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as problem:
        raise StudyError(
            f"{folder} cannot be written to ({problem.strerror}): set {setting} to another folder"
        ) from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time work on a folder or file; its death releases the lock, too."""
    lock = path.with_suffix(".lock")
    with FileLock(lock):
        try:
            yield
        finally:  # while it is held: who waits for it finds it gone and makes a new one
            lock.unlink()
