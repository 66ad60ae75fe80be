"""Maps of class centers (Figure 3): t-SNE and PCA, how far to trust each, who shares a color."""

import itertools
import re

import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness

from mdr_core.report.plots.style import BLUE, GREEN, ORANGE, PINK, RED, panel, titled

NEIGHBORS = 5  # of a class center, in the trustworthiness
COLORS = BLUE, ORANGE, GREEN, RED, PINK, "#56B4E9"


def tsne(centers: np.ndarray) -> np.ndarray:
    """Return class centers (C, D) in the plane (C, 2) by t-SNE."""
    perplexity = min(10.0, (len(centers) - 1) / 3)
    drawing = TSNE(2, perplexity=perplexity, init="pca", random_state=0)
    return drawing.fit_transform(centers.astype(np.float32))


def trust(centers: np.ndarray, points: np.ndarray) -> float:
    """Return how far the neighborhoods of a map (C, 2) of the centers (C, D) can be trusted.

    It is scikit-learn's trustworthiness, in 0 ... 1: 1 where the nearest centers in the map are the
    nearest ones in the embedding space; NaN for two classes, which have one neighbor each.
    """
    neighbors = min(NEIGHBORS, (len(centers) - 1) // 2)
    if not neighbors:
        return float("nan")
    return float(trustworthiness(centers, points, n_neighbors=neighbors))


def families(
    of_class: np.ndarray | None, names: tuple[str, ...], most: int = 6
) -> tuple[np.ndarray, list[str]]:
    """Return groups of classes to color: the ``most`` largest families, the rest as "other".

    Args:
        of_class: (C,) each class's family, or None where the dataset has none.
        names: of the classes. A family has the name of the word that they share, else its number.

    Returns:
        (C,) index into the groups' names, and these names.
    """
    if of_class is None:
        return np.zeros(len(names), dtype=int), ["test class"]
    found, counts = np.unique(of_class, return_counts=True)
    largest = found[np.argsort(-counts, kind="stable")[:most]]
    groups, titles = np.full(len(names), len(largest)), []
    for place, family in enumerate(largest):
        groups[of_class == family] = place
        word = common_word([names[c] for c in np.flatnonzero(of_class == family)])
        titles.append(f"family {word or family}" if not word or word.isdigit() else word)
    return groups, titles + ["other"] * (len(largest) < len(found))


def common_word(names: list[str]) -> str:
    """Return the last, or else the first, word that all names share, but no year; else ""."""
    for position in (-1, 0):
        words = {name.split(",")[0].split()[position] for name in names}
        if len(words) == 1 and not re.fullmatch(r"\d{4}", word := words.pop()):
            return word
    return ""


def maps(
    centers: np.ndarray, groups: np.ndarray, titles: list[str], names: tuple[str, ...], title: str
) -> list[Figure]:
    """Draw a t-SNE and a PCA of class centers (C, D); groups and titles: of :func:`families`.

    Those of the group "other" are grey dots. A class's name shows on hover.
    """
    centers = centers.astype(np.float64)
    looks = [
        ("#aaaaaa", "o", "none") if title == "other" else (color, marker, "#333333")
        for title, color, marker in zip(titles, itertools.cycle(COLORS), itertools.cycle("osD^vP"))
    ]
    figures = []
    exact = PCA(2, svd_solver="full")  # the default draws at random where there are many classes
    for way, points in {"t-SNE": tsne(centers), "PCA": exact.fit_transform(centers)}.items():
        figure, axis = panel(4.6, width=4.6)  # two a row
        for (x, y), group, name in zip(points, groups, names, strict=True):
            color, marker, edge = looks[group]
            dot = axis.scatter(x, y, s=34, lw=0.4, color=color, marker=marker, edgecolor=edge)
            titled(dot, name)
        if len(titles) > 1:
            shown = [axis.collections[(groups == group).argmax()] for group in range(len(titles))]
            close = {"handletextpad": 0.1, "columnspacing": 0.8}
            figure.legend(shown, titles, loc="outside lower center", ncols=3, **close)
        axis.set(title=f"{title}: {way}", xticks=[], yticks=[])
        axis.set(xlabel=f"trustworthiness {trust(centers, points):.2f}")
        axis.margins(0.06)
        axis.spines[:].set(visible=True, color="#cccccc")
        figures.append(figure)
    return figures
