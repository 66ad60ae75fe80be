"""What pages of committed runs tell of a dataset without it: ``reports/PROFILE/datasets.json``."""

import contextlib
import json
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from mdr_core.config import Config
from mdr_core.data.dataset import RetrievalDataset
from mdr_core.errors import StudyError
from mdr_core.evaluation.epoch import center_crops, embed, queries
from mdr_core.evaluation.retrieval import first_ranks, recall
from mdr_core.runs import committed, local
from mdr_core.training import start

Facts = dict[str, Any]
FLOORS = {"pixels": "Pixels", "features": "Backbone features"}  # as they are stored, and shown
DECIDE = ("backbone", "weights", "image_size", "resize", "crop", "ks")  # settings, of floors


def stored(dataset: str) -> list[Facts]:
    """Return what is committed of a dataset, from each profile that has it."""
    every = [json.loads(p.read_bytes()) for p in sorted(committed.REPORTS.glob("*/datasets.json"))]
    return [facts[dataset] for facts in every if dataset in facts]


def about(dataset: str, fingerprint: str) -> Facts | None:
    """Return the facts of a dataset whose runs are committed: counts, names of classes, floors."""
    return next((each for each in stored(dataset) if each["fingerprint"] == fingerprint), None)


def floors(config: Config, data: RetrievalDataset) -> dict[str, dict[str, float]]:
    """Return ``test_recall@K`` in percent, K of config.ks, that every method must exceed.

    ``pixels``: gray, each image of mean 0 and standard deviation 1. ``features``: the pretrained
    backbone's, L2-normalized, which find more than raw ones.
    """
    device = torch.device(config.device if torch.cuda.is_available() else "cpu")
    crops = queries(data).map(partial(center_crops, config, device=device))
    net = start(config.replace(device=device.type, normalization="l2")).model.eval()
    net.add_module("linear", nn.Identity())
    gray = crops.map(lambda some: some.mean(dim=1, dtype=torch.float32).flatten(1))
    pixels = gray.map(lambda some: nn.functional.layer_norm(some, some.shape[1:]))
    found = {"pixels": pixels, "features": crops.map(partial(embed, net))}
    scores = {name: recall(first_ranks(*each), config.ks) for name, each in found.items()}
    return {n: {f"test_recall@{k}": x for k, x in by_k.items()} for n, by_k in scores.items()}


def floors_of(config: Config, missing_too: bool = True) -> pd.DataFrame:
    """Return :func:`floors` as rows, committed or computed now; NaN: not here, or not asked for."""
    every = [each.get("floors", {}).get(settings(config)) for each in stored(config.dataset)]
    found: dict[str, dict[str, float]] = next(filter(None, every), {})
    with contextlib.suppress(StudyError):
        found = found or (floors(config, local.dataset(config)) if missing_too else {})
    ks = [f"test_recall@{k}" for k in config.ks]
    return pd.DataFrame(found, ks, [*FLOORS], dtype=float).T.rename(index=FLOORS)


def settings(config: Config) -> str:
    """Return the name of stored floors: all that decides them."""
    return ", ".join(f"{name} {getattr(config, name)}" for name in DECIDE)


def add(every: dict[str, Facts], config: Config) -> None:
    """Add the facts of a run's dataset, which is here, and its floors."""
    if config.dataset not in every:
        data = local.dataset(config)
        splits = {"train": data.train, "test": data.test, "gallery": data.gallery}
        every[config.dataset] = {
            "fingerprint": data.fingerprint,
            "images": {name: len(split.labels) for name, split in splits.items() if split},
            "test_classes": list(data.test.class_names),
        }
    there = every[config.dataset].setdefault("floors", {})
    there[settings(config)] = there.get(settings(config)) or floors(config, local.dataset(config))
