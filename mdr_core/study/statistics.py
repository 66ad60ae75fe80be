"""Means and 95 % intervals over seeds, plain and paired. Student's t: the seeds are few."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # Student's t; scipy.stats takes half a second to import

from mdr_core.study.profiles import BEFORE

RECALL = "test_recall@1"  # the study's one headline number
NOT_RUN = "not run"  # in place of a number or a verdict, where no run is stored
NOT_SIGNIFICANT = "not significant"  # the interval of the difference includes zero
ONE_SEED = "one seed"  # it has no interval
LABELS = ("dataset", "method", "backbone", "loss_name", "setting", "dimension")


def number(value: object, spec: str = ".1f") -> str:
    """Return a number, or an interval, as text with a true minus."""
    return format(value, spec).replace("-", "−")


@dataclass(frozen=True)
class Interval:
    """A mean and the half width of its 95 % interval: NaN for n = 1; both are NaN for n = 0."""

    mean: float
    half: float
    n: int

    def __format__(self, spec: str) -> str:
        """Return ``63.1 ± 0.8``, or ``63.1`` for one seed; ``spec`` (``.1f``) is the mean's."""
        if not self.n:
            return NOT_RUN
        spec = spec or ".1f"
        half = f" ± {self.half:{spec.lstrip('+')}}" if self.n > 1 else ""
        return number(self.mean, spec) + half

    def __str__(self) -> str:
        return format(self, ".1f")

    @property
    def verdict(self) -> str:
        """``larger`` or ``smaller`` than zero, NOT_SIGNIFICANT, ONE_SEED or NOT_RUN."""
        if not self.n:
            return NOT_RUN
        if self.n == 1:
            return ONE_SEED
        if not abs(self.mean) > self.half:
            return NOT_SIGNIFICANT
        return "larger" if self.mean > 0 else "smaller"


def ran(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of stored runs: those where ``stored`` is true; all without that column."""
    return frame[frame.stored.astype(bool)] if "stored" in frame else frame


def interval(values) -> dict[str, float]:
    """Return ``mean``, ``half`` (of its 95 % interval; NaN for fewer than two values) and ``n``.

    NaN among the values, where a seed has none, does not count.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    n, mean, half = len(values), float("nan"), float("nan")
    if n:
        mean = float(values.mean())
    if n > 1:
        half = float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / np.sqrt(n))
    return {"mean": mean, "half": half, "n": n}


def paired(frame: pd.DataFrame, value: str, column: str, one: str, other: str) -> pd.DataFrame:
    """Return the seeds that have both values of ``column``: their ``value``, a column for each."""
    rows = frame[frame[column].isin([one, other])]
    table = rows.pivot(index="seed", columns=column, values=value)
    return table.reindex(columns=[one, other]).dropna()


def p_value(found: dict[str, float]) -> float:
    """Return the two-sided p that the mean of an :func:`interval` is zero; 1 for one seed."""
    n, half = found["n"], found["half"]
    if n < 2 or not half:
        return 1.0 if n < 2 or not found["mean"] else 0.0
    return float(2 * stdtr(n - 1, -abs(found["mean"]) / half * stdtrit(n - 1, 0.975)))


def labels(frame: pd.DataFrame) -> list[str]:
    """Return the columns that tell one setting from another."""
    return [name for name in LABELS if name in frame]


def by_run(frame: pd.DataFrame):
    """Group rows by run; a grid may name one stored run twice, so its labels count too."""
    return frame.groupby([*labels(frame), "key"], sort=False)


def final(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the last epoch of every run."""
    return frame.loc[by_run(frame).epoch.idxmax()]


def best(frame: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return every run's trained epoch with the largest ``by``; the one row of a run not stored."""
    trained = frame[frame.epoch > 0]
    return trained.loc[by_run(trained.fillna({by: float("-inf")}))[by].idxmax()]


def past_best(frame: pd.DataFrame) -> pd.Series:
    """Return how much lower each row's test Recall@1 is than its run's best; NaN at epoch 0."""
    return by_run(frame[frame.epoch > 0])[RECALL].transform("max") - frame[RECALL]


def first_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one seed's stored rows of each dataset: the first with the most methods stored."""
    found = ran(frame)
    methods = found.groupby(["dataset", "seed"]).method.transform("nunique")
    found = found[methods == methods.groupby(found.dataset).transform("max")]
    return found[found.seed == found.groupby("dataset").seed.transform("first")]


def with_start(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the final epochs, led by epoch 0 of the first method, one whose embedding is raw.

    That is the network before fine-tuning, setting by setting and seed by seed.
    """
    start = ran(frame)[lambda f: f.epoch == 0]
    raw = start[start.normalization != "l2"]
    first = start if raw.empty else raw
    own = [name for name in (*labels(frame), "seed") if name in frame and name != "method"]
    before = first.drop_duplicates(own) if own else first
    return pd.concat([before.assign(method=BEFORE), final(frame)])


def slopes(frame: pd.DataFrame, size: str, value: str) -> pd.DataFrame:
    """Return by dataset, method and seed how much ``value`` rises with each doubling of ``size``.

    Args:
        frame: a row per run. A seed that lacks a size is left out.
    """
    rows, names, sizes = [], ["dataset", "method", "seed"], frame[size].nunique()
    for labels_of_run, runs in ran(frame).groupby(names):
        if len(runs) == sizes > 1:
            slope = np.polyfit(np.log2(runs[size].astype(float)), runs[value], 1)[0]
            rows.append((*labels_of_run, slope))
    found = pd.DataFrame(rows, columns=[*names, "slope"])
    return frame[names].drop_duplicates().merge(found, how="left")  # what is not run is NaN
