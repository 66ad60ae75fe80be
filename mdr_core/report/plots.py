"""Figures from tidy tables; runs that are not stored are left out. The palette is Wong's (2011), safe for colour-blind readers;
markers differ as well."""

import io
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mdr_core.study import statistics

STYLE = {  # method -> colour, marker
    "Untrained": ("#999999", "x"),
    "Triplet": ("#0072B2", "o"),
    "Triplet + L2": ("#E69F00", "s"),
    "Triplet + MDR": ("#009E73", "D"),
    "without MDR": ("#0072B2", "o"),
    "with MDR": ("#009E73", "D"),
}
OTHER = ("#CC79A7", "^")
SCREEN, PRINT = (
    100,
    180,
)  # dots per inch of a figure made of photographs, in a page and as a file for a paper
RIGHT, WRONG = "#009E73", "#D55E00"  # of retrieved images; their frames differ in style as well


def band(
    axis,
    line: pd.DataFrame,
    x: str,
    label: str,
    style: tuple[str, str] | None = None,
    dashes: str = "-",
) -> None:
    """One line with its band: columns ``x``, ``mean`` and ``half`` (as :func:`mdr_core.study.statistics.over_seeds` gives them)."""
    colour, marker = style or STYLE.get(label, OTHER)
    axis.plot(line[x], line["mean"], dashes, color=colour, marker=marker, markersize=4, label=label)
    axis.fill_between(
        line[x], line["mean"] - line.half, line["mean"] + line.half, color=colour, alpha=0.18, lw=0
    )


def learning_curves(frame: pd.DataFrame, title: str) -> Figure:
    """Test and training Recall@1 by epoch, a line per method, its band the 95 % interval over the seeds.

    Args:
        frame: a row per run and epoch, with ``method``, ``epoch``, ``test_recall@1`` and ``train_recall@1``.
    """
    frame = statistics.ran(frame)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, split, name in zip(
        axes, ("test", "train"), ("test classes", "training classes"), strict=True
    ):
        for method, group in frame.groupby("method", sort=False):
            band(
                axis, statistics.over_seeds(group, f"{split}_recall@1", ["epoch"]), "epoch", method
            )
        axis.set(title=f"{title}: {name}", xlabel="epoch", ylabel="Recall@1 [%]")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
    figure.legend(
        *axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4
    )
    return figure


