"""Metric-learning losses on unnormalized Euclidean distances, one formula each.

A loss is a module called as ``loss(embeddings, labels, generator, share)`` that returns a scalar. On several processes
embeddings and labels are those of the whole batch, and the scalar is this process's share: their sum is the loss. Whether embeddings lie on
the unit sphere is the model's choice (its head's normalization), never a loss's: pytorch-metric-learning normalizes
inside its distances by default, so every loss of it is given here ``LpDistance(normalize_embeddings=False)``.
"""

import inspect

import torch
from pytorch_metric_learning import distances
from pytorch_metric_learning import losses as pml
from torch import Tensor, nn
from torch.nn import functional as F

from mdr_core.distributed import ALONE, Share
from mdr_core.errors import StudyError
from mdr_core.regularizer import ALL, full, pairwise_distances

NAMES = ("triplet", "contrastive", "margin", "multi_similarity", "classification")


BOUNDED = ("HistogramLoss",)  # its histogram spans similarities in [-1, 1], which distances leave


def euclidean() -> distances.LpDistance:
    """d_ij = ||x_i - x_j||_2, of the embeddings as they come."""
    return distances.LpDistance(normalize_embeddings=False, p=2, power=1)


def negative_probabilities(
    embeddings: Tensor,
    labels: Tensor,
    nearest: float = 0.5,
    farthest: float = 1.4,
    rows: slice = ALL,
) -> Tensor:
    """Distance-weighted sampling (Wu et al. 2017): the probability that anchor i draws j as its negative.

    On L2-normalized copies of the embeddings, with d clamped from below at ``nearest``, a negative's weight is the
    inverse of the density q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2) of distances on the unit sphere:

        log w = (2 - D) log d - (D - 3)/2 log(1 - d^2/4),     none for d >= ``farthest``.

    An anchor left without a candidate draws uniformly from its negatives.

    Args:
        embeddings: (B, D).
        labels: (B,).
        rows: of these anchors alone, R of them.

    Returns:
        (R, B), by default (B, B): rows sum to one, zero for images of the anchor's own class. No gradient. A row without any negative in
        the batch is all zero.
    """
    with torch.no_grad():
        x = torch.nn.functional.normalize(embeddings.detach().float(), dim=1)
        dim = x.shape[1]
        d = pairwise_distances(x, rows=rows).clamp(min=nearest)
        negative = labels[rows, None] != labels[None, :]
        candidate = negative & (d < farthest)
        # Beyond `farthest` the second logarithm may meet a non-positive number; those weights are masked anyway.
        inner = (1 - d.square() / 4).clamp(min=1e-6)
        log_weight = (2 - dim) * d.log() - (dim - 3) / 2 * inner.log()
        # A softmax over the candidates is the normalized weight, with no overflow for any D.
        weighted = log_weight.masked_fill(~candidate, -torch.inf).softmax(dim=1)
        uniform = negative.float() / negative.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.where(candidate.any(dim=1, keepdim=True), weighted, uniform)


def triplets(
    embeddings: Tensor,
    labels: Tensor,
    generator: torch.Generator,
    most_positives: int | None = None,
    rows: slice = ALL,
) -> tuple[Tensor, Tensor]:
    """One triplet for every ordered positive pair, its negative drawn by :func:`negative_probabilities`.

    Args:
        embeddings: (B, D).
        labels: (B,).
        generator: on the embeddings' device.
        most_positives: an upper bound P for the positives of an anchor (images per class - 1). With it the shapes are
            known in advance and nothing waits for the device; without it, it is counted.
        rows: for these anchors alone, R of them; they draw what they would draw among all.

    Returns:
        indices (3, R * P) of anchor, positive and negative, and a mask (R * P,) telling which of them exist: anchors
        with fewer than P positives, or with no negative, leave some of their places empty.
    """
    batch = len(labels)
    if most_positives is None:
        most_positives = max(int(labels.unique(return_counts=True)[1].max()) - 1, 1)
    number = torch.arange(batch, device=labels.device)
    same = (labels[rows, None] == labels[None, :]) & (number[rows, None] != number)
    found, positive = same.to(torch.uint8).topk(min(most_positives, batch), dim=1)
    probability = negative_probabilities(embeddings, labels, rows=rows)
    # Inverse of the cumulative distribution; torch.multinomial would check its argument by waiting for the device.
    cumulative = probability.double().cumsum(dim=1)
    draw = torch.rand(
        batch, positive.shape[1], generator=generator, device=embeddings.device, dtype=torch.float64
    )[rows]
    negative = torch.searchsorted(cumulative, draw * cumulative[:, -1:], right=True).clamp(
        max=batch - 1
    )
    anchor = number[rows, None].expand_as(positive)
    exists = found.bool() & (labels[negative] != labels[rows, None])
    return torch.stack([anchor, positive, negative]).flatten(1), exists.flatten()


