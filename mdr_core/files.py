"""Files that are there whole, or not at all."""

import os
from pathlib import Path


def write(path: Path, content: bytes | str) -> None:
    """Write a file and move it into place, so that no reader ever sees half of it.

    Raises:
        OSError: the disk is full, say; nothing is left of the file then.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
