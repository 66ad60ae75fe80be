"""Load retrieval datasets, whose training and test classes are disjoint.

Official layouts are read as they come, from a folder or straight from a zip file, and so is any
folder of class folders.
"""

import math
import multiprocessing
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mdr_core.data import drawn_characters, layouts
from mdr_core.data.catalog import KNOWN, NAMES, find
from mdr_core.data.fingerprint import SplitContent, data_fingerprint, drawn_fingerprint
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
        """Return some images, in the order given; the classes keep their labels.

        Images that follow one another are a view: what is memory-mapped stays on the disk.
        """
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
        return replace(
            chosen,
            labels=label[chosen.labels],
            class_names=tuple(self.class_names[c] for c in classes.tolist()),
            families=None if self.families is None else self.families[classes],
        )


class Duplicates(NamedTuple):
    """Pairs of image files of equal bytes: they make Recall@1 too high, or too low."""

    pairs: int = 0
    of_two_classes: int = 0
    of_two_splits: int = 0  # of a training and a test class
    example: tuple[str, ...] = ()  # the paths of one pair


@dataclass(frozen=True)
class RetrievalDataset:
    """Training split, test split, and a name of their content.

    Each test image is searched in the gallery or, where there is none, among all other test images.
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
        classes = len(self.train.class_names)
        if not 2 <= count <= classes - 2:
            raise StudyError(
                f"hold_out must leave at least 2 of the {classes} training classes on either side, "
                f"got {count}"
            )
        kept, held = range(classes - count), range(classes - count, classes)
        train, test = self.train.of_classes(kept), self.train.of_classes(held)
        return replace(self, train=train, test=test, gallery=None)

    def train_on_all(self) -> "RetrievalDataset":
        """Add the test classes to the training split, for a model to use and not to evaluate.

        The test split stays: training has seen it, so that its Recall@1 is none of unseen classes.
        """
        first, second = self.train, self.test
        every = Split(
            torch.cat([first.images, second.images]),
            torch.cat([first.labels, second.labels + len(first.class_names)]),
            first.class_names + second.class_names,
            first.paths + second.paths,
        )
        return replace(self, train=every)


def load_dataset(
    name: str,
    data_root: str | Path | None = None,
    image_size: int = 128,
    cache_root: str | Path | None = None,
) -> RetrievalDataset:
    """Return a dataset by name, in the protocol's split.

    That is the official list where there is one (Stanford Online Products, In-Shop Clothes).
    Otherwise the first half of the classes trains, the second half tests.

    What was taken as a class of a folder, and duplicates, are each said in a line on stderr.

    A relative PATH of ``folder:PATH`` is one in the study, wherever the program runs. The first
    level of folders are the classes of ``folder:PATH,class_level=1``, and so on:
    :func:`mdr_core.data.layouts.class_folders`. After ``all:`` the test classes train, too:
    :meth:`RetrievalDataset.train_on_all`.

    Args:
        name: one of NAMES.
        data_root: else ``MDR_DATA_ROOT``, else ``../shared/data`` or ``data`` beside the study.
        image_size: of the square that images are resized to; drawn characters are always 32.
        cache_root: of decoded images; else ``MDR_CACHE``, else ``.cache`` in the study.

    Raises:
        StudyError: unknown name, absent dataset, broken image, a class with too few images.
    """
    if name.startswith("all:"):
        name = name.removeprefix("all:")
        return load_dataset(name, data_root, image_size, cache_root).train_on_all()
    if name in ("drawn", "drawn_pretraining"):
        return drawn_dataset(name)
    if own := re.fullmatch(r"folder:(.*?)(,class_level=([0-9]{1,3}))?", name, re.DOTALL):
        source = layouts.Source(REPOSITORY / os.path.expanduser(own[1]), upright=True)
        listing = layouts.class_folders(source, int(own[3] or 0))
        say(listing.taken)
    elif name in KNOWN:
        known, source = KNOWN[name], find(name, data_root)
        listing = known.read(source)
        found = len(listing.class_names), len(listing.files)
        if found != (known.classes, known.images):
            warnings.warn(
                f"{name} has {found[0]} classes and {found[1]} images here, officially "
                f"{known.classes} and {known.images}",
                stacklevel=2,
            )
    else:
        raise StudyError(f"unknown dataset {name!r}: choose one of {', '.join(NAMES)}")
    images, digests = decoded(source, listing.files, image_size, cache_root)
    splits = checked_splits(name, listing, images)
    digest = dict(zip(listing.files, digests, strict=True))
    contents = [
        SplitContent(part, [digest[p] for p in s.paths], s.labels.tolist(), s.class_names)
        for part, s in splits.items()
    ]
    fingerprint = data_fingerprint(contents, image_size, source.upright)
    same = duplicates(splits, digest)
    if same.pairs:
        say(
            f"{name}: {same.pairs} pair(s) of image files are equal, {same.of_two_classes} of them "
            f"in two classes, {same.of_two_splits} in a training and a test class, as "
            f"{' and '.join(same.example)}; they distort Recall@1"
            + (": remove one of each pair" if own else "")
        )
    return RetrievalDataset(name, fingerprint=fingerprint, duplicates=same, **splits)


def say(line: str) -> None:
    """Write a line to stderr, unless this process was started by one that says it."""
    if multiprocessing.parent_process() is None:
        tqdm.write(" ".join(line.splitlines()), file=sys.stderr)


def duplicates(splits: dict[str, Split], digest: dict[str, str]) -> Duplicates:
    """Count the pairs of equal files. ``digest``: of each path's file."""
    files = [
        (digest[path], part == "train", label, path)
        for part, split in splits.items()
        for path, label in zip(split.paths, split.labels.tolist(), strict=True)
    ]

    def pairs(what: int) -> int:  # that agree in digest, then split, then class
        return sum(math.comb(n, 2) for n in Counter(file[:what] for file in files).values())

    first: dict[str, str] = {}
    found = ((first.setdefault(same, path), path) for same, _, _, path in files)
    example = next((pair for pair in found if pair[0] != pair[1]), ())
    return Duplicates(pairs(1), pairs(1) - pairs(3), pairs(1) - pairs(2), example)


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


