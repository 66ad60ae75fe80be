"""Class centers in the embedding space, and the distances between and within classes.

All is computed in float64 on the device of the embeddings, which is read once at the end.
"""

import torch
from torch import Tensor

MOST_CLASSES, MOST_IMAGES = 500, 1500  # looked at, evenly spread; more would only take longer


def centers(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the class means (C, D) of embeddings (N, D), labels (N,) in 0 ... C - 1, float64."""
    count = labels.bincount()
    total = embeddings.new_zeros(len(count), embeddings.shape[1], dtype=torch.float64)
    total.index_put_((labels,), embeddings.double(), accumulate=True)  # always in the same order
    return total / count[:, None]


def class_distances(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Return how far apart the classes lie, free of the embedding's scale.

    Args: embeddings (N, D); labels (N,) in 0 ... C - 1, each class present.

    Returns:
        ``between``: the mean distance of two class centers, over ``scale``.
        ``within``: the mean distance of an image to its class center, over ``scale``.
        ``ratio``: between / within.
        ``evenness``: the mean distance of a center to its nearest one, over the mean distance of
        two centers. It is 1 where all are equally far apart.
        ``scale``: the mean distance of two images, in the embedding's own units.
    """
    every = -(-int(labels.max() + 1) // MOST_CLASSES)
    chosen = labels % every == 0
    embeddings, labels = embeddings[chosen].double(), labels[chosen] // every
    means = centers(embeddings, labels)
    scale = mean_distance(embeddings[:: -(-len(embeddings) // MOST_IMAGES)])
    apart = torch.cdist(means, means).fill_diagonal_(torch.inf)
    between = mean_distance(means)
    within = (embeddings - means[labels]).norm(dim=1).mean()
    nearest = apart.amin(dim=1).mean()
    found = {
        "between": between / scale,
        "within": within / scale,
        "ratio": between / within,
        "evenness": nearest / between,
        "scale": scale,
    }
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))


def mean_distance(points: Tensor) -> Tensor:
    """Return the mean distance of two of the points (N, D)."""
    d = torch.cdist(points, points).fill_diagonal_(0)
    return d.sum() / (len(points) * (len(points) - 1))


def within_class_distances(embeddings: Tensor, labels: Tensor) -> dict[str, list[float | None]]:
    """Return the mean distance of two images of a class, for MOST_CLASSES classes at most.

    Returns:
        By class, in the embedding's own units, None for a class of one image: ``distance``, the
        mean; ``square``, the mean squared distance, which is twice the variance.
    """
    order, counts = labels.argsort(stable=True), labels.bincount().tolist()
    every = -(-len(counts) // MOST_CLASSES)
    means = []
    for of_class in order.split(counts)[::every]:
        apart = torch.pdist(embeddings[of_class].double())
        means.append(torch.stack([apart.mean(), apart.square().mean()]))  # NaN of no pair
    columns = torch.stack(means).T.tolist()
    return {
        name: [float(f"{value:.5g}") if value == value else None for value in column]
        for name, column in zip(("distance", "square"), columns, strict=True)
    }
