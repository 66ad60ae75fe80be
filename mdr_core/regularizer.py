"""Multi-level Distance Regularization (MDR), Kim and Park, AAAI 2021, arXiv:2102.04223.

This file needs torch alone: copy it into your own training code, or ``from mdr_core.regularizer import MDR``.

    mdr = MDR()                                                     # levels -3, 0, 3, learnable
    optimizer = Adam([*model.parameters(), *mdr.parameters()], ...)
    loss = metric_loss(embeddings, labels) + 0.6 * mdr(embeddings)  # plus 0.01 * mdr.levels.square().sum()

For a batch of B embeddings x_1 ... x_B, with no labels:

    d_ij = ||x_i - x_j||                                            pairwise_distances
    mu, sigma  = running mean and deviation of d                    running_mean, running_std
    z_ij = (d_ij - mu) / sigma                                      the normalized distance
    L_MDR = mean over i != j of  min over s of |z_ij - s|           s runs over ``levels``

A batch spread over several processes is gathered first; each process then takes the pairs (i, j) of its own rows i
alone, and ``total`` adds up what they found (mdr_core.distributed). With one process both may be forgotten.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

__all__ = ["MDR", "normalize_by_mean_distance", "pairwise_distances"]

SMALLEST_SQUARED_DISTANCE = 1e-12  # keeps the root's gradient finite where two embeddings coincide
SMALLEST_DEVIATION = 1e-6  # where all distances of a batch are the same
ALL = slice(None)


def alone(value: Tensor) -> Tensor:
    """The sum over one process."""
    return value


def full(embeddings: Tensor) -> Tensor:
    """In float32, or as they are if finer."""
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()


def own_pairs(matrix: Tensor, rows: slice = ALL) -> Tensor:
    """The entries i = j of a (R, B) matrix that holds these rows i, as a view."""
    return matrix.diagonal(rows.start or 0)


def pairwise_distances(embeddings: Tensor, squared: bool = False, rows: slice = ALL) -> Tensor:
    """Euclidean distances d_ij between all embeddings of a batch, in float32 or better.

    Args:
        embeddings: (B, D).
        squared: return d_ij squared.
        rows: of i, these alone: R of them, in one piece.

    Returns:
        (R, B), by default (B, B): zero where i = j; elsewhere at least 1e-6 (squared: 1e-12), so that the gradient
        is finite for coinciding embeddings.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        x = full(embeddings)
        norms = x.square().sum(dim=1)
        d = (
            (norms[rows, None] + norms[None, :])
            .sub_(x[rows] @ x.T, alpha=2)
            .clamp(min=SMALLEST_SQUARED_DISTANCE)
        )
        number = torch.arange(len(x), device=x.device)
        return (d if squared else d.sqrt()).masked_fill(number[rows, None] == number, 0.0)


def normalize_by_mean_distance(
    embeddings: Tensor, rows: slice = ALL, total: Callable[[Tensor], Tensor] = alone
) -> Tensor:
    """Divide a batch by its mean distance over pairs i != j, so that the expected distance is one.

    The gradient flows through the mean. The paper trains with this in place of L2 normalization.

    Args:
        embeddings: (B, D), B at least 2. NaN or Inf pass through: whoever takes the result, as MDR does, refuses them.
        rows, total: this process's rows, and the sum over the processes.

    Returns:
        (B, D), in float32 or better.
    """
    batch = len(embeddings)
    if batch < 2:
        raise ValueError(f"a mean distance needs at least 2 embeddings, got {batch}")
    mean = total(pairwise_distances(embeddings, rows=rows).sum()) / (batch * (batch - 1))
    return embeddings / mean


