"""Distances of a batch and the gradients on them (Figures 1 and 2), and of classes (Figure 3)."""

import copy
from typing import Any

import torch
from torch import Tensor

from mdr_core.losses import triplets
from mdr_core.regularizer import MDR, normalize_by_mean_distance, pairwise_distances

BINS, FARTHEST = 128, 2.0  # of the histograms of distances over their mean, over [0, FARTHEST]
DECILES = 10
DRAWS = 16  # of negatives, over which the triplet loss's gradient is averaged
MOST_CLASSES, MOST_IMAGES = 500, 1500  # looked at, evenly spread; more would only take longer


@torch.no_grad()
def batch_statistics(
    embeddings: Tensor, labels: Tensor, mdr: MDR, normalization: str, margin: float | None
) -> dict[str, Any]:
    """Return the distances and gradients of one batch (B, D), labels (B,), before normalization.

    ``mdr``, the run's regularizer, is not changed; without a batch before, this sets its running
    values. ``margin``: of the triplet loss; None leaves out the gradient of another loss.

    Returns:
        ``pair_mean``, ... of distances of pairs i < j; ``..._histogram``: by distance over
        ``pair_mean``, the last bin holding all beyond. ``level_share_positive``, ``..._negative``:
        of these pairs, nearest to each level. ``gradient_positive``,
        ``gradient_negative``: what each decile of these pairs, nearest first, adds to the sum of
        the triplet loss's ``|dL/dd_ij|``. ``gradient_mdr``: that sum for L_MDR, unweighted.
    """
    x = normalize_by_mean_distance(embeddings) if normalization == "mean_distance" else embeddings
    mdr = copy.deepcopy(mdr).to(x.device)
    if not mdr.started:
        mdr.train()(x)
    d = pairwise_distances(x)
    upper = torch.ones_like(d, dtype=torch.bool).triu(1)
    same = labels[:, None] == labels[None, :]
    pairs = d[upper]
    kinds = {"positive": d[upper & same], "negative": d[upper & ~same]}
    row: dict[str, Any] = {
        "pair_mean": pairs.mean().item(),
        "pair_std": pairs.std().item(),
        # B (B - 1) pairs, each 1 / (B (B - 1) sigma)
        "gradient_mdr": float(f"{1 / mdr.running_std.item():.5g}"),
    }
    for name, values in kinds.items():
        z = (values - mdr.running_mean) / mdr.running_std
        nearest = (z[:, None] - mdr.levels.detach()[None, :]).abs().argmin(dim=1)
        row[f"{name}_mean"] = values.mean().item()
        relative = (values / pairs.mean()).clamp(0, FARTHEST)
        row[f"{name}_histogram"] = relative.histc(BINS, 0, FARTHEST).int().tolist()
        share = nearest.bincount(minlength=len(mdr.levels)) / len(values)
        row[f"level_share_{name}"] = rounded(share)
    if margin is not None:
        gradient = triplet_gradient(x, d, labels, margin)
        for name, chosen in (("positive", same & (upper | upper.T)), ("negative", ~same)):
            row[f"gradient_{name}"] = rounded(sum_by_decile(d, gradient, chosen))
    return row


def triplet_gradient(x: Tensor, d: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return ``|dL/dd_ij|`` (B, B) of the triplet loss, averaged over DRAWS draws of negatives.

    Of T triplets, one (a, p, n) adds 1/T to d_ap and to d_an while d_ap - d_an + margin > 0.
    """
    generator, gradient = torch.Generator(x.device).manual_seed(0), torch.zeros_like(d)
    for _ in range(DRAWS):
        (a, p, n), exists = triplets(x, labels, generator)
        active = (exists & (d[a, p] - d[a, n] + margin > 0)).to(d.dtype) / (exists.sum() * DRAWS)
        gradient.index_put_((a, p), active, accumulate=True)
        gradient.index_put_((a, n), active, accumulate=True)
    return gradient


def sum_by_decile(d: Tensor, values: Tensor, chosen: Tensor) -> Tensor:
    """Return (DECILES,) sums of the chosen pairs' values by decile of distance, nearest first."""
    order = d[chosen].argsort(stable=True)
    return torch.stack([part.sum() for part in values[chosen][order].tensor_split(DECILES)])


def rounded(values: Tensor) -> list[float | None]:
    """Return five digits of each, short in a file; None for NaN."""
    return [float(f"{v:.5g}") if v == v else None for v in values.tolist()]


def centers(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the class means (C, D) of embeddings (N, D), labels (N,) in 0 ... C - 1, float64."""
    count = labels.bincount()
    total = embeddings.new_zeros(len(count), embeddings.shape[1], dtype=torch.float64)
    total.index_put_((labels,), embeddings.double(), accumulate=True)  # always in the same order
    return total / count[:, None]


def class_distances(embeddings: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return how far apart classes and images lie: embeddings (N, D), labels (N,), 0 ... C - 1.

    Returns:
        ``centres_scale``: the mean distance of two images. Over it: ``centres_between``, of two
        class centers, and ``centres_within``, of an image to its center. ``centres_ratio``: between
        / within. ``centres_evenness``: a center's distance to its nearest one, over that of two.
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
    return {f"centres_{name}": value.item() for name, value in zip(names, values, strict=True)}
