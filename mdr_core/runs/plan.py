"""How long training will take, by what the committed runs took."""

import functools

import pandas as pd

from mdr_core.config import Config
from mdr_core.files import REPOSITORY
from mdr_core.runs import identity

SIMILAR = ["backbone", "crop", "device"]  # runs that take the same time for an image


@functools.cache
def seconds_an_image() -> dict[tuple, float]:
    """Return how long similar committed runs took for each training image, evaluation included.

    On a CPU the fastest tenth of all epochs counts, since the others may have waited for something
    else; on a GPU the median, since those runs shared it, two at a time.
    """
    similar = [f"config.{name}" for name in SIMILAR]
    columns = ["epoch", "seconds", "config.iterations", "config.batch_size", *similar]
    paths = sorted((REPOSITORY / "reports").glob("*/runs.csv"))
    if not paths:
        return {}
    epochs = pd.concat(pd.read_csv(path, usecols=columns) for path in paths)
    epochs = epochs[epochs.epoch > 0]
    each = epochs.seconds / epochs["config.iterations"] / epochs["config.batch_size"]
    groups = each.groupby([epochs[name] for name in similar])
    return {key: group.quantile(0.1 if key[-1] == "cpu" else 0.5) for key, group in groups}


def seconds(config: Config) -> float | None:
    """Return how long a run takes on a core (or GPU); None if none like it is committed."""
    each = seconds_an_image().get(tuple(getattr(config, name) for name in SIMILAR))
    return each and each * config.batch_size * config.iterations * config.epochs


def duration(total: float) -> str:
    """Return ``40 s``, ``12 min`` or ``3.5 hours``."""
    if total < 60:
        return f"{total:.0f} s"
    return f"{total / 60:.0f} min" if total < 5400 else f"{total / 3600:.1f} hours"


def line(count: int, missing: list[Config], jobs: int) -> str:
    """Return how many of ``count`` runs are stored, and how many are trained for how long.

    Where the code was edited, the line also says what that means. ``jobs``: processes.
    """
    times = [seconds(config) for config in missing]
    total, unknown = sum(t for t in times if t) / jobs, times.count(None)
    text = f"{count} runs: {count - len(missing)} stored, {len(missing)} to train"
    if total:
        text += f", about {duration(total)}" + f" on {jobs} processes" * (jobs > 1)
    if unknown:
        text += f" and {unknown} of unknown length" if total else ", of unknown length"
    return ". ".join(filter(None, (text, identity.notice())))
