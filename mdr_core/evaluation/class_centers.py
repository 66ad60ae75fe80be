"""Class centers in the embedding space, and the distances between and within classes."""

import numpy as np
from scipy.spatial.distance import cdist, pdist

MOST_CLASSES, MOST_IMAGES = 500, 1500  # looked at, evenly spread; more would only take longer


def centers(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the class means (C, D) of embeddings (N, D), labels (N,) in 0 ... C - 1."""
    total = np.zeros((labels.max() + 1, embeddings.shape[1]))
    np.add.at(total, labels, embeddings)
    return total / np.bincount(labels)[:, None]


def class_distances(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return how far apart the classes lie, free of the embedding's scale.

    Args: embeddings (N, D); labels (N,) in 0 ... C - 1, each class present.

    Returns:
        ``between``: the mean distance of two class centers, over ``scale``;
        ``within``: the mean distance of an image to its class center, over ``scale``;
        ``ratio``: between / within;
        ``evenness``: the mean distance of a center to its nearest one, over the mean distance of
        two centers: 1 where all are equally far apart;
        ``scale``: the mean distance of two images, in the embedding's own units.
    """
    every = -(-int(labels.max() + 1) // MOST_CLASSES)
    chosen = labels % every == 0
    embeddings, labels = embeddings[chosen], labels[chosen] // every
    means = centers(embeddings, labels)
    scale = pdist(embeddings[:: -(-len(embeddings) // MOST_IMAGES)]).mean()
    apart = cdist(means, means)
    between = apart[np.triu_indices(len(means), 1)].mean()
    within = np.linalg.norm(embeddings - means[labels], axis=1).mean()
    nearest = (apart + np.diag(np.full(len(means), np.inf))).min(axis=1).mean()
    found = {
        "between": between / scale,
        "within": within / scale,
        "ratio": between / within,
        "evenness": nearest / between,
        "scale": scale,
    }
    return {name: float(value) for name, value in found.items()}


def within_class_distances(
    embeddings: np.ndarray, labels: np.ndarray
) -> dict[str, list[float | None]]:
    """Return the mean distance of two images of a class, for MOST_CLASSES classes at most.

    Returns:
        By class, in the embedding's own units, None for a class of one image: ``distance``, the
        mean; ``square``, the mean squared distance, which is twice the variance.
    """
    every = -(-int(labels.max() + 1) // MOST_CLASSES)
    found: dict[str, list[float | None]] = {"distance": [], "square": []}
    for c in range(0, int(labels.max()) + 1, every):
        apart = pdist(embeddings[labels == c])
        for name, values in (("distance", apart), ("square", apart**2)):
            found[name].append(float(f"{values.mean():.5g}") if len(values) else None)
    return found
