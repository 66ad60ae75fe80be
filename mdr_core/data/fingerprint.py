"""Name a dataset's content: image files, labels, class names, split, image size and DECODING.

The decoded pixels do not enter, so that two installations whose pixels differ in the last place
share a run. Runs on JPEG files stay valid where the decoding of other files changes. Only the
standard library is imported here.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

# Versions of the code that decodes images and that draws characters. They are to be raised when a
# pixel may change by more than rounding. NOT_JPEG enters the digest of each file that is no JPEG.
DECODING = 1
NOT_JPEG = 2
DRAWING = 1
JPEG = b"\xff\xd8\xff"  # how a JPEG file begins, whatever its name


class SplitContent(NamedTuple):
    """A split's name, digest of each image file, label of each image, and names of the classes."""

    split: str
    digests: list[str]
    labels: list[int]
    class_names: tuple[str, ...]


def sha256(content: object) -> str:
    """Return the hexadecimal digest of bytes as they are, of anything else as JSON."""
    if not isinstance(content, bytes):
        content = json.dumps(content, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()


def image_digest(content: bytes) -> str:
    """Return the sha256 of an image file; of one that is no JPEG, with the version NOT_JPEG."""
    return sha256(content) + f"-{NOT_JPEG}" * (not content.startswith(JPEG))


def data_fingerprint(splits: Iterable[SplitContent], image_size: int, upright: bool) -> str:
    """Return 64 hexadecimal digits. ``upright``: EXIF rotation is applied to the images."""
    return sha256([f"decoding {DECODING}", image_size, upright, [list(split) for split in splits]])


def drawn_fingerprint(name: str, seed: int = 0) -> str:
    """Return the fingerprint of the drawn characters, ``drawn`` or ``drawn_pretraining``."""
    return sha256([f"drawing {DRAWING}", name, seed])
