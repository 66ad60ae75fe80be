"""Means and 95 % intervals over seeds, plain and paired. Student's t: the seeds are few."""

import numpy as np
import pandas as pd
from scipy.special import stdtrit  # Student's t; scipy.stats has it too, but takes half a second to import


def ran(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of stored runs: those where ``stored`` is true, or all of a table without that column."""
    return frame[frame.stored.astype(bool)] if "stored" in frame else frame


def interval(values, confidence: float = 0.95) -> dict[str, float]:
    """Mean and the half-width of its confidence interval.

    Args:
        values: one number per seed; NaN where a seed has none (it was not run, say), which does not count.

    Returns:
        ``{"mean", "half", "n"}``; ``half`` is NaN for fewer than two values: one seed has no interval.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    n = len(values)
    if n < 2:
        return {"mean": float(values.mean()) if n else float("nan"), "half": float("nan"), "n": n}
    half = stdtrit(n - 1, 0.5 + confidence / 2) * values.std(ddof=1) / np.sqrt(n)
    return {"mean": float(values.mean()), "half": float(half), "n": n}


def over_seeds(frame: pd.DataFrame, value: str, by: list[str]) -> pd.DataFrame:
    """:func:`interval` of a column within groups: columns ``by``, mean, half, n, in the groups' first order."""
    rows = [
        dict(zip(by, key, strict=True)) | interval(group[value]) for key, group in frame.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows)


def paired_difference(frame: pd.DataFrame, value: str, column: str, one: str, other: str) -> dict[str, float]:
    """one - other, seed by seed, with its interval.

    Args:
        frame: a row per run, with columns ``seed``, ``column`` and ``value``.
        one, other: two values of ``column``.

    Returns:
        As :func:`interval`, over the seeds that have both, with ``excludes_zero``: whether the interval excludes zero (False for one
        seed and for none).
    """
    table = frame[frame[column].isin([one, other])].pivot(index="seed", columns=column, values=value).dropna()
    if one not in table or other not in table:
        return interval([]) | {"excludes_zero": False}
    result = interval(table[one] - table[other])
    return result | {"excludes_zero": bool(abs(result["mean"]) > result["half"])}
