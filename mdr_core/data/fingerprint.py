"""Name a dataset's content: image files, labels, class names, split, image size and DECODING.

The decoded pixels do not enter, so that two installations whose pixels differ in the last place
share a run. Only the standard library is imported here.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

# Versions of the code that decodes images and that draws characters. They are to be raised when a
# pixel may change by more than rounding.
DECODING = 1
DRAWING = 1


class SplitContent(NamedTuple):
    """A split's name, sha256 of each image file, label of each image, and names of the classes."""

    split: str
    digests: list[str]
    labels: list[int]
    class_names: tuple[str, ...]


def sha256(content: object) -> str:
    """Return the hexadecimal digest of bytes as they are, of anything else as JSON."""
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def data_fingerprint(splits: Iterable[SplitContent], image_size: int, upright: bool) -> str:
    """Return 64 hexadecimal digits, equal for a zip file and the folder unpacked from it.

    ``upright``: EXIF rotation is applied to the images.
    """
    return sha256([f"decoding {DECODING}", image_size, upright, [list(split) for split in splits]])


def drawn_fingerprint(name: str, seed: int = 0) -> str:
    """Return the fingerprint of the drawn characters, ``drawn`` or ``drawn_pretraining``."""
    return sha256([f"drawing {DRAWING}", name, seed])
