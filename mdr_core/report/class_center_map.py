"""The picture of class centres (Figure 3): t-SNE, how far it can be trusted, and which classes share a colour."""

import re

import numpy as np
from sklearn.manifold import TSNE, trustworthiness

NEIGHBOURS = 5  # of a class centre, in the neighbourhood preservation


def picture(middle: np.ndarray, seed: int = 0) -> tuple[np.ndarray, float]:
    """t-SNE of class centres, and how far their neighbourhoods survive it.

    Args:
        middle: (C, D).
        seed: the same for every model that is compared.

    Returns:
        (C, 2), and the trustworthiness in 0 ... 1 (scikit-learn's): 1 where the nearest centres in the picture are the
        nearest ones in the embedding space; NaN for two classes, which have one neighbour each.
    """
    perplexity = min(10.0, (len(middle) - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        middle.astype(np.float32)
    )
    neighbours = min(NEIGHBOURS, (len(middle) - 1) // 2)
    return points, float(
        trustworthiness(middle, points, n_neighbors=neighbours)
    ) if neighbours else float("nan")


def families(
    of_class: np.ndarray | None, names: tuple[str, ...], most: int = 6
) -> tuple[np.ndarray, list[str]]:
    """Groups of classes to colour: the ``most`` largest families, the rest together as "other".

    Args:
        of_class: (C,) each class's family, or None where the dataset has none.
        names: of the classes; a family is named by the word that its classes share (their last or first), else by number.

    Returns:
        (C,) index into the names, and the names.
    """
    if of_class is None:
        return np.zeros(len(names), dtype=int), ["test class"]
    found, counts = np.unique(of_class, return_counts=True)
    chosen = found[np.argsort(-counts, kind="stable")[:most]]
    titles = [
        common_word([n for n, f in zip(names, of_class, strict=True) if f == c]) for c in chosen
    ]
    titles = [
        f"family {title or c}" if not title or title.isdigit() else title
        for c, title in zip(chosen, titles, strict=True)
    ]
    place = {c: i for i, c in enumerate(chosen)}
    groups = np.array([place.get(f, len(chosen)) for f in of_class])
    return groups, titles + (["other"] if len(chosen) < len(found) else [])


def common_word(names: list[str]) -> str:
    """The last, or else the first, word that all names share, a year (of a car's model) aside; "" where neither is shared."""
    for position in (-1, 0):
        words = {name.split(",")[0].split()[position] for name in names}
        if len(words) == 1 and not re.fullmatch(r"\d{4}", word := words.pop()):
            return word
    return ""
