"""Name a run: by its settings alone where it is committed, on this machine by data and code, too.

* **A committed run** is a published result: settings and the dataset's name find it, whoever has
  which copy of the data.
* **A local run** is a cache: the fingerprint of the data and the text of every file that computes
  numbers enter its name, so that after any edit nothing stale is read.
"""

import functools
import inspect
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdr_core.config import Config
from mdr_core.data.fingerprint import sha256
from mdr_core.files import CHECKOUT, REPOSITORY

ONLY_EVALUATE = ("ks", "train_images")
ONLY_MDR = ("levels", "learn_levels", "momentum", "statistics", "level_weight", "decay_levels")
COMPUTE = (  # the files whose text enters the name of a local run
    "regularizer", "losses", "config", "training",
    "data/augmentation", "data/batches", "data/drawn_characters", "networks/*", "evaluation/*",
)  # fmt: skip


def settings(config: Config) -> dict[str, Any]:
    """Return what decides a run's numbers: the settings that differ from their defaults.

    Those that only evaluate are left out and, where λ is 0, those of MDR.
    """
    default = Config()
    values = {k: v for k, v in config.to_dict().items() if v != getattr(default, k)}
    for name in (*ONLY_EVALUATE, *(ONLY_MDR if config.mdr_weight == 0 else ())):
        values.pop(name, None)
    if Path(config.weights).is_file():
        values["weights"] = sha256(Path(config.weights).read_bytes())
    return values


def committed_name(config: Config) -> str:
    """Return the name under which a committed run is found."""
    return sha256(settings(config))


def local_name(config: Config, fingerprint: str, train: Callable | None = None) -> str:
    """Return the name of a run's folder on this machine, 16 hexadecimal digits.

    Args:
        fingerprint: of the dataset.
        train: the function that trains it where that is not the study's own loop; the source of
            its module enters.
    """
    parts: list[object] = [settings(config), fingerprint, code_digest()]
    if train is not None:
        parts.append(source_of(train))
    return sha256(parts)[:16]


def source_of(train: Callable) -> str:
    """Return the text of the module that a function stands in; in a notebook, its own text."""
    module: Any = inspect.getmodule(train)
    return inspect.getsource(module if getattr(module, "__file__", None) else train)


@functools.cache
def code_digest() -> str:
    """Return the digest of the present text of the files that compute numbers."""
    paths = sorted(path for name in COMPUTE for path in (CHECKOUT / "mdr_core").glob(f"{name}.py"))
    return sha256([path.read_text(encoding="utf-8") for path in paths])


@functools.cache
def edited() -> str:
    """Return a line on the files that compute numbers and differ from the commit; "": none does."""
    names = [f"mdr_core/{name}.py" for name in COMPUTE]
    changed = git("diff", "--name-only", "HEAD", "--", *names).split()
    if not changed:
        return ""
    return (
        f"{', '.join(changed)} differs from the commit: the committed runs were made without that "
        "edit. STORED=0 trains with it."
    )


def git(*arguments: str) -> str:
    """Return what git says in the study's folder; nothing where there is no git."""
    if not (REPOSITORY / ".git").exists():
        return ""
    try:
        return subprocess.check_output(
            ["git", *arguments], cwd=REPOSITORY, stderr=subprocess.DEVNULL, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
