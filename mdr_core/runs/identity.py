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
from pathlib import Path

from mdr_core.config import Config, pretraining
from mdr_core.data.fingerprint import drawn_fingerprint, sha256

PACKAGE = Path(__file__).parent.parent
VERSIONS = Path(__file__).parent / "code_versions.csv"
CODE = (
    "regularizer",
    "losses",
    "training",
    "config",
    "distributed",
    "data/augmentation",
    "data/batches",
    "networks/embedding",
    "networks/backbones",
    "networks/bn_inception",
    "networks/fold_batch_norm",
    "evaluation/epoch",
    "evaluation/retrieval",
    "evaluation/class_centers",
    "evaluation/pair_statistics",
)


@functools.cache
def texts() -> dict[str, str]:
    """File of CODE -> sha256 of its text, read as UTF-8, with the line endings of Unix."""
    read = {name: (PACKAGE / f"{name}.py").read_bytes().decode() for name in CODE}
    return {
        name: sha256(text.replace("\r\n", "\n").replace("\r", "\n").encode())
        for name, text in read.items()
    }


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
    return {
        "hash": code_version(),
        "numbers": version,
        "date": date,
        "change": change,
        "checked": checked,
        "files": files,
    }


def differing() -> list[str]:
    """The files whose text is not that of the newest line."""
    last = dict(pair.split("=") for pair in known()[-1]["files"].split())
    return [
        f"mdr_core/{name}.py" for name, digest in texts().items() if last.get(name) != digest[:8]
    ]


def notice() -> str | None:
    """One line for who has edited the code, None where the present text has a line in ``code_versions.csv``."""
    if numbers() is not None:
        return None
    return (
        f"{', '.join(differing())} differs from the code of {known()[-1]['date']}: runs of its own. If its numbers are meant to be the "
        'same, make same CHANGE="what changed" checks that and shares the stored runs'
    )


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
    elif (
        config.weights == "classes"
    ):  # it starts from a run of its own, on drawn images as this one is
        values["weights"] = key_of(pretraining(config), drawn_fingerprint("drawn_pretraining"))
    return sha256([values, data, numbers() or code_version()])[:16]
