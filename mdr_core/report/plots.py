"""Figures that several reports share, drawn by seaborn from tables with a row per run and epoch.

Runs that are not stored are left out. The palette is Wong's (2011), which is safe for color-blind
readers; markers differ as well.
"""

import io
import itertools
from collections.abc import Iterable

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdr_core.study import statistics
from mdr_core.study.profiles import BEFORE

BLUE, ORANGE, GREEN, RED, PINK, GREY = WONG = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#999999",
)  # fmt: skip
STYLES = {  # method -> color, marker
    BEFORE: (GREY, "v"),
    "Triplet": (BLUE, "o"),
    "Triplet + L2": (ORANGE, "s"),
    "Triplet + MDR": (GREEN, "D"),
    "without MDR": (BLUE, "o"),
    "with MDR": (GREEN, "D"),
}
plt.rcParams.update(
    {
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }
)
plt.rcParams["text.parse_math"] = False  # the name of a class may hold $


def styles_of(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return color and marker by name, in the order of STYLES; other names get some in turn."""
    names = sorted(names, key=lambda name: [*STYLES, name].index(name))
    others = itertools.cycle(zip((BLUE, GREEN, ORANGE, RED, PINK), "oDsX^", strict=True))
    return {name: STYLES.get(name) or next(others) for name in names}


def t_interval(values: Iterable[float]) -> tuple[float, float]:
    """Return the ends of the mean's 95 % interval over the seeds, for seaborn's ``errorbar``."""
    found = statistics.interval(values)
    return found["mean"] - found["half"], found["mean"] + found["half"]


def curves(axis: Axes, frame: pd.DataFrame, x: str, y: str, by: str = "method", **options) -> None:
    """Draw the mean of ``y`` over the seeds, a line for each value of ``by``, and its interval.

    Args:
        options: of :func:`seaborn.lineplot`.
    """
    frame = statistics.ran(frame)
    styles = styles_of(frame[by].unique())
    sns.lineplot(
        frame,
        x=x,
        y=y,
        hue=by,
        hue_order=list(styles),
        style=by,
        style_order=list(styles),
        ax=axis,
        errorbar=t_interval,
        err_kws={"alpha": 0.18, "lw": 0},
        **{
            "palette": {name: color for name, (color, _) in styles.items()},
            "markers": {name: marker for name, (_, marker) in styles.items()},
            "dashes": False,
        }
        | options,
    )
    axis.legend(title=None)


def learning_curves(frame: pd.DataFrame, title: str) -> Figure:
    """Draw test and training Recall@1 by epoch, a line and its interval per method."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for axis, split, classes in zip(axes, ("test", "train"), ("test", "training"), strict=True):
        curves(axis, frame, "epoch", f"{split}_recall@1")
        axis.set(title=f"{title}: {classes} classes", ylabel="Recall@1 [%]")
        axis.xaxis.get_major_locator().set_params(integer=True)
    legend_below(figure)
    return figure


def intervals(frame: pd.DataFrame, by: str, title: str) -> Figure:
    """Draw test Recall@1 with its interval for every value of ``by``, the methods side by side."""
    frame = statistics.ran(frame)
    names, styles = frame[by].unique(), styles_of(frame.method.unique())
    figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.5 * len(names)))
    sns.pointplot(
        frame.astype({by: str}),
        x=statistics.RECALL,
        y=by,
        hue="method",
        hue_order=list(styles),
        palette={name: color for name, (color, _) in styles.items()},
        markers=[marker for _, marker in styles.values()],
        linestyle="none",
        dodge=0.22 * (len(styles) - 1),
        errorbar=t_interval,
        capsize=0.08,
        markersize=6,
        err_kws={"linewidth": 1.5},
        ax=axis,
    )
    axis.set(title=title, xlabel="Recall@1 [%], test classes", ylabel="")
    legend_below(figure)
    return figure


def differences(table: pd.DataFrame) -> Figure:
    """Draw rows of :func:`mdr_core.study.claims.table` with both intervals and a line at zero."""
    figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.3 * len(table)))
    colors = {"holds": GREEN, "fails": RED, "level": BLUE, "open": GREY}
    place = pd.Series(range(len(table)), table.index)
    for verdict, rows in table.groupby("verdict", sort=False):
        y, color = place[rows.index], colors[str(verdict)]
        axis.hlines(y, rows.classes_low, rows.classes_high, color=color, lw=1.2)
        axis.hlines(y, rows.difference - rows.half, rows.difference + rows.half, color=color, lw=4)
        axis.plot(rows.difference, y, "o", color="white", markeredgecolor=color, label=verdict)
    axis.set_yticks(place, [f"{row.claim}: {row.cell}" for row in table.itertuples()], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="#333333", lw=1)
    axis.set_xlabel("difference [points]")
    legend_below(figure)
    return figure


def legend_below(figure: Figure, **options) -> None:
    """Replace the legends of a figure's axes by one below them, if it has more than one entry."""
    entries = figure.axes[0].get_legend_handles_labels()
    for axis in figure.axes:
        if (own := axis.get_legend()) is not None:
            own.remove()
    if len(entries[0]) > 1:
        figure.legend(*entries, loc="outside lower center", **{"ncols": 4} | options)


def svg(figure: Figure, name: str) -> str:
    """Return the figure as SVG, the same text for the same figure."""
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def jpeg(figure: Figure, dpi: int) -> bytes:
    """Return the figure as JPEG, for one that is made of photographs."""
    data = io.BytesIO()
    figure.savefig(data, format="jpeg", dpi=dpi, pil_kwargs={"quality": 85})
    return data.getvalue()
