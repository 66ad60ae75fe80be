"""One run on several processes, a GPU each: the batch is the one that a single process would have.

    torchrun --nproc-per-node=4 -m mdr_core train --profile paper

Every process embeds its rows of the global batch. The embeddings are gathered, with gradients, so that triplets, the
mean distance, and MDR's statistics and pairs are those of the whole batch. Each process computes the B/N x B pairs of
its own rows: its share of the loss, L = sum over processes of L_r. The gradients are added up, and all take the same
step. torch.distributed does the work: gloo on CPUs, NCCL on GPUs.
"""

import atexit
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mdr_core.errors import StudyError


class Gathered(torch.autograd.Function):
    """(R, D) of every process, below each other; a row's gradient is the sum of all processes', where the row came from."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [
            torch.empty_like(rows, memory_format=torch.contiguous_format)
            for _ in range(dist.get_world_size())
        ]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class Total(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of all processes'."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        value = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return Total.forward(ctx, gradient)


def packed(state: dict) -> bytes:
    """What ``torch.save`` writes, in memory: to be sent, or written by a writer that says what the disk says."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Share:
    """What one process of a run does. The default is the only process: it does everything, and nothing is sent.

    Attributes:
        rank: of this process, from 0; world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """This process judges and writes."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This process's rows of a batch.

        Raises:
            StudyError: the processes cannot share it evenly.
        """
        if batch % self.world:
            raise StudyError(
                f"a batch of {batch} cannot be shared evenly by {self.world} processes: change batch_size"
            )
        each = batch // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def part(self, items: Tensor) -> Tensor:
        """This process's part of N items, ceil(N / world) of them; the last ones are given twice where N does not divide."""
        if self.world == 1:
            return items
        each = -(-len(items) // self.world)
        return items[
            torch.arange(self.rank * each, (self.rank + 1) * each).clamp(max=len(items) - 1)
        ]

    def gather(self, rows: Tensor) -> Tensor:
        """(R, D) of every process, below each other: (R * world, D). A gradient flows back to where a row came from."""
        return rows if self.world == 1 else Gathered.apply(rows)

    def total(self, value: Tensor) -> Tensor:
        """The sum over the processes, the same on all; the gradient of their summed losses flows through it."""
        return value if self.world == 1 else Total.apply(value)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over the processes, in one message."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        for gradient, summed in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(summed.view_as(gradient))

    def from_first(self, value: Any = None) -> Any:
        """What the first process gives, on all of them."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def state_from_first(self, state: dict | None) -> dict | None:
        """A state dict of the first process, its tensors on the CPU; None if it gives None."""
        if self.world == 1:
            return state
        sent = self.from_first(packed(state) if self.first and state is not None else None)
        return torch.load(io.BytesIO(sent), map_location="cpu", weights_only=True) if sent else None


ALONE = Share()


def current() -> Share:
    """This process's share, where torch.distributed is at work; else :data:`ALONE`."""
    at_work = dist.is_available() and dist.is_initialized()
    return Share(dist.get_rank(), dist.get_world_size()) if at_work else ALONE


def join() -> Share:
    """Join the processes that torchrun has started, each on a GPU of its own if there are as many; alone without torchrun.

    The first one may work alone for long (it judges, and waits for a run that somebody else trains), so the others have patience.
    """
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        own = int(os.environ["LOCAL_RANK"])
        if own < torch.cuda.device_count():
            torch.cuda.set_device(own)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(days=7)
        )
        atexit.register(
            dist.destroy_process_group
        )  # left to the end of Python, gloo's threads now and then abort the process
    return current()
