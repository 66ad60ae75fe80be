"""Name a run by its settings where it is committed; on this machine by data and code, too.

A committed run is a published result, whoever has which copy of the data. A local run is a cache:
after any edit of a file that computes numbers, it has another name.
"""

import functools
import inspect
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdr_core.config import Config
from mdr_core.files import CHECKOUT, REPOSITORY, sha256
from mdr_core.losses import own

ONLY_EVALUATE = ("ks", "train_images")
ONLY_MDR = ("levels", "learn_levels", "momentum", "statistics", "level_weight", "decay_levels")
COMPUTE = (  # the files whose text enters the name of a local run
    "regularizer", "losses", "config", "training",
    "data/augmentation", "data/batches", "data/drawn_characters", "networks/*",
    "evaluation/epoch", "evaluation/retrieval", "evaluation/pair_statistics",
)  # fmt: skip


def settings(config: Config) -> dict[str, Any]:
    """Return what decides a run's numbers: settings that differ from their defaults.

    Without those that only evaluate and, where λ is 0, without those of MDR.
    """
    left_out = ONLY_EVALUATE if config.mdr_weight else ONLY_EVALUATE + ONLY_MDR
    default, values = Config(), {k: v for k, v in config.to_dict().items() if k not in left_out}
    if Path(config.weights).is_file():
        values["weights"] = sha256(Path(config.weights).read_bytes())
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def committed_name(config: Config) -> str:
    """Return the name under which a committed run is found."""
    return sha256(settings(config))


def local_name(config: Config, fingerprint: str, train: Callable | None = None) -> str:
    """Return the name of a run's folder on this machine, 16 hexadecimal digits.

    The source of another ``train`` than the study's enters, and that of a loss of the reader's.
    """
    if train is not None and not hasattr(train, "source"):  # worker processes have no notebook
        train.source = source_of(train)  # type: ignore[attr-defined]
    text = getattr(train, "source", "")
    if ":" in config.loss:
        text += Path(inspect.getfile(type(own(config.loss)))).read_text(encoding="utf-8")
    return sha256([settings(config), fingerprint, code_digest(), text])[:16]


def source_of(function: Callable) -> str:
    """Return the text of a function's module; in a notebook its own, and of those it calls."""
    module: Any = inspect.getmodule(function)
    if getattr(module, "__file__", None):
        return inspect.getsource(module)
    texts, left = dict[Any, str](), list[Any]([function])
    while left:
        each = left.pop()
        if inspect.isfunction(each) and each.__module__ == function.__module__:
            if each not in texts:
                left += [each.__globals__.get(name) for name in each.__code__.co_names]
            texts[each] = inspect.getsource(each)
    return "".join(texts.values())


@functools.cache
def code_digest() -> str:
    """Return the digest of the present text of the files that compute numbers."""
    paths = sorted(path for name in COMPUTE for path in (CHECKOUT / "mdr_core").glob(f"{name}.py"))
    return sha256([path.read_text(encoding="utf-8") for path in paths])


@functools.cache
def edited() -> str:
    """Return a line on the files that compute numbers and differ from the commit; "": none does."""
    names = [f"mdr_core/{name}.py" for name in COMPUTE]
    changed = ", ".join(git("diff", "--name-only", "HEAD", "--", *names).split())
    line = f"{changed} differs from the commit: the committed runs were made without that edit"
    return f"{line}; STORED=0 trains with it" if changed else ""


def git(*arguments: str) -> str:
    """Return what git says in the study's folder; nothing where there is no git."""
    try:
        return subprocess.run(
            ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True
        ).stdout
    except OSError:
        return ""
