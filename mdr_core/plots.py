"""A figure from a tidy table. The palette is Wong's (2011), safe for colour-blind readers; markers differ as well."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from mdr_core import stats

STYLE = {  # method -> colour, marker
    "Untrained": ("#999999", "x"),
    "Triplet": ("#0072B2", "o"),
    "Triplet + L2": ("#E69F00", "s"),
    "Triplet + MDR": ("#009E73", "D"),
}


def learning_curves(frame: pd.DataFrame, title: str) -> Figure:
    """Test and training Recall@1 by epoch, a line per method, its band the 95 % interval over the seeds.

    Args:
        frame: a row per run and epoch, with ``method``, ``epoch``, ``test_recall@1`` and ``train_recall@1``.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, split, name in zip(axes, ("test", "train"), ("test classes", "training classes"), strict=True):
        for method, group in frame.groupby("method", sort=False):
            line = stats.over_seeds(group, f"{split}_recall@1", ["epoch"])
            colour, marker = STYLE.get(method, ("#CC79A7", "^"))
            axis.plot(line.epoch, line["mean"], color=colour, marker=marker, markersize=4, label=method)
            axis.fill_between(line.epoch, line["mean"] - line.half, line["mean"] + line.half, color=colour, alpha=0.18, lw=0)
        axis.set(title=f"{title}: {name}", xlabel="epoch", ylabel="Recall@1 [%]")
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    return figure


def save(figure: Figure, folder: str, name: str) -> None:
    """The figure as <folder>/<name>.svg, the same file for the same figure; an empty folder saves nothing."""
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with plt.rc_context({"svg.hashsalt": name}):
            figure.savefig(Path(folder) / f"{name}.svg", metadata={"Date": None})
