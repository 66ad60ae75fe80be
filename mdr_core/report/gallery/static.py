"""What a model retrieves, for print: queries, the hardest ones, the confused classes."""

import textwrap
from collections.abc import Iterable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mdr_core.report.plots import GREEN, RED


def first_right(findings: dict[str, Tensor], gallery_labels: np.ndarray) -> np.ndarray:
    """Return (N,) the rank, from 1, of each query's first image of its class.

    Where the rank is not recorded, or there is none, it is one more than the images recorded.

    Args:
        findings: of a run. gallery_labels: of the images that they were searched in.
    """
    right = hits(findings, gallery_labels)
    beyond = right.shape[1] + 1
    if "first_right" not in findings:  # of runs before it was recorded
        return np.where(right.any(axis=1), right.argmax(axis=1) + 1, beyond)
    ranks = findings["first_right"].numpy()
    return np.where(ranks == 0, max(beyond, int(ranks.max()) + 1), ranks)


def hits(findings: dict[str, Tensor], gallery_labels: np.ndarray) -> np.ndarray:
    """Return (N, K) whether each of the nearest images is of the query's class."""
    return gallery_labels[findings["nearest"].numpy()] == findings["labels"].numpy()[:, None]


def confusions(
    findings: dict[str, dict[str, Tensor]],
    gallery_labels: np.ndarray,
    names: tuple[str, ...],
    most: int = 15,
) -> pd.DataFrame:
    """Return the pairs of classes that the models together confuse most, most first.

    Each has its ``query class``, that class's ``images``, the class that it is ``taken for``, and
    by method how many queries.
    """
    labels = next(iter(findings.values()))["labels"].numpy()
    counts = {}
    for method, found in findings.items():
        nearest = gallery_labels[found["nearest"][:, 0].numpy()]
        pairs = pd.DataFrame({"query": labels, "nearest": nearest})[labels != nearest]
        counts[method] = pairs.value_counts(sort=False)
    table = pd.DataFrame(counts).fillna(0).astype(int)
    table = table.loc[table.sum(axis=1).sort_values(ascending=False, kind="stable").index[:most]]
    queries, nearest = (table.index.get_level_values(level) for level in (0, 1))
    table.insert(0, "taken for", [names[c] for c in nearest])
    table.insert(0, "images", np.bincount(labels)[queries])
    table.insert(0, "query class", [names[c] for c in queries])
    return table.reset_index(drop=True)


def choose(ranks: dict[str, np.ndarray], count: int) -> np.ndarray:
    """Return random queries, half of them such that the models disagree, or the only one errs.

    Args:
        ranks: method -> (N,) as :func:`first_right` gives them.
    """
    rng = np.random.default_rng(0)
    right = np.stack([r == 1 for r in ranks.values()])
    disagree = np.flatnonzero(~right.all(axis=0) & (right.any(axis=0) | (len(right) == 1)))
    some = rng.permutation(disagree)[: count // 2]
    rest = np.setdiff1d(rng.permutation(right.shape[1]), some, assume_unique=True)
    return np.concatenate([some, rng.permutation(rest)[: count - len(some)]])


def hardest(ranks: dict[str, np.ndarray], count: int) -> np.ndarray:
    """Return the queries whose first right image comes latest, by the models' mean log rank."""
    return np.argsort(-np.sum([np.log(r) for r in ranks.values()], axis=0), kind="stable")[:count]


def figure(queries: np.ndarray, found: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Draw queries and what was retrieved for each: framed in solid green where right, else dashed.

    Args:
        queries: (Q, H, W, 3) uint8.
        found: method -> images (Q, K, H, W, 3), nearest first, and whether each is right (Q, K).
    """
    widths = [1.0]
    for _, right in found.values():
        widths += [0.25, *[1.0] * right.shape[1]]  # a gap before each method
    size = 0.8 * sum(widths), 0.86 * len(queries) + 0.35
    drawn, axes = blank(len(queries), len(widths), figsize=size, width_ratios=widths)
    for axis, query in zip(axes[:, 0], queries, strict=True):
        axis.imshow(query)
    axes[0, 0].set_title("query", fontsize=9)
    first = 2
    for method, (images, right) in found.items():
        axes[0, first].set_title(method, fontsize=9)
        for row, rank in np.ndindex(right.shape):
            axes[row, first + rank].imshow(images[row, rank])
            frame(axes[row, first + rank], bool(right[row, rank]))
        first += right.shape[1] + 1
    return drawn


def blank(rows: int, columns: int, **options) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes (rows, columns) for images, without ticks and frames."""
    drawn, axes = plt.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return drawn, axes


def frame(axis: Axes, right: bool) -> None:
    """Frame an image in solid green where it is right, else in dashed orange."""
    style = {"color": GREEN} if right else {"color": RED, "linestyle": (0, (1.5, 1.2))}
    axis.spines[:].set(visible=True, linewidth=2.5, capstyle="butt", **style)


def neighbors(
    query: np.ndarray,
    own: str,
    images: np.ndarray,
    names: Iterable[str],
    distances: Iterable[float],
) -> Figure:
    """Draw an image (H, W, 3) and its nearest (K, H, W, 3), with their classes and distances.

    They have frames where the image's ``own`` class is known.
    """
    rows = 1 + len(images) // 4
    drawn, axes = blank(rows, 4, figsize=(7.2, 2.3 * rows))
    axes[0, 0].imshow(query)
    axes[0, 0].set_title("new image", fontsize=9)
    for axis, image, name, distance in zip(axes.flat[1:], images, names, distances, strict=False):
        axis.imshow(image)
        axis.set_title(f"{textwrap.fill(name, 24)}\n{distance:#.3g}", fontsize=9)
        if own:
            frame(axis, name == own)
    return drawn