def checked_splits(name: str, listing: layouts.Listing, images: Tensor) -> dict[str, Split]:
    """Return the listing's "train", "test" and, if it has one, "gallery" split."""
    families = None
    if listing.families:
        families = torch.from_numpy(np.unique(listing.families, return_inverse=True)[1])
    labels, names = torch.from_numpy(listing.labels), listing.class_names
    every, half = Split(images, labels, names, tuple(listing.files), families), len(names) // 2
    if listing.splits is None:
        first, second = range(half), range(half, len(names))
        splits = {"train": every.of_classes(first), "test": every.of_classes(second)}
    else:
        splits = {}
        for part in ["train", "test"] + ["gallery"] * ("gallery" in listing.splits):
            chosen = every.of_images(torch.from_numpy(np.flatnonzero(listing.splits == part)))
            splits[part] = chosen.of_classes(chosen.labels.unique().tolist())
        if set(splits["train"].class_names) & set(splits["test"].class_names):
            raise StudyError(f"{name}: its official list has classes in both training and test")
        if "gallery" in splits and splits["gallery"].class_names != splits["test"].class_names:
            raise StudyError(
                f"{name}: query and gallery are not of the same classes: fetch its official list "
                "anew"
            )
    for part, split in splits.items():
        counts = torch.bincount(split.labels, minlength=len(split.class_names))
        if len(counts) < 2:
            raise StudyError(
                f"{name} has {len(names)} classes, {len(counts)} of them to {part}: at least 4 are "
                "needed, 2 to train and 2 to test"
            )
        least = 1 if "gallery" in splits and part != "train" else 2
        few = [split.class_names[c] for c in (counts < least).nonzero().flatten().tolist()]
        if few:
            shown = ", ".join(map(repr, few[:3])) + f" and {len(few) - 3} more" * (len(few) > 3)
            raise StudyError(
                f"too few images in class {shown} of {name}: retrieval needs at least 2 of every "
                "class; add images or remove it"
            )
    return splits
