"""Class centers in the embedding space, and distances between and within classes, in float64."""

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
        ``scale``: the mean distance of two images, in the embedding's own units. Over it:
        ``between``, the mean distance of two class centers; ``within``, of an image to its center.
        ``ratio``: between / within. ``evenness``: the mean distance of a center to its nearest one,
        over that of two centers; 1 where all are equally far apart.
    """
    every = -(-int(labels.max() + 1) // MOST_CLASSES)
    chosen = labels % every == 0
    embeddings, labels = embeddings[chosen].double(), labels[chosen] // every
    means = centers(embeddings, labels)
    scale = torch.pdist(embeddings[:: -(-len(embeddings) // MOST_IMAGES)]).mean()
    between = torch.pdist(means).mean()
    within = (embeddings - means[labels]).norm(dim=1).mean()
    nearest = torch.cdist(means, means).fill_diagonal_(torch.inf).amin(dim=1).mean()
    names = ("between", "within", "ratio", "evenness", "scale")
    values = (between / scale, within / scale, between / within, nearest / between, scale)
    return dict(zip(names, torch.stack(values).tolist(), strict=True))


def within_class_distances(embeddings: Tensor, labels: Tensor) -> dict[str, list[float | None]]:
    """Return by class, for MOST_CLASSES at most, the mean ``distance`` of two of its images.

    Also ``square``, the mean squared one, which is twice the variance. Both are in the embedding's
    own units, and None for a class of one image.
    """
    order, counts = labels.argsort(stable=True), labels.bincount().tolist()
    every = -(-len(counts) // MOST_CLASSES)
    apart = [torch.pdist(embeddings[some].double()) for some in order.split(counts)[::every]]
    means = torch.stack([torch.stack([d.mean(), d.square().mean()]) for d in apart])  # NaN of none
    distance, square = (
        [float(f"{value:.5g}") if value == value else None for value in column]
        for column in means.T.tolist()
    )
    return {"distance": distance, "square": square}
