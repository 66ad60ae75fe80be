"""What a loss does to the distances of a batch, in figures: the paper's Figures 1 and 2, measured.

The training loop calls :func:`figures` after every epoch on one and the same batch of training images, so that any
stored run can show how its distances, its levels and its gradient moved.
"""

import torch
from torch import Tensor

from mdr_core.losses import triplets
from mdr_core.regularizer import MDR, normalize_by_mean_distance, pairwise_distances

BINS, REACH = 48, 6.0  # of the histogram of normalized distances, over [-REACH, REACH]
DISTANCE_BINS, FARTHEST = (
    128,
    2.0,
)  # of the histograms of distances over their mean, over [0, FARTHEST]
DECILES = 10
DRAWS = 16  # of negatives, over which the triplet loss's gradient is averaged


@torch.no_grad()
def figures(
    embeddings: Tensor, labels: Tensor, mdr: MDR, normalization: str, margin: float | None
) -> dict:
    """Distances and gradients of one batch.

    Args:
        embeddings: (B, D) as the network gives them in testing.
        labels: (B,).
        mdr: the run's regularizer, left as it is; without running statistics (a run without MDR) the batch's own serve.
        normalization: the head's; ``"mean_distance"`` is applied here as it is in training.
        margin: of the triplet loss; None for another loss, whose gradient is then left out.

    Returns:
        ``pair_mean``, ``pair_std``: of the distances over pairs i != j, and ``positive_mean``, ``negative_mean``.
        ``z_histogram``: counts of the pairs i < j by normalized distance, BINS bins over [-REACH, REACH].
        ``positive_histogram``, ``negative_histogram``: counts of the positive (negative) pairs i < j by distance over the mean
        distance of all pairs, DISTANCE_BINS bins over [0, FARTHEST]; what is farther counts in the last one.
        ``level_share``: the share of pairs nearest to each level.
        ``gradient_positive``, ``gradient_negative``: what every decile of the positive (negative) pairs, nearest
        first, adds to the sum of ``|dL/dd_ij|`` over all pairs, L being the triplet loss; and ``gradient_mdr``: the
        same sum for L_MDR (unweighted), in which every pair has the same share.
    """
    x = normalize_by_mean_distance(embeddings) if normalization == "mean_distance" else embeddings
    if not mdr.started:
        levels = mdr.levels.detach().tolist()
        mdr = MDR(levels, mdr.momentum, learnable=False, statistics=mdr.statistics).to(x.device)
        mdr(x)
    d = pairwise_distances(x)
    upper = torch.ones_like(d, dtype=torch.bool).triu(1)
    same = labels[:, None] == labels[None, :]
    pairs = d[upper]
    z = (pairs - mdr.running_mean) / mdr.running_std
    nearest = (z[:, None] - mdr.levels.detach()[None, :]).abs().argmin(dim=1)
    shares = nearest.bincount(minlength=len(mdr.levels)) / len(z)
    row = {
        "pair_mean": pairs.mean().item(),
        "pair_std": pairs.std().item(),
        "positive_mean": d[upper & same].mean().item(),
        "negative_mean": d[upper & ~same].mean().item(),
        "z_histogram": z.clamp(-REACH, REACH).histc(BINS, -REACH, REACH).int().tolist(),
        "positive_histogram": distance_histogram(d[upper & same], pairs.mean()),
        "negative_histogram": distance_histogram(d[upper & ~same], pairs.mean()),
        "level_share": rounded(shares),
        "gradient_mdr": float(
            f"{1 / mdr.running_std.item():.5g}"
        ),  # B (B - 1) pairs, each 1 / (B (B - 1) sigma)
    }
    if margin is not None:
        weight = triplet_gradient(x, d, labels, margin)
        row["gradient_positive"] = rounded(
            by_decile(d, weight, same & ~torch.eye(len(d), dtype=torch.bool))
        )
        row["gradient_negative"] = rounded(by_decile(d, weight, ~same))
    return row


def triplet_gradient(x: Tensor, d: Tensor, labels: Tensor, margin: float) -> Tensor:
    """(B, B): ``|dL/dd_ij|`` of the triplet loss, averaged over DRAWS draws of negatives.

    A triplet (a, p, n) of T contributes 1/T to d_ap and to d_an while d_ap - d_an + margin > 0, and nothing after.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    weight = torch.zeros_like(d)
    for _ in range(DRAWS):
        (a, p, n), exists = triplets(x, labels, generator)
        active = (exists & (d[a, p] - d[a, n] + margin > 0)).to(d.dtype) / (exists.sum() * DRAWS)
        weight.index_put_((a, p), active, accumulate=True)
        weight.index_put_((a, n), active, accumulate=True)
    return weight


def distance_histogram(d: Tensor, mean: Tensor) -> list[int]:
    """Counts of distances (P,) over ``mean``, DISTANCE_BINS bins over [0, FARTHEST]."""
    return (d / mean).clamp(max=FARTHEST).histc(DISTANCE_BINS, 0, FARTHEST).int().tolist()


def by_decile(d: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
    """(DECILES,): the sum of ``weight`` over the chosen pairs, by decile of their distance, nearest first."""
    order = d[chosen].argsort(stable=True)
    return torch.stack([part.sum() for part in weight[chosen][order].tensor_split(DECILES)])


def rounded(values: Tensor) -> list[float]:
    """Five digits: enough for a figure, and short in a file."""
    return [float(f"{v:.5g}") for v in values.tolist()]
