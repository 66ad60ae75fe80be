"""The distances of a batch's pairs as densities, in units of their mean distance."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdr_core.evaluation.pair_statistics import BINS, FARTHEST, REACH
from mdr_core.report.plots.style import GREEN, INK, RED, darker, panel
from mdr_core.study.statistics import number

PAIRS = {  # column of counts -> name and color
    "positive_histogram": ("positive", RED),
    "negative_histogram": ("negative", INK),
    "z_histogram": ("all pairs", INK),
}


def distances(runs: pd.DataFrame, title: str) -> Figure:
    """Draw the distances of one run in its rows' first epoch (dashed) and last (solid).

    Positive and negative pairs are apart where both epochs' records have them so.
    """
    figure, axis = panel(3.3)
    first, last = runs.iloc[0], runs.iloc[-1]
    for place, column in enumerate(recorded(runs)):
        name, color = PAIRS[column]
        axis.stairs(*density_of(first, column), color=color, ls="--", lw=1)
        axis.stairs(*density_of(last, column), color=color, lw=1.6)
        axis.stairs(*density_of(last, column), color=color, alpha=0.15, fill=True)
        at: dict[str, Any] = {"transform": axis.transAxes, "ha": "right", "va": "top"}
        axis.text(1, 0.99 - 0.09 * place, name, color=darker(color), **at)
    if last.mdr_weight > 0:
        levels(axis, last)
    _, high = axis.get_ylim()
    axis.set(title=title, xlim=(0, FARTHEST), ylim=(0, 1.12 * high))  # room for the levels' names
    axis.set(xlabel="distance [mean distance of the batch]", ylabel="density of pairs")
    return figure


def recorded(runs: pd.DataFrame) -> list[str]:
    """Return the histograms to draw: of positive and negative pairs, or else of all."""
    apart = [*PAIRS][:2]
    if set(apart) <= set(runs) and runs[apart].notna().all(axis=None):
        return apart
    return ["z_histogram"]


def density_of(row: pd.Series, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a histogram's density and its edges, in units of the mean distance."""
    counts = np.array(row[column])
    if column == "z_histogram":
        mean, deviation = normalization(row)
        edges = (mean + deviation * np.linspace(-REACH, REACH, BINS + 1)) / row.pair_mean
    else:
        counts = counts.reshape(-1, 2).sum(axis=1)  # positive pairs are few
        edges = np.linspace(0, FARTHEST, len(counts) + 1)
    return counts / counts.sum() / np.diff(edges), edges


def normalization(row: pd.Series) -> tuple[float, float]:
    """Return the mean and standard deviation of a record: the running ones, or else the batch's."""
    if row.mdr_weight > 0 and row.epoch > 0:
        return row.running_mean, row.running_std
    if row.statistics == "pairs":
        return row.pair_mean, row.pair_std
    return with_diagonal(row.batch_size, row.pair_mean, row.pair_std)


def with_diagonal(size, mean, deviation):
    """Return mean and standard deviation over the whole distance matrix, zero diagonal included.

    Args:
        size: the batch's, B. mean, deviation: over its B (B - 1) pairs. Numbers or Series.
    """
    variance = ((size * (size - 1) - 1) * deviation**2 + (size - 1) * mean**2) / (size**2 - 1)
    return mean * (size - 1) / size, np.sqrt(variance)


def levels(axis: Axes, row: pd.Series) -> None:
    """Draw where a run's levels lie."""
    mean, deviation = normalization(row)
    for i in range(len(row.levels)):
        place = (mean + deviation * row[f"level_{i}"]) / row.pair_mean
        if 0 <= place <= FARTHEST:
            axis.axvline(place, color=GREEN, lw=1, ls=":")
            name = f"{'' if i else 'level '}{number(row[f'level_{i}'], '.2f')}"
            at: dict[str, Any] = {"transform": axis.get_xaxis_transform(), "va": "top"}
            axis.text(place, 0.99, name, color=darker(GREEN), ha="center" if i else "right", **at)
