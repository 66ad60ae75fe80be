"""The distances of a batch and the gradients on them: the paper's Figures 1 and 2, as numbers."""

from typing import Any

import torch
from torch import Tensor

from mdr_core.losses import triplets
from mdr_core.regularizer import MDR, normalize_by_mean_distance, pairwise_distances

BINS, REACH = 48, 6.0  # of the histogram of normalized distances, over [-REACH, REACH]
DISTANCE_BINS, FARTHEST = 128, 2.0  # of those of distances over their mean, over [0, FARTHEST]
DECILES = 10
DRAWS = 16  # of negatives, over which the triplet loss's gradient is averaged


@torch.no_grad()
def batch_statistics(
    embeddings: Tensor, labels: Tensor, mdr: MDR, normalization: str, margin: float | None
) -> dict[str, Any]:
    """Return the distances and gradients of one batch.

    Args:
        embeddings, labels: (B, D) as the network gives them in testing, and (B,).
        mdr: the run's regularizer, not changed. Where no batch has set its running values (a run
            without MDR), this batch's serve.
        normalization: the network's; ``"mean_distance"`` is applied here, as in training.
        margin: of the triplet loss; None leaves out the gradient of another loss.

    Returns:
        ``pair_mean``, ``pair_std`` of all pairs' distances; ``positive_mean``, ``negative_mean``.
        ``z_histogram``: counts of the pairs i < j by normalized distance; ``positive_histogram``,
        ``negative_histogram``: by distance over ``pair_mean``, the last bin holding all beyond.
        ``level_share``: the share of pairs nearest to each level.
        ``gradient_positive``, ``gradient_negative``: what each decile of the positive (negative)
        pairs, nearest first, adds to the sum of ``|dL/dd_ij|`` over all pairs, L being the triplet
        loss. ``gradient_mdr``: that sum for L_MDR (unweighted), each pair's part being the same.
    """
    x = normalize_by_mean_distance(embeddings) if normalization == "mean_distance" else embeddings
    if not mdr.started:
        levels = mdr.levels.detach().tolist()
        mdr = MDR(levels, mdr.momentum, learnable=False, statistics=mdr.statistics).to(x.device)
        mdr(x)
    d = pairwise_distances(x)
    upper = torch.ones_like(d, dtype=torch.bool).triu(1)
    same = labels[:, None] == labels[None, :]
    pairs, positive, negative = d[upper], d[upper & same], d[upper & ~same]
    z = (pairs - mdr.running_mean) / mdr.running_std
    nearest = (z[:, None] - mdr.levels.detach()[None, :]).abs().argmin(dim=1)
    row = {
        "pair_mean": pairs.mean().item(),
        "pair_std": pairs.std().item(),
        "positive_mean": positive.mean().item(),
        "negative_mean": negative.mean().item(),
        "z_histogram": histogram(z, -REACH, REACH, BINS),
        "positive_histogram": histogram(positive / pairs.mean(), 0, FARTHEST, DISTANCE_BINS),
        "negative_histogram": histogram(negative / pairs.mean(), 0, FARTHEST, DISTANCE_BINS),
        "level_share": rounded(nearest.bincount(minlength=len(mdr.levels)) / len(z)),
        # B (B - 1) pairs, each 1 / (B (B - 1) sigma)
        "gradient_mdr": float(f"{1 / mdr.running_std.item():.5g}"),
    }
    if margin is not None:
        gradient = triplet_gradient(x, d, labels, margin)
        off_diagonal = ~torch.eye(len(d), dtype=torch.bool)
        row["gradient_positive"] = rounded(sum_by_decile(d, gradient, same & off_diagonal))
        row["gradient_negative"] = rounded(sum_by_decile(d, gradient, ~same))
    return row


def triplet_gradient(x: Tensor, d: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return ``|dL/dd_ij|`` (B, B) of the triplet loss, averaged over DRAWS draws of negatives.

    Of T triplets, one (a, p, n) adds 1/T to d_ap and to d_an while d_ap - d_an + margin > 0.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    gradient = torch.zeros_like(d)
    for _ in range(DRAWS):
        (a, p, n), exists = triplets(x, labels, generator)
        active = (exists & (d[a, p] - d[a, n] + margin > 0)).to(d.dtype) / (exists.sum() * DRAWS)
        gradient.index_put_((a, p), active, accumulate=True)
        gradient.index_put_((a, n), active, accumulate=True)
    return gradient


def histogram(values: Tensor, low: float, high: float, bins: int) -> list[int]:
    return values.clamp(low, high).histc(bins, low, high).int().tolist()


def sum_by_decile(d: Tensor, values: Tensor, chosen: Tensor) -> Tensor:
    """Return (DECILES,) sums of the chosen pairs' values by decile of distance, nearest first."""
    order = d[chosen].argsort(stable=True)
    return torch.stack([part.sum() for part in values[chosen][order].tensor_split(DECILES)])


def rounded(values: Tensor) -> list[float]:
    """Return five digits of each: enough for an image, and short in a file."""
    return [float(f"{v:.5g}") for v in values.tolist()]
