"""What pages of committed runs tell of a dataset without it: ``reports/PROFILE/datasets.json``."""

import json
from functools import partial
from typing import Any

import torch
from torch import nn

from mdr_core.config import Config
from mdr_core.data.dataset import RetrievalDataset
from mdr_core.errors import StudyError
from mdr_core.evaluation.epoch import center_crops, embed
from mdr_core.evaluation.retrieval import RetrievalSet, first_ranks, recall
from mdr_core.runs import committed, local
from mdr_core.training import start

Facts = dict[str, Any]
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
    searched = () if data.gallery is None else (data.gallery.images, data.gallery.labels)
    images = RetrievalSet(data.test.images, data.test.labels, *searched)
    crops = images.map(partial(center_crops, config, device=device))
    net = start(config.replace(device=device.type, normalization="l2")).model.eval()
    net.add_module("linear", nn.Identity())
    gray = crops.map(lambda some: some.mean(dim=1, dtype=torch.float32).flatten(1))
    pixels = gray.map(lambda some: nn.functional.layer_norm(some, some.shape[1:]))
    found = {"pixels": pixels, "features": crops.map(partial(embed, net))}
    scores = {name: recall(first_ranks(*each), config.ks) for name, each in found.items()}
    return {n: {f"test_recall@{k}": x for k, x in by_k.items()} for n, by_k in scores.items()}


def floors_of(config: Config) -> dict[str, dict[str, float]] | None:
    """Return :func:`floors`, committed or computed now; None: images or weights are not here."""
    for each in stored(config.dataset):
        if found := each.get("floors", {}).get(settings(config)):
            return found
    try:
        return floors(config, local.dataset(config))
    except StudyError:
        return None


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
            "train_classes": len(data.train.class_names),
            "test_classes": list(data.test.class_names),
        }
    there = every[config.dataset].setdefault("floors", {})
    there[settings(config)] = there.get(settings(config)) or floors_of(config)
