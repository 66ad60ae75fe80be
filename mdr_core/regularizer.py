"""Multi-level Distance Regularization (MDR), Kim and Park, AAAI 2021, arXiv:2102.04223.

This file needs torch alone: copy it into your own training code.

    mdr = MDR()                                                     # levels -3, 0, 3, learnable
    optimizer = Adam([*model.parameters(), *mdr.parameters()], ...)
    loss = metric_loss(embeddings, labels) + 0.6 * mdr(embeddings)  # + 0.01 * sum of squared levels
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

SMALLEST = 1e-6  # distance and deviation: gradients stay finite where embeddings coincide


def at_least_float32(embeddings: Tensor) -> Tensor:
    return embeddings if embeddings.dtype == torch.float64 else embeddings.float()


def pairwise_distances(embeddings: Tensor) -> Tensor:
    """Return the Euclidean distances d_ij (B, B) of embeddings (B, D), in float32 or better.

    They are 0 where i = j, elsewhere at least 1e-6. They come from a matrix product: on a GPU leave
    TF32 off for it, as torch does by default. B >= 2.
    """
    if embeddings.dim() != 2 or embeddings.shape[0] < 2:
        raise ValueError(f"expected at least 2 embeddings (B, D), got {tuple(embeddings.shape)}")
    with torch.autocast(embeddings.device.type, enabled=False):
        x = at_least_float32(embeddings)
        x = x - x.detach().mean(dim=0)  # far from the origin the difference below loses its digits
        norms = x.square().sum(dim=1)
        d = (norms[:, None] + norms[None, :]).sub_(x @ x.T, alpha=2).clamp(min=SMALLEST**2)
        same = torch.eye(x.shape[0], dtype=torch.bool, device=x.device)
        return d.sqrt().masked_fill(same, 0.0)


def off_diagonal(d: Tensor) -> Tensor:
    """Return the entries i != j of a matrix (B, B), as (B - 1, B)."""
    return d.flatten()[:-1].view(d.shape[0] - 1, d.shape[1] + 1)[:, 1:]


def normalize_by_mean_distance(embeddings: Tensor) -> Tensor:
    """Return embeddings (B, D) over their mean distance, so that the expected distance is one.

    The paper trains with this in place of L2 normalization. The gradient flows through the mean
    over pairs i != j. NaN and Inf pass through. B >= 2.
    """
    return at_least_float32(embeddings) / off_diagonal(pairwise_distances(embeddings)).mean()


class MDR(nn.Module):
    """The regularizer L_MDR of a batch: add lambda times its value to any metric-learning loss.

        d_ij  = ||x_i - x_j||                           of embeddings x_1 ... x_B, with no labels
        z_ij  = (d_ij - running_mean) / running_std
        L_MDR = mean over i != j of  min over s of |z_ij - s|           s runs over ``levels``

    Fix the scale of the embeddings: :func:`normalize_by_mean_distance`, or L2 normalization. On raw
    ones it pulls the log of their scale down at any scale; where a triplet loss's margin pushes
    back less, all distances collapse. ``levels`` gives their starting values, in running standard
    deviations, for a parameter if they are ``learnable``. The first batch sets the running values,
    later ones move them by 1 - ``momentum``; eval mode keeps them, and so does a batch with NaN or
    Inf, which ``check_finite`` refuses (that waits for the device). By default they run over the B
    x B matrix with its zero diagonal, as in the authors' code (``statistics="released"``); with
    ``"pairs"`` over i != j, as in their paper. With several forwards a step, call MDR outside of
    torch.utils.checkpoint, which repeats them. ``state_dict`` holds ``levels``, ``running_mean``,
    ``running_std`` and ``started`` (0 before the first batch), in float32. ValueError: a bad value.
    """

    def __init__(
        self,
        levels: Sequence[float] = (-3.0, 0.0, 3.0),
        momentum: float = 0.9,
        learnable: bool = True,
        statistics: str = "released",
        check_finite: bool = False,
    ):
        super().__init__()
        if len(levels) < 1 or not all(math.isfinite(level) for level in levels):
            raise ValueError(f"MDR needs at least one level, all finite, got {levels}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        if statistics not in ("released", "pairs"):
            raise ValueError(f"statistics must be 'released' or 'pairs', got {statistics!r}")
        self.momentum, self.statistics, self.check_finite = momentum, statistics, check_finite
        values = torch.tensor([*map(float, levels)], dtype=torch.float32)
        self.levels = nn.Parameter(values) if learnable else nn.Buffer(values)
        self.running_mean = nn.Buffer(torch.zeros((), dtype=torch.float32))
        self.running_std = nn.Buffer(torch.ones((), dtype=torch.float32))
        self.started = nn.Buffer(torch.zeros((), dtype=torch.float32))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return L_MDR of embeddings (B, D), B >= 2 (3 with ``"pairs"``), in float32 or better."""
        d = pairwise_distances(embeddings)
        if self.statistics == "pairs" and d.shape[0] < 3:
            raise ValueError("statistics='pairs' needs at least 3 embeddings: one pair has no std")
        if self.check_finite and not embeddings.isfinite().all():
            raise ValueError("MDR was given embeddings with NaN or Inf")
        if self.training:
            self._update_statistics(d)
        std = self.running_std.clone()  # the next batch may move it before this one goes backward
        z = (off_diagonal(d) - self.running_mean) / std
        nearest = self.levels[0]
        for level in self.levels[1:]:
            nearest = torch.where((z - level).abs() < (z - nearest).abs(), level, nearest)
        return (z - nearest).abs().mean()

    @torch.no_grad()
    def _update_statistics(self, d: Tensor) -> None:
        """Move the running values towards those of d (B, B), without waiting for the device."""
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return  # within a backward pass torch.utils.checkpoint computes a forward again
        values = off_diagonal(d) if self.statistics == "pairs" else d
        mean = values.mean()  # torch.std takes ten times as long on a CPU
        std = ((values - mean).square().sum() / (values.numel() - 1)).sqrt().clamp(min=SMALLEST)
        finite = mean.isfinite() & std.isfinite()  # one bad batch is not to spoil all later ones
        momentum = self.momentum * (self.started > 0).float()
        for running, value in ((self.running_mean, mean), (self.running_std, std)):
            moved = momentum * running + (1 - momentum) * value
            running.copy_(torch.where(finite, moved, running))
        self.started.copy_((self.started > 0) | finite)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "MDR":
        def stay_float32(tensor: Tensor) -> Tensor:  # in bfloat16 running values would not move
            new = fn(tensor)
            return new if new.dtype == tensor.dtype else tensor.to(new.device)

        return super()._apply(stay_float32, recurse)
