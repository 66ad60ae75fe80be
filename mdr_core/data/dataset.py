"""Load retrieval datasets, whose training and test classes are disjoint."""

import math
import multiprocessing
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from mdr_core.data import drawn_characters, layouts
from mdr_core.data.catalog import KNOWN, NAMES, find
from mdr_core.data.fingerprint import SplitContent, data_fingerprint, drawn_fingerprint
from mdr_core.data.folders import unpacked
from mdr_core.data.image_cache import decoded
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY


@dataclass(frozen=True)
class Split:
    """N images of C classes.

    Families are coarser groups of the classes: a bird's last word, a car's make. The splits of a
    dataset number them alike.
    """

    images: Tensor  # (N, 3, S, S) uint8, RGB, channels last in memory
    labels: Tensor  # (N,) int64, 0 ... C - 1
    class_names: tuple[str, ...]  # C
    paths: tuple[str, ...]  # N, inside the dataset; empty for drawn images
    families: Tensor | None = None  # (C,) int64; None where the layout has none

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
        families = None if self.families is None else self.families[classes]
        return replace(chosen, labels=label[chosen.labels], class_names=names, families=families)


class Duplicates(NamedTuple):
    """Pairs of image files of equal bytes: they make Recall@1 too high, or too low."""

    pairs: int = 0
    of_two_classes: int = 0
    of_two_splits: int = 0  # of a training and a test class
    example: tuple[str, ...] = ()  # the paths of one pair


@dataclass(frozen=True)
class RetrievalDataset:
    """Training split, test split, and a name of their content.

    Each test image is searched in the gallery or, without one, among all other test images.
    """

    name: str
    train: Split
    test: Split
    fingerprint: str  # of the content, 64 hexadecimal digits: :mod:`mdr_core.data.fingerprint`
    gallery: Split | None = None  # of the test classes, with their labels (In-Shop Clothes)
    duplicates: Duplicates = Duplicates()  # of the whole dataset, by the bytes of the files

    def hold_out(self, count: int) -> "RetrievalDataset":
        """Replace the test split by the last ``count`` training classes: no test class is seen.

        The released CUB-200 loader can hold out the last 20 of 100 so. The fingerprint stays.
        """
        kept = len(self.train.class_names) - count
        if count < 2 or kept < 2:
            raise StudyError(f"hold_out={count} must be at least 2, and leave 2 classes to train")
        train = self.train.of_classes(range(kept))
        test = self.train.of_classes(range(kept, kept + count))
        return replace(self, train=train, test=test, gallery=None)

    def train_on_all(self) -> "RetrievalDataset":
        """Add the test classes to the training split, for a model to use and not to evaluate."""
        one, two = self.train, self.test
        labels = torch.cat([one.labels, two.labels + len(one.class_names)])
        names, paths = one.class_names + two.class_names, one.paths + two.paths
        every = Split(torch.cat([one.images, two.images]), labels, names, paths)
        return replace(self, train=every)


def load_dataset(name: str, image_size: int = 128) -> RetrievalDataset:
    """Return a dataset by name, in the protocol's split.

    The first half of the classes trains and the second half tests, unless there is an official list
    (Stanford Online Products, In-Shop Clothes).

    Args:
        name: one of NAMES. A relative PATH of ``folder:PATH`` is one in the study. The first level
            of folders are the classes of ``folder:PATH,class_level=1``, and so on. After ``all:``
            the test classes train, too: :meth:`RetrievalDataset.train_on_all`.
        image_size: of the square that images are resized to; drawn characters are always 32.

    Raises:
        StudyError: unknown name, absent dataset, broken image, a class with too few images.
    """
    if name.startswith("all:"):
        return load_dataset(name.removeprefix("all:"), image_size).train_on_all()
    if name in ("drawn", "drawn_pretraining"):
        return drawn_dataset(name)
    folder, rows, own = listed(name)
    images, rows["digest"] = decoded(folder, [*rows.file], image_size, upright=own)
    splits = splits_of(rows, images)
    check(name, splits)
    same = duplicates(rows)
    if same.pairs:
        say(
            f"{name}: {same.pairs} pair(s) of image files are equal, {same.of_two_classes} of them "
            f"in two classes, {same.of_two_splits} in a training and a test class, as "
            f"{' and '.join(same.example)}; they distort Recall@1"
            f"{': remove one of each pair' * own}"
        )
    contents = [
        SplitContent(part, [*rows.digest[rows.split == part]], s.labels.tolist(), s.class_names)
        for part, s in splits.items()
    ]
    fingerprint = data_fingerprint(contents, image_size, upright=own)
    return RetrievalDataset(name, fingerprint=fingerprint, duplicates=same, **splits)


