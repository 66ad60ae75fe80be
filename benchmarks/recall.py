"""(d) Recall@1, 10, 100 and 1000 at once, of 20k and 60k embeddings of 512 dimensions, against the
bare product of matrices, one query at a time and a library's calculator (K up to 8).
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from benchmarks import timing
from mdr_core.evaluation import retrieval

DIMENSIONS, PER_CLASS, SAMPLE = 512, 5, 60
KS = (1, 10, 100, 1000)
SIZES = (20_000, 60_000)  # the library takes 8 GB at the latter
ROWS = 1024  # queries of the bare product at a time


def embeddings(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes of PER_CLASS images, as far apart as online products: Recall@1 well below 100 %."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(size // PER_CLASS), PER_CLASS)
    centres = rng.standard_normal((size // PER_CLASS, DIMENSIONS), dtype=np.float32)
    return centres[labels] + 3.0 * rng.standard_normal((size, DIMENSIONS), dtype=np.float32), labels


def literal(x: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The rank of the first image of some queries' classes, one query at a time: all distances,
    sorted, the query itself left out.
    """
    found = []
    for i in queries:
        d = np.square(x - x[i]).sum(axis=1)
        d[i] = np.inf
        right = labels[np.argsort(d, kind="stable")] == labels[i]
        found.append(right.argmax() + 1)
    return np.array(found)


def bare(x: torch.Tensor) -> None:
    """All products of two embeddings, a tile at a time, and nothing done with them."""
    for some in x.split(ROWS):
        torch.mm(some, x.T)


def library(x: np.ndarray, labels: np.ndarray) -> None:
    calculator = AccuracyCalculator(include=("precision_at_1",), k=8, device=torch.device("cpu"))
    calculator.get_accuracy(torch.from_numpy(x), torch.from_numpy(labels))


def ours(size: int):
    return partial(retrieval.recall_at_k, *embeddings(size), KS)


def measure(sizes=SIZES, device: str = "cpu") -> pd.DataFrame:
    rows = []
    for size in sizes:
        x, labels = embeddings(size)
        there = torch.from_numpy(x).to(device)
        ways: dict[str, Callable] = {
            "bare": partial(bare, there),
            "ours": partial(retrieval.recall_at_k, there, labels, KS),
        }
        seconds = timing.alternately(ways, rounds=3)
        row = {
            "embeddings": size,
            "bare product, seconds": seconds["bare"],
            "Recall@1, 10, 100 and 1000, seconds": seconds["ours"],
            "times the bare product": seconds["ours"] / seconds["bare"],
        }
        if device == "cpu":
            row |= beside(x, labels, seconds["ours"])
        else:
            row["peak MiB"] = timing.peak_gpu_memory(ways["ours"])
        rows.append(row)
    return pd.DataFrame(rows)


def beside(x: np.ndarray, labels: np.ndarray, seconds: float) -> dict[str, float]:
    """What others take, over our seconds, and whether ranks are those of sorted distances."""
    queries = np.random.default_rng(1).choice(len(x), SAMPLE, replace=False)
    began = time.perf_counter()
    expected = literal(x, labels, queries)
    one_at_a_time = (time.perf_counter() - began) * len(x) / SAMPLE
    began = time.perf_counter()
    library(x, labels)
    calculator = time.perf_counter() - began
    equal = retrieval.first_ranks(x, labels)[queries] == expected
    return {
        "library's calculator, times": calculator / seconds,
        f"one query at a time (of {SAMPLE}, extrapolated), times": one_at_a_time / seconds,
        "queries equal to it, %": 100 * equal.mean(),
        "peak MiB": timing.peak_memory(ours, len(x)),
    }
