"""A forest plot: a difference a row, with its 95 % interval, its verdict, and zero."""

import textwrap

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mdr_core.report.style import INK, SOFT, WIDTH

MARKS = {"holds": "✓ holds", "fails": "✗ fails", "equal": "= equal", "unclear": "? unclear"}


def forest(differences: pd.DataFrame, names: str, title: str = "") -> Figure:
    """Draw a row for each difference of :func:`mdr_core.statistics.compare`, in their order.

    A filled dot is a verdict. Rows that are not run are named below. ``names``: their column.
    """
    ran = differences[differences.seeds > 0]
    left = [textwrap.fill(str(name), 16, break_long_words=False) for name in ran[names]]
    right = [f"{row.difference:+.1f} {MARKS.get(row.verdict, row.verdict)}".replace("-", "−")
             for row in ran.itertuples()]  # fmt: skip
    lines = 1 + max((name.count("\n") for name in left), default=0)
    figure, axis = plt.subplots(figsize=(WIDTH, 1 + (0.12 + 0.2 * lines) * len(ran)))
    axis.axvline(0, color=SOFT, lw=1)
    place = range(len(ran))
    axis.hlines(place, ran.low, ran.high, color=INK, lw=1.6)
    fill = ran.verdict.isin(["holds", "fails"]).map({True: INK, False: "white"})
    axis.scatter(ran.difference, place, 40, fill, edgecolors=INK, zorder=3)
    axis.set_yticks(place, left)
    axis.set_ylim(len(ran) - 0.4, -0.6)
    axis.secondary_yaxis("right").set_yticks(place, right)
    for each in (axis, *axis.child_axes):
        each.grid(False, axis="y")
        each.tick_params(axis="y", length=0)
        each.spines[["left", "right"]].set_visible(False)
    axis.set_xlabel("difference [points]")
    figure.suptitle(title, x=0.01, ha="left", size=11, weight="bold")
    if absent := ", ".join(differences[names][differences.seeds == 0].map(str)):
        figure.supxlabel(textwrap.fill(f"Not run: {absent}", 48), x=0.01, ha="left", size=11)
    axis.set_visible(not ran.empty)
    return figure
