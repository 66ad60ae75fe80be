"""How much of the gradient easy and hard pairs give, with and without MDR: read from what the runs recorded.

Easy are positives that lie near and negatives that lie far, hard the other way round. ``|dL/dd_ij|`` of the triplet loss
was recorded by decile of distance, for positive and for negative pairs apart (:mod:`mdr_core.evaluation.pair_statistics`); L_MDR's is the
same for every pair, lambda / (B (B - 1) sigma), by its definition.
"""

import numpy as np
import pandas as pd

from mdr_core.study import statistics


def by_decile(row: pd.Series) -> dict[str, np.ndarray]:
    """One run's gradient at one epoch, in percent of its total: ``positive`` and ``negative``, ten deciles each, near to far;
    NaN where there is none (no triplet is violated, no MDR).

    Args:
        row: with ``gradient_positive``, ``gradient_negative``, ``gradient_mdr``, ``mdr_weight``, ``batch_size`` and
            ``images_per_class``.
    """
    share = (row.images_per_class - 1) / (row.batch_size - 1)  # of positive pairs among all
    every = row.mdr_weight * row.gradient_mdr / 10
    positive = np.array(row.gradient_positive) + every * share
    negative = np.array(row.gradient_negative) + every * (1 - share)
    total = positive.sum() + negative.sum() or np.nan
    return {"positive": 100 * positive / total, "negative": 100 * negative / total}


def panels(last: pd.DataFrame) -> tuple[dict[str, dict], dict[str, float]]:
    """What :func:`mdr_core.report.plots.deciles` draws of one dataset's runs, as :func:`shares` gives them: title -> method -> (mean, half),
    ten each in percent; and title -> a decile's share of all pairs."""
    drawn, even = {}, {}
    share = 10 * (last.images_per_class.iloc[0] - 1) / (last.batch_size.iloc[0] - 1)
    last = last[last.easy.notna()]
    for kind, title, each in (
        ("positive", "positive pairs (hard: far)", share),
        ("negative", "negative pairs (hard: near)", 10 - share),
    ):
        even[title] = each
        for method, group in last.groupby("method", sort=False):
            found = np.stack([by_decile(row)[kind] for _, row in group.iterrows()])
            figures = [statistics.interval(column) for column in found.T]
            drawn.setdefault(title, {})[method] = (
                np.array([f["mean"] for f in figures]),
                np.array([f["half"] for f in figures]),
            )
    return drawn, even


def easy_and_hard(row: pd.Series) -> dict[str, float]:
    """In percent of the gradient: ``easy``, from the easier half of the pairs; ``hardest``, from the hardest tenth."""
    parts = by_decile(row)
    return {
        "easy": float(parts["positive"][:5].sum() + parts["negative"][5:].sum()),
        "hardest": float(parts["positive"][9] + parts["negative"][0]),
    }


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` (rows of runs and epochs) with the columns ``easy`` and ``hardest``.

    They are NaN where there is no gradient (no triplet is violated, and there is no MDR) and where the run is not stored.
    """
    found = statistics.ran(frame)
    parts = [easy_and_hard(row) for _, row in found.iterrows()]
    return frame.join(
        pd.DataFrame(parts, index=found.index, columns=["easy", "hardest"], dtype=float)
    )
