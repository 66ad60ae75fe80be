"""(b) MDR and the triplet loss, forward and backward, against their formulas written out in plain
PyTorch; D = 512.
"""

import pandas as pd
import torch

from benchmarks import timing
from mdr_core import losses
from mdr_core.losses import negative_probabilities
from mdr_core.regularizer import MDR, pairwise_distances

DIMENSIONS, PER_CLASS = 512, 4
BATCHES = (128, 512, 1024, 2048, 4096)


def literal_distances(x):
    squares = x.square().sum(dim=1)
    d = (squares[:, None] + squares[None, :] - 2 * x @ x.T).clamp(min=1e-12).sqrt()
    return d * (1 - torch.eye(len(x), device=x.device))


def literal_mdr(x, levels):
    """The mean over i != j of the smallest |z_ij - s|, every level against every pair."""
    d = literal_distances(x)
    z = (d - d.detach().mean()) / d.detach().std()
    nearest = (z[None] - levels[:, None, None]).abs().min(dim=0).values
    return nearest[~torch.eye(len(x), dtype=torch.bool, device=x.device)].mean()


def literal_triplet(x, labels, generator):
    """One negative for every ordered positive pair, drawn anchor by anchor; then the mean of
    max(0, d_ap - d_an + margin).
    """
    probability, terms = negative_probabilities(x.detach(), labels), []
    for a in range(len(x)):
        positives = (
            ((labels == labels[a]) & (torch.arange(len(x), device=x.device) != a))
            .nonzero()
            .flatten()
        )
        negatives = torch.multinomial(
            probability[a], len(positives), replacement=True, generator=generator
        )
        terms.append((x[a] - x[positives]).norm(dim=1) - (x[a] - x[negatives]).norm(dim=1) + 0.2)
    return torch.cat(terms).clamp(min=0).mean()


def way(name: str, batch: int, device: str = "cpu"):
    """A function that runs one forward and backward pass."""
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(batch, DIMENSIONS, generator=generator, device=device).requires_grad_()
    labels = torch.arange(batch, device=device) // PER_CLASS
    levels = torch.tensor([-3.0, 0.0, 3.0], device=device, requires_grad=True)
    triplet, mdr = losses.make("triplet", images_per_class=PER_CLASS), MDR().to(device)
    forward = {
        "bare distances": lambda: pairwise_distances(x).sum(),
        "MDR": lambda: mdr(x),
        "MDR, literal": lambda: literal_mdr(x, levels),
        "triplet": lambda: triplet(x, labels, generator),
        "triplet, literal": lambda: literal_triplet(x, labels, generator),
    }[name]

    def run():
        x.grad = None
        forward().backward()

    return run


def measure(batches=BATCHES, device: str = "cpu") -> pd.DataFrame:
    rows = []
    for batch in batches:
        names = [
            "bare distances",
            "MDR",
            "MDR, literal",
            "triplet",
            *(["triplet, literal"] if batch <= 1024 else []),
        ]
        seconds = timing.alternately(
            {name: way(name, batch, device) for name in names}, rounds=7 if batch <= 2048 else 3
        )
        for name in names:
            rows.append(
                {
                    "batch": batch,
                    "way": name,
                    "milliseconds": 1000 * seconds[name],
                    "times bare": seconds[name] / seconds["bare distances"],
                    "peak MiB": timing.peak_memory(way, name, batch)
                    if device == "cpu"
                    else timing.peak_gpu_memory(way(name, batch, device)),
                }
            )
    return pd.DataFrame(rows)