class MDR(nn.Module):
    """The regularizer L_MDR of a batch; add lambda times its value to any metric-learning loss.

    Args:
        levels: the starting values of the levels s, in units of the running deviation.
        momentum: running = momentum * running + (1 - momentum) * batch; the first batch sets the running values.
        learnable: the levels are a parameter (give it to the optimizer); otherwise a constant.
        statistics: what mean and deviation (unbiased) run over. ``"released"``: the whole B x B matrix with its zero
            diagonal, as the authors' code does; ``"pairs"``: the pairs i != j, as their paper says, of which at least 3
            embeddings are needed, since the one distance of two has no deviation.
        check_finite: refuse NaN and Inf at the price of reading one value back from the device. A training loop that
            watches its own loss may set this to False and so never wait for the GPU.

    State, saved and loaded with ``state_dict``: ``levels``, ``running_mean``, ``running_std`` and ``started``, which
    tells whether a batch has set the running values yet. In eval mode the running values stay as they are.

    Raises:
        ValueError: fewer than 2 embeddings (3 with ``"pairs"``), NaN or Inf among them, or an argument out of its range.
    """

    def __init__(
        self,
        levels: Sequence[float] = (-3.0, 0.0, 3.0),
        momentum: float = 0.9,
        learnable: bool = True,
        statistics: str = "released",
        check_finite: bool = True,
    ):
        super().__init__()
        if len(levels) < 1:
            raise ValueError("MDR needs at least one level")
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

    def forward(
        self, embeddings: Tensor, rows: slice = ALL, total: Callable[[Tensor], Tensor] = alone
    ) -> Tensor:
        """L_MDR, a scalar in float32 or better.

        Args:
            embeddings: (B, D), B at least 2 (3 with ``statistics="pairs"``).
            rows, total: this process's rows, and the sum over the processes. The value is then this process's share
                of L_MDR, their sum being the whole; the running values are those of the whole batch.
        """
        batch, least = len(embeddings), 3 if self.statistics == "pairs" else 2
        if embeddings.dim() != 2 or batch < least:
            raise ValueError(
                f"MDR with statistics {self.statistics!r} needs a (B, D) batch of at least {least} embeddings, "
                f"got {tuple(embeddings.shape)}"
            )
        if self.check_finite and not torch.isfinite(embeddings).all():
            raise ValueError("MDR was given embeddings with NaN or Inf")
        with torch.autocast(embeddings.device.type, enabled=False):
            d = pairwise_distances(embeddings, rows=rows)
            if self.training:
                self._update_statistics(d.detach(), rows, total)
            z = (d - self.running_mean).div_(self.running_std)

            # Which level is nearest to a pair, and on which side of it the pair lies, is piecewise constant: no
            # gradient passes through either. With the side g = sign(z - s), |z - s| = g * z - g * s, so the loss is
            # linear in z and in the levels, and neither a (levels, B, B) tensor nor an indexed gradient is needed.
            levels = self.levels.to(z.dtype).sort().values
            with torch.no_grad():
                nearest = torch.bucketize(z, (levels[1:] + levels[:-1]) / 2, out_int32=True)
                side = (z - levels[nearest]).sign_()
                own_pairs(side, rows).zero_()
                pull = torch.zeros_like(levels).index_add_(0, nearest.flatten(), side.flatten())
            return ((side * z).sum() - pull @ levels) / (batch * (batch - 1))

    @torch.no_grad()
    def _update_statistics(self, d: Tensor, rows: slice, total: Callable[[Tensor], Tensor]) -> None:
        """Move running_mean and running_std towards those of all d (R, B), without waiting for the device."""
        batch = d.shape[1]
        count = batch * batch if self.statistics == "released" else batch * (batch - 1)
        mean = total(d.sum()) / count
        deviations = d - mean
        if self.statistics == "pairs":
            own_pairs(deviations, rows).zero_()
        std = (
            (total(deviations.square_().sum()) / max(count - 1, 1))
            .sqrt()
            .clamp(min=SMALLEST_DEVIATION)
        )
        for running, value in ((self.running_mean, mean), (self.running_std, std)):
            running.copy_(
                torch.where(
                    self.started, self.momentum * running + (1 - self.momentum) * value, value
                )
            )
        self.started.fill_(True)

    def extra_repr(self) -> str:
        return (
            f"levels={len(self.levels)}, momentum={self.momentum}, statistics={self.statistics!r}"
        )
