"""What pages of committed runs tell of a dataset without it: ``reports/PROFILE/datasets.json``."""

import json
from typing import Any

from mdr_core.config import Config
from mdr_core.data.dataset import RetrievalDataset
from mdr_core.errors import StudyError
from mdr_core.evaluation.floors import floors
from mdr_core.runs import committed, local


def stored(dataset: str) -> list[dict[str, Any]]:
    """Return what is committed of a dataset, from each profile that has it."""
    every = [json.loads(p.read_bytes()) for p in sorted(committed.REPORTS.glob("*/datasets.json"))]
    return [facts[dataset] for facts in every if dataset in facts]


def about(dataset: str, fingerprint: str) -> dict[str, Any] | None:
    """Return what :func:`facts_of` told of a dataset whose runs are committed."""
    return next((each for each in stored(dataset) if each["fingerprint"] == fingerprint), None)


def facts_of(data: RetrievalDataset) -> dict[str, Any]:
    """Return what pages tell of a dataset beside runs: counts, names of the classes, families."""
    splits = {"train": data.train, "test": data.test, "gallery": data.gallery}
    return {
        "fingerprint": data.fingerprint,
        "images": {name: len(split.labels) for name, split in splits.items() if split is not None},
        "train_classes": len(data.train.class_names),
        "test_classes": list(data.test.class_names),
        "test_families": None if data.test.families is None else data.test.families.tolist(),
    }


def floors_of(config: Config, committed_too: bool = True) -> dict[str, dict[str, float]] | None:
    """Return :func:`floors`, committed or computed now; None: images or weights are not here."""
    for each in stored(config.dataset) if committed_too else []:
        if found := each.get("floors", {}).get(settings(config)):
            return found
    try:
        return floors(config, local.dataset(config), local.backbone_of(config))
    except StudyError:
        return None


def settings(config: Config) -> str:
    """Return the name of stored floors: all that decides them."""
    names = ("backbone", "weights", "image_size", "resize", "crop", "ks")
    return ", ".join(f"{name} {getattr(config, name)}" for name in names)
