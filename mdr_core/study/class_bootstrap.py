"""Uncertainty over test classes: would other classes of the same kind have told the same?

The test classes are drawn anew, with replacement, as many as there are. Recall@1 of a resample is
the number of right answers over the number of queries of its classes. Two methods are compared on
the same resamples, so that what makes a class hard for both cancels.
"""

from typing import NamedTuple

import numpy as np

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