def triplet_loss(
    embeddings: Tensor,
    indices: Tensor,
    exists: Tensor | None = None,
    margin: float = 0.2,
    share: Share = ALONE,
) -> Tensor:
    """Mean over triplets (a, p, n) of max(0, d_ap - d_an + margin).

    Args:
        embeddings: (B, D).
        indices: (3, T) anchor, positive, negative.
        exists: (T,) boolean; triplets to leave out are False.
        margin: in units of distance.
        share: the mean runs over the triplets of all processes.
    """
    anchor, positive, negative = (embeddings[i] for i in indices)
    each = F.triplet_margin_loss(anchor, positive, negative, margin=margin, reduction="none")
    if exists is None:
        exists = torch.ones_like(each, dtype=torch.bool)
    return torch.where(exists, each, 0.0).sum() / share.total(exists.sum()).clamp(min=1)


class TripletLoss(nn.Module):
    """:func:`triplet_loss` with one negative for every ordered positive pair, drawn by distance-weighted sampling.

    Args:
        margin: in units of distance.
        images_per_class: of the batches to come, if known; then no step waits for the device.
    """

    def __init__(self, margin: float = 0.2, images_per_class: int | None = None):
        super().__init__()
        self.margin = margin
        self.most_positives = None if images_per_class is None else images_per_class - 1

    def forward(
        self, embeddings: Tensor, labels: Tensor, generator: torch.Generator, share: Share = ALONE
    ) -> Tensor:
        indices, exists = triplets(
            embeddings, labels, generator, self.most_positives, share.rows(len(labels))
        )
        return triplet_loss(full(embeddings), indices, exists, self.margin, share)


class ClassificationLoss(nn.Module):
    """Cross entropy, the embeddings (B, C) taken as the logits of C classes."""

    def forward(
        self, embeddings: Tensor, labels: Tensor, generator: torch.Generator, share: Share = ALONE
    ) -> Tensor:
        return F.cross_entropy(full(embeddings), labels) / share.world


class LibraryLoss(nn.Module):
    """A loss of pytorch-metric-learning on :func:`euclidean` distances. On several processes each computes the whole of it
    (the library averages in ways of its own), and an equal part counts.

    Args:
        name: a class of ``pytorch_metric_learning.losses``.
        arguments: passed on to it.

    Raises:
        StudyError: no such class, or one that is not a function of distances between embeddings alone (it learns a
            weight per class, say, or fixes a similarity of its own).
    """

    def __init__(self, name: str, **arguments):
        super().__init__()
        cls = getattr(pml, name, None)
        if not (inspect.isclass(cls) and issubclass(cls, pml.BaseMetricLossFunction)):
            raise StudyError(
                f"unknown loss {name!r}: choose one of {', '.join(NAMES)}, {', '.join(library_losses())}"
            )
        if name not in library_losses():
            raise StudyError(
                f"loss {name!r} is not a function of pairwise distances alone: choose one of "
                f"{', '.join(NAMES)}, {', '.join(library_losses())}"
            )
        try:
            self.loss = cls(distance=euclidean(), **arguments)
        except TypeError as problem:
            raise StudyError(f"loss {name!r} does not take these arguments: {problem}") from None

    def forward(
        self, embeddings: Tensor, labels: Tensor, generator: torch.Generator, share: Share = ALONE
    ) -> Tensor:
        return self.loss(full(embeddings), labels) / share.world


def library_losses() -> list[str]:
    """The distance-based losses of pytorch-metric-learning: those that can be built on :func:`euclidean` alone."""
    found = []
    for name, cls in inspect.getmembers(pml, inspect.isclass):
        if (
            name in BOUNDED
            or name.startswith("Base")
            or not issubclass(cls, pml.BaseMetricLossFunction)
        ):
            continue
        try:
            cls(distance=euclidean())
        except Exception:  # noqa: BLE001 - it needs a class count, another distance, or another loss: not one of these
            continue
        found.append(name)
    return found


def make(name: str, margin: float = 0.2, images_per_class: int | None = None) -> nn.Module:
    """A loss by name.

    - ``triplet``: mean of max(0, d_ap - d_an + margin), distance-weighted negatives (:class:`TripletLoss`).
    - ``contrastive``: mean of d_ij over positive pairs + mean of max(0, 1 - d_ij) over negative ones (Hadsell 2006).
    - ``margin``: max(0, d_ap - beta + margin) + max(0, beta - d_an + margin), beta = 1.2 (Wu et al. 2017), on the
      library's triplets.
    - ``multi_similarity``: Wang et al. 2019 with distances for similarities: (1/alpha) log(1 + sum over positives of
      exp(alpha (d - base))) + (1/beta) log(1 + sum over negatives of exp(beta (base - d))), averaged over anchors;
      alpha 2, beta 50, base 0.5.
    - ``classification``: cross entropy of the softmax of the embedding, whose dimension is then the number of classes.
      Not metric learning: the small backbone is pretrained by it, in the same loop.
    - any name in :func:`library_losses`, with the library's own defaults.

    Args:
        margin: of ``triplet`` and ``margin``; the others have constants of their own.

    Raises:
        StudyError: an unknown name; the message lists those that exist.
    """
    if name == "triplet":
        return TripletLoss(margin, images_per_class)
    if name == "contrastive":
        return LibraryLoss("ContrastiveLoss", pos_margin=0, neg_margin=1)
    if name == "margin":
        return LibraryLoss("MarginLoss", margin=margin)
    if name == "multi_similarity":
        return LibraryLoss("MultiSimilarityLoss")
    if name == "classification":
        return ClassificationLoss()
    return LibraryLoss(name)
