"""Stand-ins for images that are not on this machine, so that their pages can be rendered."""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mdr_core.data.dataset import RetrievalDataset, Split

SIDE = 128  # pixels


def tile() -> Tensor:
    """Return a gray image (3, SIDE, SIDE) uint8 that says that the image is not here."""
    image = Image.new("RGB", (SIDE, SIDE), "#dddddd")
    words = ImageDraw.Draw(image)
    words.multiline_text(
        (SIDE / 2, SIDE / 2), "image\nnot here", "#555555", anchor="mm", font_size=20
    )
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def dataset(name: str, about: dict[str, Any], findings: dict[str, Tensor]) -> RetrievalDataset:
    """Return a dataset whose test images are gray tiles.

    Args:
        about: :func:`mdr_core.study.data_facts.facts_of` of it.
        findings: of a run on it; they have the test labels.
    """
    labels, names = findings["labels"].long(), tuple(about["test_classes"])
    families = about["test_families"]
    images = tile().expand(len(labels), -1, -1, -1)
    paths = ("",) * len(labels)
    test = Split(images, labels, names, paths, None if families is None else torch.tensor(families))
    return RetrievalDataset(name, test, test, about["fingerprint"])
