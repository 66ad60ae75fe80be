"""Multi-level Distance Regularization (MDR), Kim and Park, AAAI 2021, arXiv:2102.04223.

This file needs torch alone: copy it into your own training code.

    mdr = MDR()                                                     # levels -3, 0, 3, learnable
    optimizer = Adam([*model.parameters(), *mdr.parameters()], ...)
    loss = metric_loss(embeddings, labels) + 0.6 * mdr(embeddings)  # + 0.01 * sum of squared levels

For a batch of B embeddings x_1 ... x_B, with no labels:

    d_ij = ||x_i - x_j||                                  pairwise_distances
    mu, sigma  = running mean and deviation of d          running_mean, running_std
    z_ij = (d_ij - mu) / sigma                            the normalized distance
    L_MDR = mean over i != j of  min over s of |z_ij - s|           s runs over ``levels``

In distributed training each process gives the whole batch, its own ``rows`` i of the pairs (i, j),
and ``total``, the sum over the processes. In one process, leave both out.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["MDR", "normalize_by_mean_distance", "pairwise_distances"]

SMALLEST_SQUARED_DISTANCE = 1e-12  # keeps the root's gradient finite where two embeddings coincide
SMALLEST_DEVIATION = 1e-6  # where all distances of a batch are the same
ALL = slice(None)

Total = Callable[[Tensor], Tensor]


def one_process(value: Tensor) -> Tensor:
    """Return the sum over one process."""
    return value


def at_least_float32(embeddings: Tensor) -> Tensor:
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()


def pairwise_distances(embeddings: Tensor, squared: bool = False, rows: slice = ALL) -> Tensor:
    """Return the Euclidean distances d_ij of a batch, in float32 or better.

    They come from a matrix product: on a GPU leave TF32 off for it, as torch does by default.

    Args:
        embeddings: (B, D).
        squared: return d_ij squared.
        rows: the R consecutive rows i to compute, by default all.

    Returns:
        (R, B): zero where i = j; elsewhere at least 1e-6 (squared: 1e-12), so that the gradient is
        finite for coinciding embeddings.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        x = at_least_float32(embeddings)
        norms = x.square().sum(dim=1)
        d = (norms[rows, None] + norms[None, :]).sub_(x[rows] @ x.T, alpha=2)
        d = d.clamp(min=SMALLEST_SQUARED_DISTANCE)
        number = torch.arange(len(x), device=x.device)
        return (d if squared else d.sqrt()).masked_fill(number[rows, None] == number, 0.0)


def normalize_by_mean_distance(
    embeddings: Tensor, rows: slice = ALL, total: Total = one_process
) -> Tensor:
    """Divide a batch by its mean distance over pairs i != j, so that the expected distance is one.

    The paper trains with this in place of L2 normalization. The gradient flows through the mean.
    NaN and Inf pass through.

    Args:
        embeddings: (B, D), B at least 2.

    Returns:
        (B, D), in float32 or better.
    """
    if embeddings.dim() != 2 or len(embeddings) < 2:
        raise ValueError(
            "a mean distance needs a (B, D) batch of at least 2 embeddings, got "
            f"{tuple(embeddings.shape)}"
        )
    pairs = len(embeddings) * (len(embeddings) - 1)
    mean = total(pairwise_distances(embeddings, rows=rows).sum()) / pairs
    return at_least_float32(embeddings) / mean


