"""(d) Recall@1 to 8 at 10k, 60k and 120k embeddings of 512 dimensions, against one query at a time
and a library's calculator.
"""

import time
from functools import partial

import numpy as np
import pandas as pd
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

from benchmarks import timing
from mdr_core.evaluation import retrieval

DIMENSIONS, PER_CLASS, SAMPLE = 512, 5, 60
SIZES = (10_000, 60_000, 120_000)
LIBRARY_UP_TO = 60_000  # where it takes 8 GB; beyond, more than a small machine has


def embeddings(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes of PER_CLASS images, as far apart as online products: Recall@1 well below 100 %."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(size // PER_CLASS), PER_CLASS)
    centres = rng.standard_normal((size // PER_CLASS, DIMENSIONS), dtype=np.float32)
    return centres[labels] + 3.0 * rng.standard_normal((size, DIMENSIONS), dtype=np.float32), labels


def literal(x: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The k nearest others of some queries, one at a time: all distances, sorted, the query itself
    left out.
    """
    found = []
    for i in queries:
        d = np.square(x - x[i]).sum(axis=1)
        d[i] = np.inf
        found.append(np.argsort(d, kind="stable")[:k])
    return np.array(found)


def library(x: np.ndarray, labels: np.ndarray) -> None:
    calculator = AccuracyCalculator(include=("precision_at_1",), k=8, device=torch.device("cpu"))
    calculator.get_accuracy(torch.from_numpy(x), torch.from_numpy(labels))


def ours(size: int):
    x, labels = embeddings(size)
    return partial(retrieval.recall_at_k, x, labels, (1, 2, 4, 8))


def measure(sizes=SIZES) -> pd.DataFrame:
    rows = []
    for size in sizes:
        x, labels = embeddings(size)
        queries = np.random.default_rng(1).choice(size, SAMPLE, replace=False)
        began = time.perf_counter()
        expected = literal(x, queries, 8)
        one_at_a_time = (time.perf_counter() - began) * size / SAMPLE
        equal = (retrieval.nearest(x, 8)[queries] == expected).all(axis=1).mean()
        ways = {"ours": partial(retrieval.recall_at_k, x, labels, (1, 2, 4, 8))}
        if size <= LIBRARY_UP_TO:
            ways["library"] = partial(library, x, labels)
        seconds = {"library": float("nan")} | timing.alternately(
            ways, rounds=3 if size <= 20_000 else 1
        )
        rows.append(
            {
                "embeddings": size,
                "seconds": seconds["ours"],
                "library's calculator, times": seconds["library"] / seconds["ours"],
                f"one query at a time (of {SAMPLE}, extrapolated), times": one_at_a_time
                / seconds["ours"],
                "queries equal to it, %": 100 * equal,
                "peak MiB": timing.peak_memory(ours, size),
            }
        )
    return pd.DataFrame(rows)
