"""Name a run by its configuration, its data, and the code that computes its numbers.

A run's key is a hash of these three. A stored run is found on any machine, only where it belongs.

* **configuration**: every setting that differs from its default.
* **data**: the dataset's fingerprint (:mod:`mdr_core.data.fingerprint`). Decoded pixels do not
  enter: two installations share a run whose pixels differ in the last place.
* **code**: the *number version* of the text of CODE, by ``code_versions.csv``. Its lines are texts,
  each with what its numbers were checked on. A text without a line has runs of its own.

Only the standard library is imported here: every Python can check that it makes the same keys.
"""

import csv
import functools
from pathlib import Path

from mdr_core.config import Config, pretraining
from mdr_core.data.fingerprint import drawn_fingerprint, sha256

PACKAGE = Path(__file__).parent.parent
VERSIONS = Path(__file__).parent / "code_versions.csv"
LOOP = ("regularizer", "losses", "training", "config", "distributed")
# The text of drop_in.py that trained its first runs. It has gained losses since, and has changed no
# number: of any text that does, the digest stands here.
LIBRARY_LOOP = "16783559b1ea4d3927f0e392640a894faa1bd4924244bfb238055f71a692a938"
CODE = (*LOOP, "data/augmentation", "data/batches", "networks/*", "evaluation/*")


@functools.cache
def texts() -> dict[str, str]:
    """Return file -> digest of its text."""
    paths = sorted(path for name in CODE for path in PACKAGE.glob(f"{name}.py"))
    paths = [path for path in paths if path.name != "__init__.py"]
    return {path.relative_to(PACKAGE).with_suffix("").as_posix(): digest(path) for path in paths}


def digest(path: Path) -> str:
    """Return the sha256 of a text in UTF-8, with the line endings of Unix."""
    return sha256(path.read_text(encoding="utf-8").encode())


def code_hash() -> str:
    """Return 64 hexadecimal digits that name the present text of CODE, comments included."""
    return sha256(texts())


@functools.cache
def code_versions() -> list[dict[str, str]]:
    """Return the lines of ``code_versions.csv``, oldest first."""
    with open(VERSIONS, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def number_version() -> str | None:
    """Return the number version of the present text; None where nobody has checked its numbers."""
    return next((line["numbers"] for line in code_versions() if line["hash"] == code_hash()), None)


def line_of(change: str, checked: str, version: str, date: str) -> dict[str, str]:
    """Return the present text's line for ``code_versions.csv``."""
    return {
        "hash": code_hash(),
        "numbers": version,
        "date": date,
        "change": change,
        "checked": checked,
        "files": " ".join(f"{name}={digest[:8]}" for name, digest in texts().items()),
    }


def notice() -> str | None:
    """Return one line for who has edited the code; None where the present text has its line."""
    if number_version() is not None:
        return None
    last = code_versions()[-1]
    recorded = dict(pair.split("=") for pair in last["files"].split())
    edited = [name for name, digest in texts().items() if recorded.get(name) != digest[:8]]
    files = ", ".join(f"mdr_core/{name}.py" for name in edited)
    return (
        f"{files} differs from the code of {last['date']}: runs of its own. If its numbers are "
        'meant to be the same, make same CHANGE="what changed" checks that and shares the stored '
        "runs"
    )


def key_of(config: Config, data: str) -> str:
    """Return the 16 hexadecimal digits that name a run on ``data``, a dataset's fingerprint.

    Settings at their default do not enter, so that stored runs stay valid when a setting is added.
    """
    default = Config()
    values = {k: v for k, v in config.to_dict().items() if v != getattr(default, k)}
    if Path(config.weights).is_file():
        values["weights"] = sha256(Path(config.weights).read_bytes())
    elif config.weights == "classes":  # they are a run's, which trains on drawn characters
        values["weights"] = key_of(pretraining(config), drawn_fingerprint("drawn_pretraining"))
    if config.loop != "study":
        values["loop"] = LIBRARY_LOOP
    return sha256([values, data, number_version() or code_hash()])[:16]
