"""What pages of committed runs tell of a dataset without it: ``reports/PROFILE/datasets.json``."""

import json
from typing import Any

from mdr_core.config import Config
from mdr_core.data.dataset import RetrievalDataset
from mdr_core.errors import StudyError
from mdr_core.evaluation.floors import floors
from mdr_core.runs import committed, local

Facts = dict[str, Any]
DECIDE = ("backbone", "weights", "image_size", "resize", "crop", "ks")  # settings, of floors


def stored(dataset: str) -> list[Facts]:
    """Return what is committed of a dataset, from each profile that has it."""
    every = [json.loads(p.read_bytes()) for p in sorted(committed.REPORTS.glob("*/datasets.json"))]
    return [facts[dataset] for facts in every if dataset in facts]


def about(dataset: str, fingerprint: str) -> Facts | None:
    """Return the facts of a dataset whose runs are committed: counts, names of classes, floors."""
    return next((each for each in stored(dataset) if each["fingerprint"] == fingerprint), None)


def facts_of(data: RetrievalDataset) -> Facts:
    """Return the facts of a dataset that is here, but for its floors."""
    splits = {"train": data.train, "test": data.test, "gallery": data.gallery}
    return {
        "fingerprint": data.fingerprint,
        "images": {name: len(split.labels) for name, split in splits.items() if split is not None},
        "train_classes": len(data.train.class_names),
        "test_classes": list(data.test.class_names),
    }


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
        every[config.dataset] = facts_of(local.dataset(config))
    there = every[config.dataset].setdefault("floors", {})
    there[settings(config)] = there.get(settings(config)) or floors_of(config)
