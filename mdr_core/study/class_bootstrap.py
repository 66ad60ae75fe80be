"""Uncertainty over test classes: would other classes of the same kind have told the same?

The test classes are drawn anew, with replacement, as many as there are. Recall@1 of a resample is
the number of right answers over the number of queries of its classes. Two methods are compared on
the same resamples, so that what makes a class hard for both cancels.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from mdr_core.study import statistics

RESAMPLES = 10_000
CHUNK = 500  # of them at a time: with 11,316 classes, 45 MB


class Bootstrap(NamedTuple):
    """A difference with its 95 % interval (percentiles), the two-sided p of none, and its seeds."""

    mean: float
    low: float
    high: float
    p: float
    seeds: int


def difference(queries: np.ndarray, one: np.ndarray, other: np.ndarray) -> Bootstrap:
    """Return ``one`` − ``other`` in percent of the queries, with its uncertainty over the classes.

    Args:
        queries: (C,) of each class.
        one, other: (S, C) sums over the queries of each class: right answers, or AP@R. A row per
            seed; the mean over the seeds counts.
    """
    gain = one.mean(axis=0) - other.mean(axis=0)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES // CHUNK):
        times = generator.multinomial(len(queries), np.full(len(queries), 1 / len(queries)), CHUNK)
        found.append(100 * (times @ gain) / (times @ queries))
    drawn = np.concatenate(found)
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(2 * (tail + 1) / (RESAMPLES + 1), 1.0)
    mean = 100 * float(gain.sum() / queries.sum())
    return Bootstrap(mean, float(low), float(high), float(p), len(one))


def with_counts(
    frame: pd.DataFrame, findings: Callable[[str], dict[str, torch.Tensor] | None]
) -> pd.DataFrame:
    """Add the right answers by class to the last epochs of older runs, from their findings.

    Args:
        frame: a row per run and epoch, with ``key`` and ``epoch``.
        findings: returns those of a run by its key, or None; asked where the counts are absent.

    Returns:
        ``frame`` with ``test_class_queries`` and ``test_class_right``: lists of C numbers where the
        record or the findings have them, NaN elsewhere.
    """
    columns = ["test_class_queries", "test_class_right"]
    frame = frame.reindex(columns=list(dict.fromkeys([*frame, *columns])))
    frame[columns] = frame[columns].astype(object)
    last = statistics.final(frame)  # a run that two labels name has two rows
    for place, key in last[last.test_class_right.isna()].key.items():
        found = findings(key)
        if found is None:
            continue
        labels = found["labels"].long()  # those runs' queries are their gallery
        right = labels[found["nearest"][:, 0].long()] == labels
        frame.at[place, "test_class_queries"] = labels.bincount().tolist()
        frame.at[place, "test_class_right"] = labels.bincount(right.double()).int().tolist()
    return frame
