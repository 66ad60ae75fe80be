"""How much of the gradient easy and hard pairs give, with and without MDR, from what runs recorded.

Easy are positives that lie near and negatives that lie far; hard are the others. A record has
``|dL/dd_ij|`` of the triplet loss by decile of distance: this is measured. L_MDR's part follows
from its definition: λ / (B (B − 1) σ), the same for every pair.
"""

import numpy as np
import pandas as pd

from mdr_core.evaluation.pair_statistics import DRAWS
from mdr_core.study import statistics

COLUMNS = ["easy", "hardest", "violated"]
ENOUGH = 200  # violated triplets of a run, to compare shares by


def by_decile(row: pd.Series) -> dict[str, np.ndarray]:
    """Return one epoch's gradient in percent of its total, by decile of distance.

    ``positive`` and ``negative`` have ten numbers each, nearest pairs first; NaN where there is no
    gradient (no triplet is violated, and there is no MDR).

    Args:
        row: with ``gradient_positive``, ``gradient_negative``, ``gradient_mdr``, ``mdr_weight``,
            ``batch_size`` and ``images_per_class``.
    """
    positives = (row.images_per_class - 1) / (row.batch_size - 1)  # share of positive pairs
    mdr = row.mdr_weight * row.gradient_mdr / 10
    positive = np.array(row.gradient_positive) + mdr * positives
    negative = np.array(row.gradient_negative) + mdr * (1 - positives)
    total = positive.sum() + negative.sum() or np.nan
    return {"positive": 100 * positive / total, "negative": 100 * negative / total}


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` (rows of runs and epochs) with three columns, NaN where a run is not stored.

    ``easy``: percent of the gradient from the easier half of the pairs. ``hardest``: from the
    hardest tenth. ``violated``: how many violated triplets the triplet loss's part rests on.
    """
    rows = []
    ran = statistics.ran(frame)
    for _, row in ran.iterrows():
        found = by_decile(row)
        drawn = DRAWS * row.batch_size * (row.images_per_class - 1)
        rows.append((
            found["positive"][:5].sum() + found["negative"][5:].sum(),
            found["positive"][9] + found["negative"][0],
            round(drawn * sum(row.gradient_positive)),
        ))  # fmt: skip
    return frame.join(pd.DataFrame(rows, index=ran.index, columns=COLUMNS, dtype=float))


def few_violated(rows: pd.DataFrame) -> str:
    """Return why methods' shares cannot be compared: one has few violated triplets; else ""."""
    least = rows.groupby("method").violated.mean().min()
    few = f"{least:.0f} violated triplets a run, fewer than {ENOUGH}"
    return few if least < ENOUGH else ""
