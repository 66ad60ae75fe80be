"""One run on several processes, a GPU each, with the batch that one process would have.

    torchrun --nproc-per-node=4 -m mdr_core train --profile paper

Each process embeds its rows of the global batch. The embeddings are gathered with their gradients,
so triplets, mean distance and MDR's statistics and pairs are those of the whole batch. Each process
computes the B/N x B pairs of its own rows: its share L_r of the loss L = sum over processes of L_r.
The gradients are summed, and all processes take the same step.
"""

import atexit
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mdr_core.errors import StudyError


class Total(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        value = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Total.forward(ctx, gradient)


@dataclass(frozen=True)
class Share:
    """One process's share of a run, by default all of it.

    Attributes:
        rank: of this process, from 0.
        world: the number of processes.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process evaluates and writes."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """Return this process's rows of a batch.

        Raises:
            StudyError: the processes cannot share it evenly.
        """
        if batch % self.world:
            raise StudyError(
                f"a batch of {batch} cannot be shared evenly by {self.world} processes: "
                "change batch_size or processes"
            )
        each = batch // self.world
        return slice(self.rank * each, (self.rank + 1) * each)

    def own(self, items: Tensor) -> Tensor:
        """Return this process's ceil(N / world) of N items; the last item fills up the rest."""
        if self.world == 1:
            return items
        each = -(-len(items) // self.world)
        index = torch.arange(self.rank * each, (self.rank + 1) * each)
        return items[index.clamp(max=len(items) - 1)]

    def gather(self, rows: Tensor) -> Tensor:
        """Return all processes' rows (R, D) in order, (R * world, D), with their gradients."""
        if self.world == 1:
            return rows
        before, after = self.rank * len(rows), (self.world - 1 - self.rank) * len(rows)
        return self.total(torch.nn.functional.pad(rows, (0, 0, before, after)))

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the processes; the gradient of their summed losses flows through."""
        return value if self.world == 1 else Total.apply(value)

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over the processes, in one message."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        sums = flat.split([g.numel() for g in gradients])
        for gradient, summed in zip(gradients, sums, strict=True):
            gradient.copy_(summed.view_as(gradient))

    def from_first(self, value: Any = None) -> Any:
        """Return the first process's value on all processes; its tensors must be on the CPU."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


ALONE = Share()


def current() -> Share:
    """Return this process's share where torch.distributed is initialized, else :data:`ALONE`."""
    initialized = dist.is_available() and dist.is_initialized()
    return Share(dist.get_rank(), dist.get_world_size()) if initialized else ALONE


def join() -> Share:
    """Join the processes that torchrun started, each on its own GPU if there are as many.

    The timeout is long: the others wait while the first one evaluates, or waits for another run.
    """
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        local_rank = int(os.environ["LOCAL_RANK"])
        if local_rank < torch.cuda.device_count():
            torch.cuda.set_device(local_rank)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=timedelta(days=7))
        # At the interpreter's own end gloo's threads sometimes abort the process.
        atexit.register(dist.destroy_process_group)
    return current()
