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
from mdr_core.regularizer import full
from mdr_core.sampling import triplets

NAMES = ("triplet", "contrastive", "margin", "multi_similarity", "classification")


BOUNDED = ("HistogramLoss",)  # its histogram spans similarities in [-1, 1], which distances leave


def euclidean() -> distances.LpDistance:
    """d_ij = ||x_i - x_j||_2, of the embeddings as they come."""
    return distances.LpDistance(normalize_embeddings=False, p=2, power=1)


def triplet_loss(embeddings: Tensor, indices: Tensor, exists: Tensor | None = None, margin: float = 0.2,
                 share: Share = ALONE) -> Tensor:
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

    def forward(self, embeddings: Tensor, labels: Tensor, generator: torch.Generator, share: Share = ALONE) -> Tensor:
        indices, exists = triplets(embeddings, labels, generator, self.most_positives, share.rows(len(labels)))
        return triplet_loss(full(embeddings), indices, exists, self.margin, share)


class ClassificationLoss(nn.Module):
    """Cross entropy, the embeddings (B, C) taken as the logits of C classes."""

    def forward(self, embeddings: Tensor, labels: Tensor, generator: torch.Generator, share: Share = ALONE) -> Tensor:
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
            raise StudyError(f"unknown loss {name!r}: choose one of {', '.join(NAMES)}, {', '.join(library_losses())}")
        if name not in library_losses():
            raise StudyError(f"loss {name!r} is not a function of pairwise distances alone: choose one of "
                             f"{', '.join(NAMES)}, {', '.join(library_losses())}")
        try:
            self.loss = cls(distance=euclidean(), **arguments)
        except TypeError as problem:
            raise StudyError(f"loss {name!r} does not take these arguments: {problem}") from None

    def forward(self, embeddings: Tensor, labels: Tensor, generator: torch.Generator, share: Share = ALONE) -> Tensor:
        return self.loss(full(embeddings), labels) / share.world


def library_losses() -> list[str]:
    """The distance-based losses of pytorch-metric-learning: those that can be built on :func:`euclidean` alone."""
    found = []
    for name, cls in inspect.getmembers(pml, inspect.isclass):
        if name in BOUNDED or name.startswith("Base") or not issubclass(cls, pml.BaseMetricLossFunction):
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
