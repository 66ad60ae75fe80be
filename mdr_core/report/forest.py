"""A forest plot: a difference a row, with its 95 % interval, its verdict, and zero."""

import textwrap

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mdr_core.report.style import INK, WIDTH

MARKS = {"holds": "✓ holds", "fails": "✗ fails", "equal": "= equal"}


def forest(differences: pd.DataFrame, names: str, title: str = "") -> Figure:
    """Draw a row for each difference of :func:`mdr_core.statistics.compare`, in their order.

    A filled dot is a verdict. Rows that are not run are named below. ``names``: their column.
    """
    ran = differences[differences.seeds > 0]
    figure, axis = plt.subplots(figsize=(WIDTH, 1.1 + 0.46 * len(ran)))
    place = range(len(ran))
    axis.plot([0] * len(ran), place, "|", color=INK, markersize=11)  # zero
    axis.hlines(place, ran.low, ran.high, color=INK, lw=1.6)
    fill = ran.verdict.isin(["holds", "fails"]).map({True: INK, False: "white"})
    axis.scatter(ran.difference, place, 40, fill, edgecolors=INK, zorder=3)
    for y, row in zip(place, ran.to_dict("records"), strict=True):  # above its interval
        verdict = f"{row['difference']:+.1f} {MARKS.get(row['verdict'], row['verdict'])}"
        across = axis.get_yaxis_transform()
        axis.text(0, y - 0.26, row[names], transform=across)
        axis.text(1, y - 0.26, verdict.replace("-", "−"), ha="right", transform=across)
    axis.set(ylim=(len(ran) - 0.6, -0.7), yticks=[], xlabel="difference [points], before Holm")
    axis.spines["left"].set_visible(False)
    axis.grid(False)
    figure.suptitle(title, x=0.01, ha="left", size=11, weight="bold")
    if absent := ", ".join(differences[names][differences.seeds == 0].map(str)):
        figure.supxlabel(textwrap.fill(f"Not run: {absent}", 48), x=0.01, ha="left", size=11)
    axis.set_visible(not ran.empty)
    return figure
