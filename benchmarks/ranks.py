"""One process's memory and time for its share of the pairs (MDR and triplet, forward and
backward); D = 512.

A single process computes the first of N shares of the batch, as each of N processes would; their
messages are left out.
"""

import pandas as pd
import torch

from benchmarks import timing
from mdr_core import losses
from mdr_core.distributed import Share
from mdr_core.regularizer import MDR

DIMENSIONS, PER_CLASS = 512, 4
BATCHES, WORLDS = (2048, 8192), (1, 2, 4, 8)


class Silent(Share):
    """The first of several processes, that hears nothing of the others."""

    def total(self, value):
        return value


def way(world: int, batch: int):
    """A function that runs one forward and backward pass of the first of ``world`` processes."""
    generator, share = torch.Generator().manual_seed(0), Silent(0, int(world))
    x = torch.randn(batch, DIMENSIONS, generator=generator).requires_grad_()
    labels = torch.arange(batch) // PER_CLASS
    triplet, mdr = losses.TripletLoss(images_per_class=PER_CLASS), MDR(check_finite=False)

    def run():
        x.grad = None
        (triplet(x, labels, generator, share) + mdr(x, share.rows(batch), share.total)).backward()

    return run


def measure(batches=BATCHES, worlds=WORLDS) -> pd.DataFrame:
    rows = []
    for batch in batches:
        seconds = timing.alternately({w: way(w, batch) for w in worlds}, rounds=3)
        for world in worlds:
            rows.append(
                {
                    "batch": batch,
                    "processes": world,
                    "milliseconds": 1000 * seconds[world],
                    "peak MiB of each": timing.peak_memory(way, world, batch),
                }
            )
    return pd.DataFrame(rows)
