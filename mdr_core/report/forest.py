"""A forest plot: a difference a row, with its 95 % interval, and zero."""

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def forest(differences: pd.DataFrame, names: str, title: str = "", unit: str = "points") -> Figure:
    """Draw a row for each difference of :func:`mdr_core.statistics.compare`, in their order.

    Args:
        names: the column with the rows' names. A row that is not run is drawn as "not run".
    """
    drawn, axis = plt.subplots(figsize=(4.2, 0.8 + 0.32 * len(differences)))
    place = range(len(differences))[::-1]
    axis.errorbar(
        differences.difference,
        place,
        fmt="o",
        xerr=(differences.difference - differences.low, differences.high - differences.difference),
    )
    axis.axvline(0)
    axis.set(yticks=place, yticklabels=differences[names], title=title, xlabel=unit)
    return drawn
