"""Lines of means over the seeds with their intervals, each named at its end."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdr_core.report import tables
from mdr_core.report.plots.style import colors_of, label_ends, panel
from mdr_core.study import statistics
from mdr_core.study.claims import short


def t_interval(values) -> tuple[float, float]:
    """Return the ends of the mean's 95 % interval over the seeds, for seaborn's ``errorbar``."""
    found = statistics.interval(values)
    return found["mean"] - found["half"], found["mean"] + found["half"]


def curves(
    axis: Axes,
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str = "method",
    style: str | None = None,
    bottom: float | None = None,
    **options,
) -> None:
    """Draw the mean of ``y`` over the seeds and its interval, a named line for each ``by``.

    Args:
        style: a column of two values, the first solid, the second dashed.
        options: of :func:`seaborn.lineplot`. ``palette`` by name, where it is no method's.
    """
    frame = statistics.ran(frame).dropna(subset=[y])
    palette = options.pop("palette", None) or colors_of(frame[by].unique())
    if style:
        order = frame[style].unique()
        options |= {"style": style, "style_order": order, "dashes": ["", (3, 1.5)]}
    sns.lineplot(
        frame,
        x=x,
        y=y,
        hue=by,
        hue_order=list(palette),
        palette=palette,
        ax=axis,
        errorbar=t_interval,
        err_kws={"alpha": 0.18, "lw": 0},
        legend=False,
        **options,
    )
    ends = []
    for key, own in frame.groupby([by, style] if style else [by], sort=False):
        last = own[own[x] == own[x].max()]
        name = " ".join([short(str(key[0])), *key[1:]])
        ends.append((name, last[x].iloc[0], last[y].mean(), palette[key[0]]))
    axis.set_ylim(bottom=bottom)
    label_ends(axis, ends)


def bands(frame: pd.DataFrame) -> str:
    """Return a sentence about the bands of :func:`curves`, for a caption."""
    seeds = tables.seeds(frame)
    return "One seed: no bands." if seeds == "1 seed" else f"Bands: 95 % intervals over {seeds}."


def learning_curves(frame: pd.DataFrame, title: str) -> Figure:
    """Draw Recall@1 by epoch on test (solid) and training classes (dashed), by method."""
    columns = {"test_recall@1": "test", "train_recall@1": "training"}
    wide = statistics.ran(frame).rename(columns=columns)
    long = wide.melt(["method", "seed", "epoch"], [*columns.values()], "classes", "recall")
    figure, axis = panel(3.8)
    axis.set(title=f"{title}: Recall@1 by epoch", xlabel="epoch", ylabel="Recall@1 [%]")
    axis.set_xlim(0, long.epoch.max())
    axis.locator_params(axis="x", integer=True)
    curves(axis, long, "epoch", "recall", style="classes")
    return figure