def dimensions(frame: pd.DataFrame, title: str) -> Figure:
    """Final Recall@1 against the embedding dimension, on a doubling axis, a band per method."""
    frame = statistics.ran(frame)
    figure, axis = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for method, group in frame.groupby("method", sort=False):
        band(
            axis, statistics.over_seeds(group, "test_recall@1", ["dimension"]), "dimension", method
        )
    ticks = sorted(frame.dimension.unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(ticks, [str(n) for n in ticks])
    axis.set(title=title, xlabel="embedding dimension", ylabel="Recall@1 [%], test classes")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    return figure


def intervals(
    frame: pd.DataFrame,
    by: str,
    title: str,
    value: str = "test_recall@1",
    xlabel: str = "Recall@1 [%], test classes",
) -> Figure:
    """A dot with its 95 % interval for every value of ``by``, top to bottom, the methods side by side."""
    frame = statistics.ran(frame)
    names, methods = list(frame[by].unique()), list(frame.method.unique())
    figure, axis = plt.subplots(figsize=(7.5, 1.2 + 0.5 * len(names)), layout="constrained")
    for place, method in enumerate(methods):
        line = (
            statistics.over_seeds(frame[frame.method == method], value, [by])
            .set_index(by)
            .reindex(names)
        )
        colour, marker = STYLE.get(method, OTHER)
        y = np.arange(len(names)) + 0.22 * (place - (len(methods) - 1) / 2)
        axis.errorbar(
            line["mean"], y, xerr=line.half, fmt=marker, color=colour, capsize=3, label=method
        )
    axis.set_yticks(range(len(names)), [str(name) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)  # top to bottom
    axis.set(title=title, xlabel=xlabel)
    axis.grid(alpha=0.25, axis="x")
    if len(methods) > 1:
        figure.legend(
            *axis.get_legend_handles_labels(),
            frameon=False,
            loc="outside lower center",
            ncols=len(methods),
        )
    return figure


def levels(frame: pd.DataFrame, title: str) -> Figure:
    """Levels, running mean and deviation by epoch: mean over the seeds, with bands."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    names = [c for c in frame if c.startswith("level_") and c[6:].isdigit()]
    trained = statistics.ran(frame)[lambda f: f.epoch > 0]
    for name, style in zip(
        names, [STYLE["Triplet"], STYLE["Triplet + MDR"], STYLE["Triplet + L2"]] * 3, strict=False
    ):
        band(
            axes[0],
            statistics.over_seeds(trained, name, ["epoch"]),
            "epoch",
            f"level {int(name[6:]) + 1}",
            style,
        )
    for name, label, dashes in (
        ("running_mean", "running mean", "-"),
        ("running_std", "running deviation", "--"),
    ):
        band(
            axes[1],
            statistics.over_seeds(trained, name, ["epoch"]),
            "epoch",
            label,
            ("#333333", ""),
            dashes,
        )
    axes[0].set(title=f"{title}: levels", xlabel="epoch", ylabel="normalized distance [deviations]")
    axes[1].set(
        title=f"{title}: running statistics",
        xlabel="epoch",
        ylabel="distance [mean of a batch = 1]",
        ylim=(0, None),
    )
    for axis in axes:
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    return figure


def histograms(
    panels: dict[str, list[tuple[str, np.ndarray]]],
    edges: np.ndarray,
    levels: dict[str, list[list[float]]],
) -> Figure:
    """Distributions of normalized distances, a panel per method, a line per epoch, dashed lines at the levels.

    Args:
        panels: method -> (label, counts (BINS,)) of each epoch, early to late.
        edges: (BINS + 1,) of the bins.
        levels: method -> the levels at each of these epochs, drawn in the epoch's colour; none where it is missing.
    """
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(3.2 * len(panels), 3.4),
        layout="constrained",
        sharey=True,
        squeeze=False,
    )
    centre, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    for axis, (method, lines) in zip(axes[0], panels.items(), strict=True):
        shades = [plt.cm.cividis(shade) for shade in np.linspace(0.15, 0.85, len(lines))]
        for shade, (label, counts) in zip(shades, lines, strict=True):
            axis.plot(centre, counts / counts.sum() / width, color=shade, label=label)
        for shade, found in zip(shades, levels.get(method, []), strict=False):
            for level in found:
                axis.axvline(level, color=shade, ls="--", lw=1)
        if method in levels:
            axis.plot([], [], color="#333333", ls="--", lw=1, label="levels")
            axis.legend(handles=axis.lines[-1:], frameon=False)
        axis.set(title=method, xlabel="normalized distance [deviations]")
        axis.grid(alpha=0.25)
    axes[0, 0].set_ylabel("density of pairs")
    axes[0, 0].legend(frameon=False)
    return figure


def deciles(
    panels: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], even: dict[str, float]
) -> Figure:
    """Share of the gradient by decile of distance: a panel per kind of pair, a line per method.

    Args:
        panels: title -> method -> (mean, half) in percent, ten each.
        even: title -> a decile's share of all pairs in percent, what it would give if all pairs gave alike.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.5 * len(panels), 3.6), layout="constrained", squeeze=False
    )
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for method, (mean, half) in lines.items():
            band(
                axis,
                pd.DataFrame({"decile": np.arange(1, len(mean) + 1), "mean": mean, "half": half}),
                "decile",
                method,
            )
        axis.axhline(even[title], color="#999999", lw=1, ls=":", label="all pairs alike")
        axis.set(
            title=title,
            xlabel="decile of distance (1: nearest pairs)",
            ylabel="share of the gradient [%]",
            ylim=(0, None),
        )
        axis.set_xticks(range(1, len(mean) + 1))
        axis.grid(alpha=0.25)
    axes[0, 0].legend(frameon=False)
    return figure


def scatter(
    panels: dict[str, np.ndarray], groups: np.ndarray, names: list[str], under: dict[str, str]
) -> Figure:
    """Points in the plane, a panel each, coloured and marked by group; ``under`` stands below each panel.

    Args:
        panels: title -> (N, 2); groups: (N,) index into ``names``, the last of which collects the small ones.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.3 * len(panels), 4.1), layout="constrained", squeeze=False
    )
    colours, markers = (
        ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442"],
        "osD^vPX",
    )
    for axis, (title, points) in zip(axes[0], panels.items(), strict=True):
        for g, name in enumerate(names):
            rest = name == "other"
            style = (
                {"color": "#bbbbbb", "marker": "."}
                if rest
                else {"color": colours[g % 7], "marker": markers[g % 7]}
            )
            axis.scatter(
                *points[groups == g].T,
                s=26,
                label=name,
                edgecolor="none" if rest else "#333333",
                lw=0.4,
                **style,
            )
        axis.set(title=title, xticks=[], yticks=[], xlabel=under[title])
    if len(names) > 1:
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(),
            frameon=False,
            loc="outside lower center",
            ncols=4,
            fontsize=8,
        )
    return figure


def pulled(
    panels: list[tuple[str, np.ndarray]], distances: list[np.ndarray], levels: list[float]
) -> Figure:
    """The two-dimensional example: points in the plane above, their normalized distances below, from start to end.

    Args:
        panels: (title, points (N, 2)) of each moment.
        distances: the normalized distances (P,) of each moment.
        levels: where pairs are pulled to.
    """
    figure, axes = plt.subplots(
        2, len(panels), figsize=(2.9 * len(panels), 5.2), layout="constrained", height_ratios=(3, 2)
    )
    for column, ((title, points), z) in enumerate(zip(panels, distances, strict=True)):
        axes[0, column].scatter(*points.T, color="#0072B2", s=14)
        axes[0, column].set(
            title=title,
            aspect="equal",
            adjustable="datalim",
            xlabel="first coordinate [mean distance]",
        )
        axes[1, column].hist(z, bins=np.linspace(-3.5, 3.5, 43), color="#009E73")
        for level in levels:
            axes[1, column].axvline(
                level,
                color="#D55E00",
                ls="--",
                lw=1,
                label="levels" if level == levels[0] else None,
            )
        axes[1, column].set(xlabel="normalized distance [deviations]")
    for axis in axes[1, 1:]:
        axis.sharey(axes[1, 0])
    axes[1, 0].autoscale(axis="y")
    axes[1, 0].legend(frameon=False, loc="upper left", fontsize=8)
    axes[0, 0].set_ylabel("second coordinate [mean distance]")
    axes[1, 0].set_ylabel("pairs")
    return figure


def claims(found: list) -> Figure:
    """Every cell of the claims that are measured in points, with its interval and a line at zero (mdr_core.claims.Claim)."""
    rows = [
        (claim, name, cell)
        for claim in found
        if claim.unit == "points"
        for name, cell in claim.cells.items()
        if cell["n"]
    ]
    figure, axis = plt.subplots(figsize=(6.6, 0.8 + 0.28 * len(rows)), layout="constrained")
    marks = {
        "holds": ("#009E73", "D"),
        "does not hold": ("#D55E00", "X"),
        "undecided": ("#777777", "o"),
    }
    for y, (claim, _, cell) in enumerate(rows):
        colour, marker = marks[claim.verdict_of(cell)]
        axis.errorbar(
            cell["mean"], y, xerr=cell["half"], fmt=marker, color=colour, capsize=2, markersize=5
        )
    axis.set_yticks(
        range(len(rows)),
        [f"{claim.text}: {name}" if name else claim.text for claim, name, _ in rows],
        fontsize=8,
    )
    axis.invert_yaxis()
    axis.axvline(0, color="#333333", lw=1)
    axis.set_title("Differences that should be positive", loc="right")
    axis.set_xlabel("difference [points]")
    axis.grid(alpha=0.25, axis="x")
    for verdict, (colour, marker) in marks.items():
        axis.plot([], [], ls="", marker=marker, color=colour, label=f"cell {verdict}")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    return figure


def gallery(
    queries: np.ndarray, rows: list[list[tuple[np.ndarray, bool]]], titles: list[str]
) -> Figure:
    """Query images and what was retrieved for each: a solid green frame is of the query's class, a dashed orange one is not.

    Args:
        queries: (Q, H, W, 3) uint8.
        rows: for each query, its retrieved images (H, W, 3) with whether they are right, all methods in one row.
        titles: of the columns, the query's first; an empty one repeats the method before it.
    """
    widths = [
        w for title in titles for w in ([0.25, 1] if title and title != titles[0] else [1])
    ]  # a gap before each method
    shown = [i for i, width in enumerate(widths) if width == 1]
    size = (0.8 * sum(widths), 0.86 * len(rows) + 0.35)
    figure, axes = plt.subplots(
        len(rows),
        len(widths),
        figsize=size,
        layout="constrained",
        squeeze=False,
        width_ratios=widths,
    )
    for line, query, found in zip(axes[:, shown], queries, rows, strict=True):
        line[0].imshow(query)
        for axis, (image, right) in zip(line[1:], found, strict=True):
            axis.imshow(image)
            axis.spines[:].set(
                color=RIGHT if right else WRONG,
                linewidth=2.5,
                linestyle="-" if right else (0, (1.5, 1.2)),
                capstyle="butt",
            )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis in [
        *axes[:, 0],
        *(axes[row, i] for row in range(len(rows)) for i, width in enumerate(widths) if width < 1),
    ]:
        axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0, shown], titles, strict=True):
        axis.set_title(title, fontsize=9, loc="left")
    return figure


def svg(figure: Figure, name: str) -> str:
    """The figure as SVG, the same text for the same figure."""
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def bitmap(figure: Figure) -> Image.Image:
    """The figure as pixels for print, for one that is made of photographs."""
    figure.set_dpi(PRINT)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])


def jpeg(image: Image.Image) -> bytes:
    """:func:`bitmap` for a page: smaller, as JPEG."""
    data = io.BytesIO()
    image.resize([side * SCREEN // PRINT for side in image.size], Image.Resampling.LANCZOS).save(
        data, "jpeg", quality=85
    )
    return data.getvalue()


def save_bitmap(image: Image.Image, folder: Path | None, name: str) -> None:
    """:func:`bitmap` as <folder>/<name>.pdf, the same file for the same figure; without a folder nothing is saved."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        epoch = time.gmtime(0)
        image.save(
            folder / f"{name}.pdf", resolution=PRINT, quality=85, creationDate=epoch, modDate=epoch
        )


def save(text: str, folder: Path | None, name: str) -> None:
    """:func:`svg`'s text as <folder>/<name>.svg; without a folder nothing is saved."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.svg").write_text(text, encoding="utf-8")