def listed(name: str) -> tuple[Path, pd.DataFrame, bool]:
    """Return a dataset's folder, its images as rows, and whether it is a user's own folder."""
    if own := re.fullmatch(r"folder:(.*?)(,class_level=([0-9]{1,3}))?", name, re.DOTALL):
        folder = unpacked(REPOSITORY / os.path.expanduser(own[1]))
        rows, taken = layouts.class_folders(folder, int(own[3] or 0))
        say(taken)
    elif name in KNOWN:
        folder, known = find(name), KNOWN[name]
        rows = known.read(folder)
        rows = rows[rows.number < known.classes]
        found = rows.number.nunique(), len(rows)
        if found != (known.classes, known.images):
            official = f"officially {known.classes} and {known.images}"
            say(f"{name} has {found[0]} classes and {found[1]} images here, {official}")
    else:
        raise StudyError(f"unknown dataset {name!r}: choose one of {', '.join(NAMES)}")
    rows = rows.assign(number=pd.factorize(rows.number, sort=True)[0])
    halves = np.where(rows.number < rows.number.nunique() // 2, "train", "test")
    return folder, rows.assign(split=rows.get("split", halves)), bool(own)


def say(line: str) -> None:
    """Write a line to stderr, unless this process was started by one that says it."""
    if multiprocessing.parent_process() is None:
        tqdm.write(" ".join(line.splitlines()), file=sys.stderr)


def duplicates(rows: pd.DataFrame) -> Duplicates:
    """Count the pairs of equal files by the columns digest, number and split."""

    def pairs(*columns: object) -> int:
        return sum(math.comb(n, 2) for n in rows.groupby(["digest", *columns]).size())

    same = rows[rows.duplicated("digest", keep=False)]
    example = tuple(same.file[same.digest == same.digest.iloc[0]][:2]) if len(same) else ()
    of_splits = pairs() - pairs(rows.split == "train")
    return Duplicates(pairs(), pairs() - pairs("number"), of_splits, example)


def drawn_dataset(name: str) -> RetrievalDataset:
    """Return the drawn characters; to pretrain, every fifth image tests, of the same classes."""

    def drawn(part: str) -> Split:
        images, labels, class_names, families = drawn_characters.draw(part)
        pixels, label, family = map(torch.from_numpy, (images, labels, families))
        return Split(pixels.permute(0, 3, 1, 2), label, class_names, ("",) * len(labels), family)

    if name == "drawn":
        train, test = drawn("train"), drawn("test")
    else:
        every = drawn("pretrain")
        fifth = torch.arange(len(every.labels)) % 5 == 0
        train, test = (every.of_images(chosen.nonzero().flatten()) for chosen in (~fifth, fifth))
    return RetrievalDataset(name, train, test, drawn_fingerprint(name))


def splits_of(rows: pd.DataFrame, images: Tensor) -> dict[str, Split]:
    """Return the splits "train", "test" and, where there is one, "gallery"."""
    classes = rows.drop_duplicates("number").sort_values("number")
    names, labels, families = tuple(classes.name), torch.tensor(rows.number.tolist()), None
    if "family" in rows:
        families = torch.from_numpy(pd.factorize(classes.family, sort=True)[0])
    every, splits = Split(images, labels, names, tuple(rows.file), families), {}
    for part in ["train", "test"] + ["gallery"] * ("gallery" in {*rows.split}):
        chosen = every.of_images(torch.from_numpy(np.flatnonzero(rows.split == part)))
        splits[part] = chosen.of_classes(chosen.labels.unique().tolist())
    return splits


def check(name: str, splits: dict[str, Split]) -> None:
    """Refuse splits with too few classes or images, or whose classes are not the protocol's."""
    names = {part: split.class_names for part, split in splits.items()}
    if {*names["train"]} & {*names["test"]} or names.get("gallery", names["test"]) != names["test"]:
        why = "has classes in both training and test, or in one of query and gallery alone"
        raise StudyError(f"{name}: its official list {why}: fetch it anew")
    for part, split in splits.items():
        counts = torch.bincount(split.labels, minlength=len(split.class_names))
        if len(counts) < 2:
            raise StudyError(f"{name} has {len(counts)} classes to {part}: at least 2 are needed")
        least = 1 if "gallery" in splits and part != "train" else 2
        few = [split.class_names[c] for c in (counts < least).nonzero().flatten().tolist()]
        if few:
            shown = ", ".join(map(repr, few[:3])) + f" and {len(few) - 3} more" * (len(few) > 3)
            raise StudyError(f"{name}: fewer than 2 images in class {shown}: add some or remove it")
