"""How classes lie in the embedding space: their centres, and how far apart these are."""

import numpy as np
from scipy.spatial.distance import cdist, pdist

MOST_CLASSES, MOST_IMAGES = 500, 1500  # that are looked at, an even spread; more would only take longer


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
        of centres: 1 where all are equally far apart.
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
    found = {"between": between / scale, "within": within / scale, "ratio": between / within, "evenness": nearest / between}
    return {name: float(value) for name, value in found.items()}
