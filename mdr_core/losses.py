"""Metric-learning losses on Euclidean distances between embeddings as they come.

A loss is called as ``loss(embeddings, labels, generator)`` and returns a scalar. Whether embeddings
are L2-normalized is the network's choice, never a loss's: pytorch-metric-learning normalizes by
default, and is told not to here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pytorch_metric_learning import distances
from pytorch_metric_learning import losses as library
from torch import Generator, Tensor
from torch.nn import functional as F

from mdr_core.errors import StudyError
from mdr_core.regularizer import at_least_float32, pairwise_distances

Loss = Callable[[Tensor, Tensor, Generator], Tensor]
NAMES = ("triplet", "contrastive", "margin", "multi_similarity", "classification")
OF_LIBRARY = (  # the losses of pytorch-metric-learning that need a distance alone
    "ContrastiveLoss", "GeneralizedLiftedStructureLoss", "IntraPairVarianceLoss",
    "LiftedStructureLoss", "MarginLoss", "MultiSimilarityLoss", "NCALoss", "NPairsLoss",
    "NTXentLoss", "SupConLoss", "TripletMarginLoss",
)  # fmt: skip


@torch.no_grad()
def negative_probabilities(
    embeddings: Tensor, labels: Tensor, nearest: float = 0.5, farthest: float = 1.4
) -> Tensor:
    """Return the probability that anchor i draws j as its negative (Wu et al. 2017).

    Distances d are those of L2-normalized copies of the embeddings (B, D), clamped from below at
    ``nearest``. A negative's weight is the inverse of their density on the unit sphere:

        log w = (2 - D) log d - (D - 3)/2 log(1 - d^2/4),     none for d >= ``farthest``.

    An anchor left without a candidate draws uniformly from its negatives. Rows of the (B, B) sum
    to one, with zeros for the anchor's own class; a row without a negative is zero.
    """
    x = F.normalize(embeddings.detach().float(), dim=1)
    dim = x.shape[1]
    d = pairwise_distances(x).clamp(min=nearest)
    negative = labels[:, None] != labels[None, :]
    candidate = negative & (d < farthest)
    # Beyond `farthest`, which is masked, the second logarithm may meet a non-positive number.
    inner = (1 - d.square() / 4).clamp(min=1e-6)
    log_weight = (2 - dim) * d.log() - (dim - 3) / 2 * inner.log()
    # A softmax over the candidates is the normalized weight, with no overflow for any D.
    weighted = log_weight.masked_fill(~candidate, -torch.inf).softmax(dim=1)
    uniform = negative.float() / negative.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.where(candidate.any(dim=1, keepdim=True), weighted, uniform)


def triplets(
    embeddings: Tensor, labels: Tensor, generator: Generator, most_positives: int | None = None
) -> tuple[Tensor, Tensor]:
    """Draw a negative by :func:`negative_probabilities` for every ordered positive pair.

    Args:
        embeddings, labels: (B, D), (B,).
        generator: on the embeddings' device.
        most_positives: an upper bound P for the positives of an anchor (images per class - 1). With
            it nothing waits for the device; without it, it is counted.

    Returns:
        Indices (3, B * P) of anchor, positive and negative, and a mask (B * P,) of those that
        exist. Anchors with fewer than P positives, or with no negative, leave places empty.
    """
    batch, device = len(labels), embeddings.device
    if most_positives is None:
        most_positives = max(int(labels.unique(return_counts=True)[1].max()) - 1, 1)
    number = torch.arange(batch, device=device)
    same = (labels[:, None] == labels[None, :]) & (number[:, None] != number)
    found, positive = same.to(torch.uint8).topk(min(most_positives, batch), dim=1)
    # Inverts the cumulative distribution: torch.multinomial would wait for the device.
    cumulative = negative_probabilities(embeddings, labels).double().cumsum(dim=1)
    draw = torch.rand(positive.shape, generator=generator, device=device, dtype=torch.float64)
    negative = torch.searchsorted(cumulative, draw * cumulative[:, -1:], right=True)
    negative = negative.clamp(max=batch - 1)
    anchor = number[:, None].expand_as(positive)
    exists = found.bool() & (labels[negative] != labels[:, None])
    return torch.stack([anchor, positive, negative]).flatten(1), exists.flatten()


def triplet_loss(
    embeddings: Tensor, indices: Tensor, exists: Tensor | None = None, margin: float = 0.2
) -> Tensor:
    """Return the mean over triplets (a, p, n) of max(0, d_ap - d_an + margin).

    Of embeddings (B, D), ``indices`` (3, T) are anchor, positive and negative. Where ``exists``
    (T,) is False, a triplet is left out.
    """
    anchor, positive, negative = (embeddings[i] for i in indices)
    each = F.triplet_margin_loss(anchor, positive, negative, margin=margin, reduction="none")
    if exists is None:
        exists = torch.ones_like(each, dtype=torch.bool)
    return torch.where(exists, each, 0.0).sum() / exists.sum().clamp(min=1)


def drawn_triplet_loss(
    embeddings: Tensor, labels: Tensor, generator: Generator, margin: float, most: int | None
) -> Tensor:
    indices, exists = triplets(embeddings, labels, generator, most)
    return triplet_loss(at_least_float32(embeddings), indices, exists, margin)


def make(name: str, margin: float = 0.2, images_per_class: int | None = None) -> Loss:
    """Return a loss by name: one of :data:`OF_LIBRARY`, with the library's defaults, or

    ``triplet``: mean of max(0, d_ap - d_an + ``margin``), distance-weighted negatives;
    ``contrastive``: mean of d_ij over positive pairs + mean of the positive max(0, 1 - d_ij) over
    negative ones (Hadsell et al. 2006);
    ``margin``: max(0, d_ap - beta + ``margin``) + max(0, beta - d_an + ``margin``), beta = 1.2
    (Wu et al. 2017), on all triplets;
    ``multi_similarity``: (1/alpha) log(1 + sum over positives of exp(alpha (d - base)))
    + (1/beta) log(1 + sum over negatives of exp(beta (base - d))), averaged over anchors, with
    alpha = 2, beta = 50, base = 0.5 (Wang et al. 2019, with distances for similarities);
    ``classification``: cross entropy, embeddings (B, C) being logits; pretrains small networks.

    ``images_per_class``: of the batches to come; with it no ``triplet`` step waits for the device.

    Raises:
        StudyError: an unknown name, or a loss that is not a function of distances alone (it learns
            a weight per class, say); the message lists the names that exist.
    """
    if name == "triplet":
        most = None if images_per_class is None else images_per_class - 1
        return partial(drawn_triplet_loss, margin=margin, most=most)
    if name == "classification":
        return lambda embeddings, labels, generator: F.cross_entropy(embeddings.float(), labels)
    ours: dict[str, tuple[str, dict[str, Any]]] = {
        "contrastive": ("ContrastiveLoss", {"pos_margin": 0, "neg_margin": 1}),
        "margin": ("MarginLoss", {"margin": margin}),
        "multi_similarity": ("MultiSimilarityLoss", {}),
    }
    of_library, arguments = ours.get(name, (name, {}))
    if of_library not in OF_LIBRARY:
        raise StudyError(
            f"unknown loss {name!r}, or not a function of pairwise distances alone: choose one of "
            f"{', '.join(NAMES + OF_LIBRARY)}"
        )
    euclidean = distances.LpDistance(normalize_embeddings=False, p=2, power=1)
    loss = getattr(library, of_library)(distance=euclidean, **arguments)
    return lambda embeddings, labels, generator: loss(at_least_float32(embeddings), labels)
