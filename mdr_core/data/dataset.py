"""Load retrieval datasets, whose training and test classes are disjoint."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mdr_core.data import catalog, drawn_characters, omniglot
from mdr_core.data.image_cache import DECODING, decoded
from mdr_core.errors import StudyError
from mdr_core.files import sha256


@dataclass(frozen=True)
class Split:
    """N images of C classes."""

    images: Tensor  # (N, 3, S, S) uint8, RGB, channels last in memory
    labels: Tensor  # (N,) int64, 0 ... C - 1
    class_names: tuple[str, ...]  # C
    paths: tuple[str, ...]  # N, inside the dataset; empty for drawn images

    def of_images(self, indices: Tensor) -> "Split":
        """Return some images, in the order given: a view where they follow one another."""
        first = int(indices[0]) if len(indices) else 0
        in_a_row = torch.equal(indices, torch.arange(first, first + len(indices)))
        rows = slice(first, first + len(indices)) if in_a_row else indices
        paths = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, images=self.images[rows], labels=self.labels[rows], paths=paths)

    def of_classes(self, classes: Iterable[int]) -> "Split":
        """Return all images of some classes, which are labeled from 0 in the order given."""
        classes = torch.as_tensor(list(classes), dtype=torch.int64)
        label = torch.full((len(self.class_names),), -1)
        label[classes] = torch.arange(len(classes))
        chosen = self.of_images((label[self.labels] >= 0).nonzero().flatten())
        names = tuple(self.class_names[c] for c in classes.tolist())
        return replace(chosen, labels=label[chosen.labels], class_names=names)


@dataclass(frozen=True)
class RetrievalDataset:
    """Each test image is searched in the gallery or, without one, among all other test images."""

    train: Split
    test: Split
    fingerprint: str  # of the content, 64 hexadecimal digits; not of pixels
    gallery: Split | None = None  # of the test classes, with their labels (In-Shop Clothes)

    def hold_out(self, count: int) -> "RetrievalDataset":
        """Replace the test split by the last ``count`` training classes, as the released loader."""
        kept = len(self.train.class_names) - count
        if count < 2 or kept < 2:
            raise StudyError(f"hold_out={count} must be at least 2, and leave 2 classes to train")
        train, test = map(self.train.of_classes, (range(kept), range(kept, kept + count)))
        return replace(self, train=train, test=test, gallery=None)


def load_dataset(name: str, image_size: int = 128) -> RetrievalDataset:
    """Return a dataset by name, one of NAMES; the first half of its classes trains, or as listed.

    The first folders are the classes of ``folder:PATH,class_level=1``. All classes of
    ``all:folder:PATH`` train. Drawn characters have 32 pixels, whatever the size.
    """
    all_train, name = name.startswith("all:folder:"), name.replace("all:folder:", "folder:", 1)
    if name == "drawn":
        train, test = (Split(*drawn_characters.draw(part)) for part in ("train", "test"))
        version = f"drawing {drawn_characters.DRAWING}"
        return RetrievalDataset(train, test, sha256([version, name, 0]))
    if name == "omniglot":
        rows, images = omniglot.characters(image_size)
    else:
        folder, rows = catalog.listed(name)
        images, each = decoded(folder, [*rows.file], image_size, name.startswith("folder:"))
        rows = rows.assign(digest=each)
    rows = rows.assign(number=pd.factorize(rows.number, sort=True)[0])
    halves = np.where(rows.number < rows.number.nunique() // 2, "train", "test")
    rows = rows.assign(split=rows.get("split", halves))
    classes = rows.drop_duplicates("number").sort_values("number")
    every = Split(images, torch.tensor([*rows.number]), tuple(classes.name), tuple(rows.file))
    splits: dict[str, Split] = {}
    content = [f"decoding {DECODING}", image_size, name.startswith("folder:"), contents := []]
    for part in sorted({*rows.split}, reverse=True):
        chosen = every.of_images(torch.from_numpy(np.flatnonzero(rows.split == part)))
        splits[part] = split = chosen.of_classes(chosen.labels.unique().tolist())
        digests = [*rows.digest[rows.split == part]]
        contents.append([part, digests, split.labels.tolist(), split.class_names])
        single = [split.class_names[c] for c in (split.labels.bincount() < 2).nonzero()]
        if len(split.class_names) < 2 or (single and "gallery" not in {*rows.split}):
            has = f"{len(split.class_names)} classes to {part}, with one image: {single}"
            raise StudyError(f"{name} has {has}: 2 classes with 2 images each are the least")
    splits |= {"train": every} if all_train else {}
    return RetrievalDataset(fingerprint=sha256(content), **splits)
