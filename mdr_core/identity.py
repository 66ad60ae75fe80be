"""What names a run: its configuration, its data, and the code that computes its numbers.

A run's key is a hash of three things, so that a stored run is found on any machine, and only where it belongs:

* **configuration**: every setting that differs from its default.
* **data**: the bytes of the image files as they are, labels, class names, split, image size, and DECODING. Drawn characters: DRAWING
  and the seed. The decoded pixels do not enter. Pillow, libjpeg and numpy are provenance: two installations share a run whose
  pixels differ in the last place.
* **code**: the *number version* of the text of the files CODE. Texts that give the same numbers share one; ``code_versions.csv`` lists
  them, a line each, with what that was checked on. A text without a line has runs of its own.

Only the standard library is imported here, so that every Python can check that it makes the same keys.
"""

import csv
import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from mdr_core.config import Config, pretraining

DECODING = 1  # version of the code that decodes and resizes images: raise it when a pixel may change by more than rounding
DRAWING = 1  # version of the code that draws characters: likewise
HERE = Path(__file__).parent
VERSIONS = HERE / "code_versions.csv"
CODE = ("regularizer", "losses", "sampling", "augmentation", "models", "bn_inception", "folding", "mechanism", "geometry",
        "training", "evaluation", "retrieval", "distributed", "config")


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
    return hashlib.sha256(thing if isinstance(thing, bytes) else json.dumps(thing, sort_keys=True).encode()).hexdigest()


def data_fingerprint(splits: Iterable[Listed], image_size: int, upright: bool) -> str:
    """64 hexadecimal digits: equal for a zip file and the folder unpacked from it, wherever they lie.

    Args:
        upright: the images are turned as their EXIF says.
    """
    return sha256([f"decoding {DECODING}", image_size, upright, [list(split) for split in splits]])


def drawn_fingerprint(name: str, seed: int = 0) -> str:
    """Of the drawn characters, ``drawn`` or ``drawn_pretraining``."""
    return sha256([f"drawing {DRAWING}", name, seed])


@functools.cache
def texts() -> dict[str, str]:
    """File of CODE -> sha256 of its text, read as UTF-8, with the line endings of Unix."""
    read = {name: (HERE / f"{name}.py").read_bytes().decode() for name in CODE}
    return {name: sha256(text.replace("\r\n", "\n").replace("\r", "\n").encode()) for name, text in read.items()}


def code_version() -> str:
    """64 hexadecimal digits of the text of the files that can change numbers, comments included."""
    return sha256(texts())


@functools.cache
def known() -> list[dict[str, str]]:
    """The lines of ``code_versions.csv``, oldest first."""
    with open(VERSIONS, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def numbers() -> str | None:
    """The number version of the present text, or None where nobody has checked which numbers it gives."""
    return next((line["numbers"] for line in known() if line["hash"] == code_version()), None)


def line_of(change: str, checked: str, version: str, date: str) -> dict[str, str]:
    """The present text's line for ``code_versions.csv``."""
    files = " ".join(f"{name}={digest[:8]}" for name, digest in texts().items())
    return {"hash": code_version(), "numbers": version, "date": date, "change": change, "checked": checked, "files": files}


def differing() -> list[str]:
    """The files whose text is not that of the newest line."""
    last = dict(pair.split("=") for pair in known()[-1]["files"].split())
    return [f"mdr_core/{name}.py" for name, digest in texts().items() if last.get(name) != digest[:8]]


def notice() -> str | None:
    """One line for who has edited the code, None where the present text has a line in ``code_versions.csv``."""
    if numbers() is not None:
        return None
    return (f"{', '.join(differing())} differs from the code of {known()[-1]['date']}: runs of its own. If its numbers are meant to be the "
            'same, make same CHANGE="what changed" checks that and shares the stored runs')


def key_of(config: Config, data: str) -> str:
    """16 hexadecimal digits that name a run.

    Settings at their default do not enter, so that a setting added later leaves the stored runs valid.

    Args:
        data: the dataset's fingerprint.
    """
    default = Config()
    values = {k: v for k, v in config.to_dict().items() if v != getattr(default, k)}
    if Path(config.weights).is_file():
        values["weights"] = sha256(Path(config.weights).read_bytes())
    elif config.weights == "classes":  # it starts from a run of its own, on drawn images as this one is
        values["weights"] = key_of(pretraining(config), drawn_fingerprint("drawn_pretraining"))
    return sha256([values, data, numbers() or code_version()])[:16]
