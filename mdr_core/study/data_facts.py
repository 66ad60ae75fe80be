"""What pages tell of a dataset beside its runs: ``reports/PROFILE/datasets.json``.

So a page of committed runs needs no data.
"""

import json
from typing import Any

from mdr_core.data.dataset import RetrievalDataset
from mdr_core.runs import committed


def about(dataset: str, fingerprint: str) -> dict[str, Any] | None:
    """Return what :func:`facts_of` told of a dataset whose runs are committed."""
    for path in sorted(committed.REPORTS.glob("*/datasets.json")):
        found = json.loads(path.read_text(encoding="utf-8")).get(dataset)
        if found is not None and found["fingerprint"] == fingerprint:
            return found
    return None


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
