"""How long training will take, by what the committed runs took, and the one line that says so before it begins."""

import functools

import pandas as pd

from mdr_core.config import Config
from mdr_core.files import REPOSITORY
from mdr_core.runs import identity

SIMILAR = ["backbone", "crop", "device"]  # runs that take the same time for an image


@functools.cache
def seconds_an_image() -> dict[tuple, float]:
    """SIMILAR -> seconds that a committed run took for each training image of its batches, its evaluation included: of the fastest tenth
    of all epochs, since others may have waited for something else."""
    columns = [
        "key",
        "epoch",
        "seconds",
        *(f"config.{name}" for name in (*SIMILAR, "iterations", "batch_size")),
    ]
    tables = [
        pd.read_csv(path, usecols=columns)
        for path in sorted((REPOSITORY / "reports").glob("*/runs.csv"))
    ]
    if not tables:
        return {}
    epochs = pd.concat(tables)
    epochs["each"] = epochs.seconds / epochs["config.iterations"] / epochs["config.batch_size"]
    return (
        epochs[epochs.epoch > 0]
        .groupby([f"config.{name}" for name in SIMILAR])
        .each.quantile(0.1)
        .to_dict()
    )


def seconds(config: Config) -> float | None:
    """How long a run took on one core (or one GPU) where runs like it were committed; None where there are none."""
    each = seconds_an_image().get(tuple(getattr(config, name) for name in SIMILAR))
    return each and each * config.batch_size * config.iterations * config.epochs


def duration(total: float) -> str:
    """``40 s``, ``12 min`` or ``3.5 hours``."""
    return (
        f"{total:.0f} s"
        if total < 60
        else f"{total / 60:.0f} min"
        if total < 5400
        else f"{total / 3600:.1f} hours"
    )


def line(count: int, missing: list[Config], jobs: int) -> str:
    """How many of ``count`` runs are stored and how many are trained, for about how long on ``jobs`` processes; and where the code was
    edited, what that means."""
    times = [seconds(config) for config in missing]
    total = sum(t for t in times if t) / jobs
    about = f", about {duration(total)}" + f" on {jobs} processes" * (jobs > 1) if total else ""
    unknown = sum(t is None for t in times)
    about += (
        f" and {unknown} of unknown length" * (unknown > 0)
        if total
        else ", of unknown length" * (unknown > 0)
    )
    said = f"{count} runs: {count - len(missing)} stored, {len(missing)} to train{about}"
    return f"{said}. {identity.notice()}" if identity.notice() else said
