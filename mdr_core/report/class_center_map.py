"""The map of class centers (Figure 3): t-SNE, how far to trust it, which classes share a color."""

import re

import numpy as np
from matplotlib.axes import Axes
from sklearn.manifold import TSNE, trustworthiness

from mdr_core.report.plots import WONG

NEIGHBORS = 5  # of a class center, in the trustworthiness


def tsne(centers: np.ndarray, seed: int = 0) -> tuple[np.ndarray, float]:
    """Return class centers (C, D) in the plane (C, 2), and the map's trustworthiness.

    It is scikit-learn's, in 0 ... 1: 1 where the nearest centers in the map are the nearest ones in
    the embedding space; NaN for two classes, which have one neighbor each.
    """
    perplexity = min(10.0, (len(centers) - 1) / 3)
    drawing = TSNE(2, perplexity=perplexity, init="pca", random_state=seed)
    points = drawing.fit_transform(centers.astype(np.float32))
    neighbors = min(NEIGHBORS, (len(centers) - 1) // 2)
    if not neighbors:
        return points, float("nan")
    return points, float(trustworthiness(centers, points, n_neighbors=neighbors))


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


def draw(axis: Axes, points: np.ndarray, groups: np.ndarray, names: list[str]) -> None:
    """Draw centers (C, 2) in the color and shape of their group, those of "other" as grey dots."""
    for group, name in enumerate(names):
        color, marker = WONG[group % 6], "osD^vP"[group % 6]
        own = {"color": color, "marker": marker, "edgecolor": "#333333", "lw": 0.4}
        rest = {"color": "#bbbbbb", "marker": ".", "edgecolor": "none"}
        style = rest if name == "other" else own
        x, y = points[groups == group].T
        axis.scatter(x, y, s=26, label=name, **style)
