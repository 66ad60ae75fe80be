"""A stand-in for a dataset that is not on this machine: pages need its labels and names."""

from typing import Any

import torch
from torch import Tensor

from mdr_core.data.dataset import RetrievalDataset, Split


def dataset(name: str, about: dict[str, Any], findings: dict[str, Tensor]) -> RetrievalDataset:
    """Return a dataset whose test images are gray.

    Args:
        about: :func:`mdr_core.study.data_facts.facts_of` of it.
        findings: of a run on it; they have the test labels.
    """
    labels, names = findings["labels"].long(), tuple(about["test_classes"])
    families = about["test_families"]
    images = torch.full((1, 1, 1, 1), 0xDD, dtype=torch.uint8).expand(len(labels), 3, 128, 128)
    paths = ("",) * len(labels)
    test = Split(images, labels, names, paths, None if families is None else torch.tensor(families))
    return RetrievalDataset(name, test, test, about["fingerprint"])
