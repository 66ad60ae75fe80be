"""Where this machine keeps data, caches and runs; files written whole; a folder worked on alone.

Environment variables say what the machine is. A relative folder is one in the study.

| variable | what | default |
|---|---|---|
| ``MDR_DATA_ROOT`` | folder of the datasets | ``../shared/data``, then ``data``, in the study |
| ``MDR_CACHE`` | decoded images, unpacked files | ``.cache`` in the study, or the user's cache |
| ``MDR_RUNS`` | this machine's runs | ``runs`` in the study |
| ``MDR_JOBS`` | runs trained at a time | one per core, one on a GPU |
| ``MDR_SCHEDULER`` | a Dask scheduler to train on, as ``tcp://host:8786`` | none |
| ``STORED`` | 1: committed runs are taken; 0: they are not looked at | by profile |
"""

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

from mdr_core.errors import StudyError

CHECKOUT = Path(__file__).resolve().parent.parent
INSTALLED = not (CHECKOUT / "pyproject.toml").is_file()
REPOSITORY = Path.cwd() if INSTALLED else CHECKOUT  # the study, or where an installed package works


def data_roots() -> list[Path]:
    """Return where datasets are looked for, in this order; downloads go to the last."""
    if given := os.environ.get("MDR_DATA_ROOT"):
        return [REPOSITORY / os.path.expanduser(given)]
    return [REPOSITORY.parent / "shared" / "data", REPOSITORY / "data"]


def cache_root() -> Path:
    """Return the folder of what can be made again: decoded images, unpacked archives."""
    if given := os.environ.get("MDR_CACHE"):
        return REPOSITORY / os.path.expanduser(given)
    if INSTALLED:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdr-study"
    return REPOSITORY / ".cache"


def runs_root() -> Path:
    """Return the folder of this machine's runs."""
    return REPOSITORY / os.path.expanduser(os.environ.get("MDR_RUNS") or "runs")


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
