"""Differences with their 95 % intervals and a line at zero: of claims, and of ablations.

A thick bar is the interval over the seeds, a thin one that over the test classes.
"""

import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdr_core.report.plots.style import INK, SOFT, WIDTH, panel, titled
from mdr_core.study import claims

SIGNS = {  # verdict -> sign and color, those of the pages
    claims.HOLDS: ("✓", "#00694b"),
    claims.FAILS: ("✗", "#a63d00"),
    claims.LEVEL: ("=", "#00609b"),
    claims.MIXED: ("◐", "#00609b"),
    claims.OPEN: ("?", SOFT),
    claims.NOT_TESTED: (claims.NOT_TESTED, SOFT),
}
BARS = (
    "Thick bars are 95 % intervals over the seeds (paired, Student's t), thin ones over the test "
    "classes, where they are recorded. A filled dot's intervals exclude zero."
)
LINE, LETTERS = 0.21, 50  # inches of a line of text; letters in it


def differences(rows: pd.DataFrame, title: str, named: bool = False) -> Figure:
    """Draw rows of :func:`mdr_core.study.claims.table` one below the other.

    Args:
        rows: of one unit. Those without a number are told in words.
        named: tell claims and verdicts, with links to their reports; else cells alone.
    """
    figure, axis = panel(1)
    place = 0.0
    for claim, cells in rows.groupby("claim", sort=False):
        head = named and (len(cells) > 1 or not cells.seeds.any())
        if head:
            verdict = cells.claim_verdict.iloc[0]
            sign, color = SIGNS[verdict]
            told = verdict if sign == verdict else f"{sign} {verdict}"
            place = write(axis, place, str(claim), told, INK, color, cells.report.iloc[0])
        for row in cells[cells.seeds > 0].itertuples():
            sign, color = SIGNS[row.verdict] if named else ("", INK)
            number = f"{sign} {row.difference:+.1f}".strip().replace("-", "−")
            name = row.claim if named and not head else row.cell
            report = row.report if named and not head else ""
            place = write(axis, place, name, number, SOFT if head else INK, color, report)
            bar(axis, row, place - 0.15, color, vertical=False)
            place += 0.8
        for reason, absent in cells[~(cells.seeds > 0)].groupby("reason", sort=False):
            told = textwrap.shorten(f"{reason}: {', '.join(absent.cell)}", 44, placeholder=" …")
            place = write(axis, place, told, "", SOFT, SOFT)
        place += 0.3 * named
    axis.set_ylim(place - 0.3, -0.7)
    axis.axvline(0, color=INK, lw=1, zorder=1)
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, -1), max(high, 1))
    axis.locator_params(axis="x", nbins=6)
    axis.set(title=title, yticks=[], xlabel=f"difference [{rows.unit.iloc[0]}]")
    axis.spines["left"].set_visible(False)
    figure.set_figheight(0.85 + LINE * (place + 0.4))
    return figure


def write(
    axis: Axes, y: float, left: str, right: str, ink: str, color: str, report: str = ""
) -> float:
    """Write a row's name, which leads to its report, and its number; return the next row's place.

    A name too long for what the number leaves takes two lines.
    """
    own: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "va": "center"}
    own["bbox"] = {"fc": "white", "ec": "none", "pad": 0.5}  # over the zero line
    lines = textwrap.wrap(left, LETTERS - len(right))
    for place, line in enumerate(lines):
        axis.text(0, y + place, line, color=ink, url=f"{report}.html" if report else None, **own)
    axis.text(1, y, right, color=color, ha="right", **own)
    return y + len(lines)


def bar(axis: Axes, row, place: float, color: str, vertical: bool) -> None:
    """Draw one row's dot and intervals, horizontally at a height, or vertically at a number."""
    lines = axis.vlines if vertical else axis.hlines
    ends = [(row.difference - row.half, row.difference + row.half, 4.0)] * (row.seeds > 1)
    if row.classes_low == row.classes_low:
        ends.append((row.classes_low, row.classes_high, 1.4))
    for low, high, width in ends:
        lines(place, low, high, color=color, lw=width, zorder=2)
    apart = ends and all(low > 0 or high < 0 for low, high, _ in ends)
    x, y = (place, row.difference) if vertical else (row.difference, place)
    dot = axis.scatter(x, y, 42, [color if apart else "white"], edgecolors=color, zorder=3)
    told = ", ".join(f"{low:.1f} to {high:.1f}" for low, high, _ in ends)
    told = "; ".join(filter(None, [told, row.reason]))
    titled(dot, f"{row.cell}: {row.difference:+.1f} {row.unit} ({told})".replace("-", "−"))
    if row.report:
        dot.set_urls([f"{row.report}.html"])


def differences_by_number(
    rows: pd.DataFrame,
    numbers: pd.Series,
    title: str,
    xlabel: str,
    reference: float | None = None,
    log: bool = False,
) -> Figure:
    """Draw rows of :func:`mdr_core.study.claims.table` over a numeric axis, or a log2 one.

    Args:
        numbers: of each row. reference: the number that all others are compared with.
    """
    figure, axis = panel(0.75 * WIDTH)
    axis.axhline(0, color=INK, lw=1, zorder=1)
    ran = rows[rows.seeds > 0].assign(number=numbers).sort_values("number")
    start = [] if reference is None else [reference]
    axis.plot([*start, *ran.number], [*[0] * len(start), *ran.difference], color=SOFT, lw=1)
    axis.plot(start, [0] * len(start), "D", color=INK)
    for row in ran.itertuples():
        bar(axis, row, row.number, INK, vertical=True)
    if log:
        axis.set_xscale("log", base=2)
    shown = np.unique([*start, *ran.number])
    axis.set_xticks(shown, [f"{number:g}" for number in shown])
    axis.margins(x=0.08)
    axis.set(title=title, xlabel=xlabel, ylabel=f"difference [{rows.unit.iloc[0]}]")
    return figure
