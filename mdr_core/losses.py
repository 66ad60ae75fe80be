"""Metric-learning losses, ``loss(embeddings, labels, generator)``, on Euclidean distances.

None normalizes the embeddings: that is the network's choice.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any

import torch
from pytorch_metric_learning import distances
from pytorch_metric_learning import losses as library
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY
from mdr_core.regularizer import at_least_float32, pairwise_distances

Loss = Callable[[Tensor, Tensor, Generator], Tensor]


@torch.no_grad()
def negative_probabilities(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the probability that anchor i draws j as its negative (Wu et al. 2017).

    Distances d are those of L2-normalized embeddings, at least 0.5. A negative's weight is
    the inverse of their density on the unit sphere, q(d) ~ d^(D-2) (1 - d^2/4)^((D-3)/2):

        log w = (2 - D) log d - (D - 3)/2 log(1 - d^2/4),     none for d >= 1.4.

    An anchor left without a candidate draws uniformly from its negatives. Rows of the result
    (B, B) sum to one, or to zero for an anchor without a negative.
    """
    x = F.normalize(embeddings.detach().float(), dim=1)
    dim = x.shape[1]
    d = pairwise_distances(x).clamp(min=0.5)
    negative = labels[:, None] != labels[None, :]
    candidate = negative & (d < 1.4)
    # Beyond it, which is masked, the second logarithm may meet a non-positive number.
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

    ``most_positives``: P, a bound for an anchor's positives (images per class - 1), counted where
    it is not given, which waits for the device. Embeddings are (B, D), labels (B,). Return indices
    (3, B * P) of anchor, positive and negative, and a mask (B * P,) of those that exist: anchors
    with fewer than P positives, or with no negative, leave places empty.
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


def triplet_loss(x: Tensor, indices: Tensor, exists: Tensor, margin: float = 0.2) -> Tensor:
    """Return the mean over triplets (a, p, n) of max(0, d_ap - d_an + margin).

    Embeddings ``x`` are (B, D); ``indices`` (3, T) and ``exists`` (T,) are of :func:`triplets`.
    """
    anchor, positive, negative = (x[i] for i in indices)
    each = F.triplet_margin_loss(anchor, positive, negative, margin=margin, reduction="none")
    return torch.where(exists, each, 0.0).sum() / exists.sum().clamp(min=1)


def make(
    name: str, margin: float = 0.2, images_per_class: int | None = None, beta: float = 1.2
) -> Loss:
    """Return a loss by name; ``margin``, of ``triplet`` and ``margin``, is in units of distance.

    - ``triplet``: :func:`triplet_loss` of :func:`triplets`.
    - ``contrastive``: mean of d_ij over positive pairs + mean of the positive max(0, 1 - d_ij) over
      negative ones (Hadsell et al. 2006).
    - ``margin``: max(0, d_ap - beta + margin) + max(0, beta - d_an + margin) (Wu et al. 2017, whose
      beta of 1.2 is for the unit sphere; at a mean distance of one, 1.2 / sqrt(2) = 0.85).
    - ``multi_similarity``: 1/2 log(1 + sum of exp(2 (d_ap - 0.5))) + 1/50 log(1 + sum of
      exp(50 (0.5 - d_an))), averaged over anchors (Wang et al. 2019, for similarities).
    - ``module:Name``: :func:`own` one; else a loss class of pytorch-metric-learning, with its
      defaults. StudyError: it needs more than a distance, as a weight per class.
    """
    if name == "triplet":
        most = None if images_per_class is None else images_per_class - 1
        return lambda embeddings, labels, generator: triplet_loss(
            at_least_float32(embeddings), *triplets(embeddings, labels, generator, most), margin
        )
    ours: dict[str, tuple[str, dict[str, Any]]] = {
        "contrastive": ("ContrastiveLoss", {"pos_margin": 0, "neg_margin": 1}),
        "margin": ("MarginLoss", {"margin": margin, "beta": beta}),
        "multi_similarity": ("MultiSimilarityLoss", {}),
    }
    kind_name, arguments = ours.get(name, (name, {}))
    unfit = ("BaseMetricLossFunction", "HistogramLoss")  # the latter bins similarities in [-1, 1]
    kind: Any = None if kind_name in unfit else getattr(library, kind_name, None)
    arguments["distance"] = distances.LpDistance(normalize_embeddings=False)
    try:
        loss = own(name) if ":" in name else kind(**arguments)
    except (TypeError, KeyError, ValueError, AssertionError):
        known = ", ".join(["triplet", *ours, "your own module:Class"])
        known += ", or of pytorch-metric-learning's that need a distance alone"
        raise StudyError(f"unknown loss {name!r}: choose one of {known}") from None
    return lambda embeddings, labels, generator: loss(at_least_float32(embeddings), labels)


def own(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the reader's ``module:Class()``, called as ``loss(embeddings, labels)``.

    StudyError: there is none, it fails on four embeddings, or has parameters, which no run trains.
    """
    module, _, kind = name.partition(":")
    sys.path += [] if str(REPOSITORY) in sys.path else [str(REPOSITORY)]  # in JupyterLab, too
    try:
        make_one = getattr(importlib.reload(importlib.import_module(module)), kind)  # as it is now
        if isinstance(loss := make_one(), nn.Module) and [*loss.parameters()]:
            raise TypeError("it has parameters, which are not trained")
        if shape := tuple(make_one()(torch.eye(4), torch.tensor([0, 0, 1, 1])).shape):
            raise TypeError(f"it returns {shape} numbers, not one")
    except Exception as problem:  # noqa: BLE001 - the reader's code may raise anything
        why = f"loss {name!r} cannot be used ({type(problem).__name__}: {problem})"
        raise StudyError(f"{why}: give module:Class() of a file in the study's folder") from None
    return loss
