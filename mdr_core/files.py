"""Where files are kept, by environment variables (docs/runs.md), and how they are written."""

import contextlib
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock

CHECKOUT = Path(__file__).resolve().parent.parent
INSTALLED = not ((CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / "notebooks").is_dir())
REPOSITORY = Path.cwd() if INSTALLED else CHECKOUT  # the study, or where an installed package works


def folder_of(variable: str, default: Path) -> Path:
    """Return the folder that an environment variable names, in the study, or else the default."""
    given = os.environ.get(variable)
    return REPOSITORY / os.path.expanduser(given) if given else default


def data_roots() -> list[Path]:
    """Return where datasets are looked for, in this order; downloads go to the last."""
    own = folder_of("MDR_DATA_ROOT", REPOSITORY / "data")
    shared = REPOSITORY.parent / "shared" / "data"
    return [own] if os.environ.get("MDR_DATA_ROOT") else [shared, own]


def cache_root() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    default = Path(caches) / "mdr-study" if INSTALLED else REPOSITORY / ".cache"
    return folder_of("MDR_CACHE", default)


def runs_root() -> Path:
    return folder_of("MDR_RUNS", REPOSITORY / "runs")


def sha256(content: object) -> str:
    """Return the hexadecimal digest of bytes as they are, of anything else as JSON."""
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that moves to ``path`` at the end: no reader sees half, no error leaves it."""
    partial = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            yield file
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, content: bytes | str) -> None:
    """Write a file by :func:`replacing`."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time work on a path, whose folder is made; its death ends it, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock := path.with_suffix(".lock")), contextlib.ExitStack() as at_the_end:
        at_the_end.callback(lock.unlink)  # while held: who waits finds it gone, makes a new one
        yield
