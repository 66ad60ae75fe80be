"""Which images form a batch, and which triplets a batch yields. All randomness comes from a generator given."""

import torch
from torch import Tensor

from mdr_core.errors import StudyError
from mdr_core.regularizer import ALL, pairwise_distances


class BalancedBatches:
    """Batches as the protocol builds them: shuffle the classes, take up to m random images of each until it is full.

    Args:
        labels: (N,) class of each training image.
        batch_size: images in a batch.
        images_per_class: m.

    Raises:
        StudyError: the batch cannot hold two images of a class, or all classes together cannot fill it.
    """

    def __init__(self, labels: Tensor, batch_size: int, images_per_class: int):
        labels = labels.cpu()
        self.batch_size, self.images_per_class = batch_size, images_per_class
        self.members = [torch.nonzero(labels == c).flatten() for c in labels.unique()]
        if images_per_class < 2 or batch_size < 2:
            raise StudyError(
                f"a batch of {batch_size} with {images_per_class} image(s) per class holds no two images of a class: "
                "set batch_size and images_per_class to 2 or more"
            )
        available = sum(min(images_per_class, len(m)) for m in self.members)
        if available < batch_size:
            raise StudyError(
                f"{len(self.members)} training classes with up to {images_per_class} images each give {available} "
                f"images, too few for a batch of {batch_size}: set batch_size to at most {available}"
            )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices into the training set: (count, batch_size), int64, on the CPU."""
        return torch.stack([self._one(generator) for _ in range(count)])

    def _one(self, generator: torch.Generator) -> Tensor:
        chosen, size = [], 0
        for c in torch.randperm(len(self.members), generator=generator).tolist():
            images = self.members[c]
            images = images[torch.randperm(len(images), generator=generator)[: self.images_per_class]]
            chosen.append(images[: self.batch_size - size])
            size += len(chosen[-1])
            if size == self.batch_size:
                return torch.cat(chosen)
        raise AssertionError("unreachable: the constructor has counted the images")


def negative_probabilities(
    embeddings: Tensor, labels: Tensor, nearest: float = 0.5, farthest: float = 1.4, rows: slice = ALL
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
    embeddings: Tensor, labels: Tensor, generator: torch.Generator, most_positives: int | None = None, rows: slice = ALL
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
    draw = torch.rand(batch, positive.shape[1], generator=generator, device=embeddings.device, dtype=torch.float64)[rows]
    negative = torch.searchsorted(cumulative, draw * cumulative[:, -1:], right=True).clamp(max=batch - 1)
    anchor = number[rows, None].expand_as(positive)
    exists = found.bool() & (labels[negative] != labels[rows, None])
    return torch.stack([anchor, positive, negative]).flatten(1), exists.flatten()
