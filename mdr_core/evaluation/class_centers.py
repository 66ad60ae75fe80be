"""How classes lie in the embedding space: their centres, and how far apart these are."""

import numpy as np
from scipy.spatial.distance import cdist, pdist

MOST_CLASSES, MOST_IMAGES = (
    500,
    1500,
)  # that are looked at, an even spread; more would only take longer


def centres(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Class means: embeddings (N, D), labels (N,) in 0 ... C - 1, each class present. Returns (C, D)."""
    total = np.zeros((labels.max() + 1, embeddings.shape[1]))
    np.add.at(total, labels, embeddings)
    return total / np.bincount(labels)[:, None]


def spread(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How class centres spread, free of the embedding's scale.

    Args: embeddings (N, D); labels (N,) in 0 ... C - 1, each class present.

    Returns:
        ``between``: the mean distance of two class centres, over the mean distance of two images (so that a scale cancels);
        ``within``: the mean distance of an image to its centre, over the same;
        ``ratio``: between / within, the larger the better the classes are set apart;
        ``evenness``: the smallest distance of a centre to another one, averaged over centres, over the mean distance
        of centres: 1 where all are equally far apart;
        ``scale``: the mean distance of two images, in the embedding's own units.
    """
    every = -(-int(labels.max() + 1) // MOST_CLASSES)
    chosen = labels % every == 0
    embeddings, labels = embeddings[chosen], labels[chosen] // every
    middle = centres(embeddings, labels)
    scale = pdist(embeddings[:: -(-len(embeddings) // MOST_IMAGES)]).mean()
    apart = cdist(middle, middle)
    between = apart[np.triu_indices(len(middle), 1)].mean()
    within = np.linalg.norm(embeddings - middle[labels], axis=1).mean()
    nearest = (apart + np.diag(np.full(len(middle), np.inf))).min(axis=1).mean()
    found = {
        "between": between / scale,
        "within": within / scale,
        "ratio": between / within,
        "evenness": nearest / between,
        "scale": scale,
    }
    return {name: float(value) for name, value in found.items()}


def within_classes(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, list[float | None]]:
    """How widely the images of each class lie, of at most MOST_CLASSES classes, an even spread of them.

    Args: embeddings (N, D); labels (N,) in 0 ... C - 1.

    Returns:
        ``distance``: of each class, the mean distance of two of its images; ``square``: the mean squared distance, twice the
        variance, by which the distance of two centres can be freed of its scatter. In the embedding's own units; None for a
        class of one image.
    """
    every = -(-int(labels.max() + 1) // MOST_CLASSES)
    found = {"distance": [], "square": []}
    for c in range(0, int(labels.max()) + 1, every):
        apart = pdist(embeddings[labels == c])
        for name, values in (("distance", apart), ("square", apart**2)):
            found[name].append(float(f"{values.mean():.5g}") if len(values) else None)
    return found
