"""What names a dataset's content: the bytes of its image files, labels, class names, split, image size, and DECODING.

Drawn characters: DRAWING and the seed. The decoded pixels do not enter, so that two installations share a run whose pixels differ
in the last place. Only the standard library is imported here.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

DECODING = 1  # version of the code that decodes and resizes images: raise it when a pixel may change by more than rounding
DRAWING = 1  # version of the code that draws characters: likewise


class Listed(NamedTuple):
    """Images of some classes, as the data's fingerprint takes them.

    Attributes:
        part: "train", "test" or "gallery". images: sha256 of each file. labels: of each image, 0 ... C - 1. class_names: C.
    """

    part: str
    images: list[str]
    labels: list[int]
    class_names: tuple[str, ...]


def sha256(thing: object) -> str:
    """Of bytes as they are, of anything else as JSON."""
    return hashlib.sha256(
        thing if isinstance(thing, bytes) else json.dumps(thing, sort_keys=True).encode()
    ).hexdigest()


def data_fingerprint(splits: Iterable[Listed], image_size: int, upright: bool) -> str:
    """64 hexadecimal digits: equal for a zip file and the folder unpacked from it, wherever they lie.

    Args:
        upright: the images are turned as their EXIF says.
    """
    return sha256([f"decoding {DECODING}", image_size, upright, [list(split) for split in splits]])


def drawn_fingerprint(name: str, seed: int = 0) -> str:
    """Of the drawn characters, ``drawn`` or ``drawn_pretraining``."""
    return sha256([f"drawing {DRAWING}", name, seed])
