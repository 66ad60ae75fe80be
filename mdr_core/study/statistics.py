"""Means and 95 % intervals over seeds, plain and paired. Student's t: the seeds are few."""

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes half a second to import

RECALL = "test_recall@1"  # the study's one headline figure
NOT_RUN = "not run"  # said where no run is stored, in place of a number or a verdict


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
        dict(zip(by, key, strict=True)) | interval(group[value])
        for key, group in frame.groupby(by, sort=False)
    ]
    return pd.DataFrame(rows)


def paired(frame: pd.DataFrame, value: str, column: str, one: str, other: str) -> pd.DataFrame:
    """Return the seeds that have both: columns ``one`` and ``other`` with their ``value``, a row per seed.

    Args:
        frame: a row per run, with columns ``seed``, ``column`` and ``value``.
        one, other: two values of ``column``.
    """
    rows = frame[frame[column].isin([one, other])]
    return (
        rows.pivot(index="seed", columns=column, values=value)
        .reindex(columns=[one, other])
        .dropna()
    )


def paired_difference(
    frame: pd.DataFrame, value: str, column: str, one: str, other: str
) -> dict[str, float]:
    """Return :func:`interval` of one − other, seed by seed, with ``excludes_zero`` (False for one seed and for none)."""
    pair = paired(frame, value, column, one, other)
    result = interval(pair[one] - pair[other])
    return result | {"excludes_zero": bool(abs(result["mean"]) > result["half"])}


def p_value(found: dict[str, float]) -> float:
    """Return the two-sided p that the mean of an :func:`interval` is zero (Student's t); 1 without an interval."""
    n, half = found["n"], found["half"]
    if n < 2 or not half:
        return 1.0 if n < 2 or not found["mean"] else 0.0
    return float(2 * stdtr(n - 1, -abs(found["mean"]) / half * stdtrit(n - 1, 0.975)))


def said(figure: dict[str, float], sign: bool = False, digits: int = 1) -> str:
    """``63.1 ± 0.8``; one seed has no interval and says so; NOT_RUN where there is none."""
    if not figure["n"]:
        return NOT_RUN
    mean = f"{figure['mean']:{'+' if sign else ''}.{digits}f}"
    return (
        f"{mean} ± {figure['half']:.{digits}f}"
        if figure["half"] == figure["half"]
        else f"{mean} (n = {figure['n']})"
    )


def labels(frame: pd.DataFrame) -> list[str]:
    """The columns that tell one setting from another."""
    return [
        c
        for c in ("dataset", "method", "backbone", "loss_name", "setting", "dimension")
        if c in frame
    ]


def by_run(frame: pd.DataFrame):
    """Rows grouped by run; ``labels`` of a grid may name one stored run twice, so labels count too."""
    return frame.groupby([*labels(frame), "key"], sort=False)


def final(frame: pd.DataFrame) -> pd.DataFrame:
    """The last epoch of every run: the study's headline."""
    return frame.loc[by_run(frame).epoch.idxmax()]


def best(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Of every run the trained epoch with the largest ``by``; of a run that is not stored its one row."""
    trained = frame[frame.epoch > 0]
    return trained.loc[by_run(trained.fillna({by: float("-inf")}))[by].idxmax()]


def past_best(frame: pd.DataFrame) -> pd.Series:
    """For every row, how far its test Recall@1 lies below its run's best trained epoch, in points; NaN at epoch 0."""
    return by_run(frame[frame.epoch > 0])[RECALL].transform("max") - frame[RECALL]


def first_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the stored rows of one seed of each dataset: the first among those of which the most methods are stored."""
    found = ran(frame)
    methods = found.groupby(["dataset", "seed"]).method.transform("nunique")
    found = found[methods == methods.groupby(found.dataset).transform("max")]
    return found[found.seed == found.groupby("dataset").seed.transform("first")]


def with_untrained(frame: pd.DataFrame) -> pd.DataFrame:
    """The final epochs, led by the untrained embedding: epoch 0 of the first stored method (the first whose embedding is raw, if any
    is), setting by setting and seed by seed."""
    start = ran(frame)[lambda f: f.epoch == 0]
    raw = start[start.normalization != "l2"]
    first = start if raw.empty else raw
    own = [c for c in (*labels(frame), "seed") if c in frame and c != "method"]
    untrained = first.drop_duplicates(own) if own else first
    return pd.concat([untrained.assign(method="Untrained"), final(frame)])