class MDR(nn.Module):
    """The regularizer L_MDR of a batch: add lambda times its value to any metric-learning loss.

    Args:
        levels: the starting values of the levels s, in running standard deviations.
        momentum: running = momentum * running + (1 - momentum) * batch; the first batch sets the
            running values.
        learnable: whether the levels are a parameter (for the optimizer) or constant.
        statistics: the distances that mean and (unbiased) standard deviation run over:
            ``"released"``, the whole B x B matrix with its zero diagonal, as in the authors' code;
            ``"pairs"``, the pairs i != j, as in their paper. The latter needs 3 embeddings, since
            the one distance of two has no deviation.
        check_finite: refuse NaN and Inf. This reads a value back from the device: a training loop
            that watches its own loss may set False and never wait for the GPU. Such a batch's loss
            is NaN or Inf; the running values stay as they are.

    ``state_dict`` holds ``levels``, ``running_mean``, ``running_std`` and ``started`` (whether a
    batch has set the running values; before, they are 0 and 1). In eval mode they stay as they are.

    Raises:
        ValueError: too few embeddings, NaN or Inf among them, or an argument out of its range.
    """

    running_mean: Tensor
    running_std: Tensor
    started: Tensor

    def __init__(
        self,
        levels: Sequence[float] = (-3.0, 0.0, 3.0),
        momentum: float = 0.9,
        learnable: bool = True,
        statistics: str = "released",
        check_finite: bool = True,
    ):
        super().__init__()
        if len(levels) < 1 or not all(math.isfinite(level) for level in levels):
            raise ValueError(f"MDR needs at least one level, all finite, got {levels}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        if statistics not in ("released", "pairs"):
            raise ValueError(f"statistics must be 'released' or 'pairs', got {statistics!r}")
        self.momentum, self.statistics, self.check_finite = momentum, statistics, check_finite
        values = torch.tensor([float(level) for level in levels])
        if learnable:
            self.levels = nn.Parameter(values)
        else:
            self.register_buffer("levels", values)
        self.register_buffer("running_mean", torch.zeros(()))
        self.register_buffer("running_std", torch.ones(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, embeddings: Tensor, rows: slice = ALL, total: Total = one_process) -> Tensor:
        """Return L_MDR, a scalar in float32 or better.

        With ``rows`` and ``total`` it is this process's share, the shares' sum being L_MDR; the
        running values are those of the whole batch.

        Args:
            embeddings: (B, D), B at least 2 (3 with ``statistics="pairs"``).
        """
        least = 3 if self.statistics == "pairs" else 2
        if embeddings.dim() != 2 or len(embeddings) < least:
            raise ValueError(
                f"MDR with statistics {self.statistics!r} needs a (B, D) batch of at least {least} "
                f"embeddings, got {tuple(embeddings.shape)}"
            )
        if self.check_finite and not torch.isfinite(embeddings).all():
            raise ValueError("MDR was given embeddings with NaN or Inf")
        with torch.autocast(embeddings.device.type, enabled=False):
            d = pairwise_distances(embeddings, rows=rows)
            if self.training:
                self._update_statistics(d.detach(), rows, total)
            # a clone: the next batch may move the running value before this one goes backward
            z = (d - self.running_mean).div_(self.running_std.clone())

            # Which level s is nearest to a pair, and the pair's side g = sign(z - s), are piecewise
            # constant: no gradient passes through them. |z - s| = g * z - g * s is then linear in z
            # and s. With sorted levels, s is the sum of the steps from level to level up to it, so
            # the sum of g * s is a sum over the steps of step * (sum of g over the pairs beyond).
            # These are elementwise operations on one buffer: an index of the nearest level is slow
            # to gather by on a CPU and to add by on a GPU. (Measured on the CPU; untried on CUDA.)
            levels = self.levels.to(z.dtype).sort().values
            steps = levels.diff(prepend=torch.zeros_like(levels[:1]))
            with torch.no_grad():
                side, beyond = z - levels[0], torch.empty_like(z)
                middles = (levels[1:] + levels[:-1]) / 2
                for middle, step in zip(middles, steps[1:], strict=True):
                    side.addcmul_(torch.gt(z, middle, out=beyond), step, value=-1)
                side.sign_().diagonal(rows.start or 0).zero_()  # i = j
                pulls = [side.sum()]
                for middle in middles:
                    pulls.append(torch.gt(z, middle, out=beyond).mul_(side).sum())
            pairs = len(embeddings) * (len(embeddings) - 1)
            return ((side * z).sum() - torch.stack(pulls) @ steps) / pairs

    @torch.no_grad()
    def _update_statistics(self, d: Tensor, rows: slice, total: Total) -> None:
        """Move the running values towards those of all d (R, B), without waiting for the device."""
        batch = d.shape[1]
        count = batch * batch if self.statistics == "released" else batch * (batch - 1)
        mean = total(d.sum()) / count
        deviations = d - mean
        if self.statistics == "pairs":
            deviations.diagonal(rows.start or 0).zero_()
        variance = total(deviations.square_().sum()) / max(count - 1, 1)
        std = variance.sqrt().clamp(min=SMALLEST_DEVIATION)
        finite = mean.isfinite() & std.isfinite()  # one bad batch is not to spoil all later ones
        for running, value in ((self.running_mean, mean), (self.running_std, std)):
            moved = self.momentum * running + (1 - self.momentum) * value
            moved = torch.where(self.started, moved, value)
            running.copy_(torch.where(finite, moved, running))
        self.started.logical_or_(finite)

    def extra_repr(self) -> str:
        return (
            f"levels={len(self.levels)}, momentum={self.momentum}, statistics={self.statistics!r}"
        )
