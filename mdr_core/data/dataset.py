"""Retrieval datasets: training classes and test classes, disjoint, the images held as bytes.

Official layouts (CUB-200-2011, Stanford Cars) are read as they come, from a folder or straight from a zip file; any
folder of class folders will do as well. Images are decoded once and kept as one memory-mapped array.
"""

import contextlib
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import Tensor

from mdr_core.data import drawn_characters, layouts
from mdr_core.data.catalog import KNOWN, NAMES, find
from mdr_core.data.fingerprint import Listed, data_fingerprint, drawn_fingerprint, sha256
from mdr_core.data.image_cache import decoded
from mdr_core.errors import StudyError
from mdr_core.files import REPOSITORY, write


def taken(images: Tensor, indices: Tensor) -> Tensor:
    """``images[indices]``; where they follow one another, a view, so that what is memory-mapped stays on the disk."""
    first = int(indices[0]) if len(indices) else 0
    if torch.equal(indices, torch.arange(first, first + len(indices))):
        return images[first : first + len(indices)]
    return images[indices]


@dataclass(frozen=True)
class Split:
    """Images of some classes.

    Attributes:
        images: (N, 3, S, S) uint8, RGB, channels last in memory.
        labels: (N,) int64, 0 ... C - 1.
        class_names: C names.
        paths: N, each image's path inside its dataset (empty for drawn images).
        families: (C,) int64, a coarser group of each class (a bird's last word, a car's make, a character's family),
            or None where the layout has none. Numbers agree between the splits of a dataset.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    families: Tensor | None = None

    def of_classes(self, classes: Iterable[int]) -> "Split":
        """The images of some classes, in the order they have here; the classes are labelled from 0, in the order given."""
        classes = torch.as_tensor(list(classes), dtype=torch.int64)
        place = torch.full((len(self.class_names),), -1)
        place[classes] = torch.arange(len(classes))
        where = (place[self.labels] >= 0).nonzero().flatten()
        return Split(
            taken(self.images, where),
            place[self.labels[where]],
            tuple(self.class_names[c] for c in classes.tolist()),
            tuple(self.paths[i] for i in where.tolist()),
            None if self.families is None else self.families[classes],
        )

    def of_part(self, chosen: np.ndarray) -> "Split":
        """The images where (N,) ``chosen`` is true, with their classes alone, labelled from 0."""
        part = self.of_images(torch.from_numpy(np.flatnonzero(chosen)))
        return part.of_classes(part.labels.unique())

    def of_images(self, indices: Tensor) -> "Split":
        """Some images, in the order given; the classes keep their numbers."""
        paths = tuple(self.paths[i] for i in indices.tolist())
        return replace(
            self, images=taken(self.images, indices), labels=self.labels[indices], paths=paths
        )


@dataclass(frozen=True)
class RetrievalDataset:
    """Training split, test split, and a name of their content.

    Attributes:
        test: the queries; each is searched in the gallery or, where there is none, among all other test images.
        gallery: of the test classes, under the same numbers (In-Shop Clothes has one), or None.
        fingerprint: names the content, 64 hexadecimal digits: see :mod:`mdr_core.runs.identity`.
    """

    name: str
    train: Split
    test: Split
    fingerprint: str
    gallery: Split | None = None

    def hold_out(self, count: int) -> "RetrievalDataset":
        """The last ``count`` training classes in the test split's place: the test classes are not seen.

        The released CUB-200 loader can so hold out the last 20 of 100. The fingerprint stays the whole dataset's.

        Raises:
            StudyError: fewer than two classes would be left on either side.
        """
        classes = len(self.train.class_names)
        if not 2 <= count <= classes - 2:
            raise StudyError(
                f"hold_out must leave at least 2 of the {classes} training classes on either side, got {count}"
            )
        return replace(
            self,
            train=self.train.of_classes(range(classes - count)),
            test=self.train.of_classes(range(classes - count, classes)),
            gallery=None,
        )


def load_dataset(
    name: str,
    data_root: str | Path | None = None,
    image_size: int = 128,
    cache_root: str | Path | None = None,
) -> RetrievalDataset:
    """A dataset by name, in the protocol's split: by the official list where there is one (Stanford Online Products,
    In-Shop Clothes); otherwise the first half of its classes train, the second half test.

    Args:
        name: one of NAMES; a relative PATH lies in the study, wherever the program runs.
        data_root: where the files lie; else ``MDR_DATA_ROOT``, else ``../shared/data`` or ``data`` beside the study.
        image_size: images are resized to this square (Lanczos, the aspect ratio ignored, as the paper does); drawn
            characters are always 32.
        cache_root: where decoded images are kept; else ``MDR_CACHE``, else ``.cache`` in the study.

    Raises:
        StudyError: unknown name, absent dataset, an image that cannot be decoded, a class with too few images.
    """
    if name in ("drawn", "drawn_pretraining"):
        wanted = ("train", "test") if name == "drawn" else ("pretrain",)
        parts = {
            part: from_arrays(*arrays) for part, arrays in drawn_characters.draw(wanted).items()
        }
        if name == "drawn":
            return RetrievalDataset(name, parts["train"], parts["test"], drawn_fingerprint(name))
        every, fifth = parts["pretrain"], torch.arange(len(parts["pretrain"].labels)) % 5 == 0
        train, test = (
            every.of_images(torch.where(~fifth)[0]),
            every.of_images(torch.where(fifth)[0]),
        )
        return RetrievalDataset(name, train, test, drawn_fingerprint(name))
    if name.startswith("folder:"):
        source, listing = (
            layouts.open_source(
                REPOSITORY / Path(name.removeprefix("folder:")).expanduser(), upright=True
            ),
            layouts.folder,
        )
    elif name in KNOWN:
        source, listing = find(name, data_root), KNOWN[name][2]
    else:
        raise StudyError(f"unknown dataset {name!r}: choose one of {', '.join(NAMES)}")
    files, labels, class_names, family_names, parts = listing(source)
    if name in KNOWN:
        classes, count = KNOWN[name][3:5]
        if (len(class_names), len(files)) != (classes, count):
            warnings.warn(
                f"{name} has {len(class_names)} classes and {len(files)} images here, officially {classes} "
                f"and {count}",
                stacklevel=2,
            )
    families = None
    if family_names is not None:
        families = torch.from_numpy(
            np.unique(family_names, return_inverse=True)[1].astype(np.int64)
        )
    images, cached = decoded(source, files, image_size, cache_root)
    every = Split(images, torch.as_tensor(labels), class_names, tuple(files), families)
    if parts is None:
        half = len(class_names) // 2
        train, test = every.of_classes(range(half)), every.of_classes(range(half, len(class_names)))
        return finished(name, source, cached, image_size, train, test)
    train, test, gallery = (every.of_part(parts == part) for part in ("train", "test", "gallery"))
    if set(train.class_names) & set(test.class_names):
        raise StudyError(f"{name}: its official list has classes in both training and test")
    if len(gallery.labels):
        classes = torch.from_numpy(labels[parts == "gallery"]).unique()
        if not torch.equal(classes, torch.from_numpy(labels[parts == "test"]).unique()):
            raise StudyError(
                f"{name}: query and gallery are not of the same classes: fetch its official list anew"
            )
    return finished(
        name, source, cached, image_size, train, test, gallery if len(gallery.labels) else None
    )


def from_arrays(
    images: np.ndarray, labels: np.ndarray, names: tuple, families: np.ndarray
) -> Split:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return Split(
        pixels, torch.from_numpy(labels), names, ("",) * len(labels), torch.from_numpy(families)
    )


def finished(
    name: str,
    source: layouts.Source,
    cached: Path,
    image_size: int,
    train: Split,
    test: Split,
    gallery: Split | None = None,
) -> RetrievalDataset:
    """Check the splits and name their content. ``cached``: the decoded images' file, beside which the fingerprint is kept."""
    for split in (train, test):
        if len(split.class_names) < 2:
            raise StudyError(
                f"{name} has {len(split.class_names)} class(es) in a split: retrieval needs at least 2"
            )
        counts = torch.bincount(split.labels, minlength=len(split.class_names))
        if int(counts.min()) < (2 if gallery is None or split is train else 1):
            few = split.class_names[int(counts.argmin())]
            raise StudyError(
                f"class {few!r} of {name} has {int(counts.min())} image(s): retrieval needs at least 2 of "
                "every class; add images or remove the class"
            )
    splits = {"train": train, "test": test} | ({} if gallery is None else {"gallery": gallery})
    return RetrievalDataset(
        name, train, test, fingerprint(source, cached, image_size, splits), gallery
    )


def fingerprint(
    source: layouts.Source, cached: Path, image_size: int, splits: dict[str, Split]
) -> str:
    """:func:`identity.data_fingerprint`. It reads every file, and so is kept in a .json beside the decoded images, where it counts as
    long as their file, the paths, the labels and the class names do not change."""

    def named(digests: Callable[[tuple[str, ...]], list[str]]) -> str:
        listed = [
            Listed(part, digests(s.paths), s.labels.tolist(), s.class_names)
            for part, s in splits.items()
        ]
        return data_fingerprint(listed, image_size, source.upright)

    stat, note = cached.stat(), cached.with_suffix(".json")
    about = [stat.st_size, stat.st_mtime_ns, named(list)]
    try:
        record = json.loads(note.read_text(encoding="utf-8"))
        if record["about"] == about:
            return str(record["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or torn: read anew
    found = named(
        lambda paths: Parallel(n_jobs=-1, prefer="threads")(
            delayed(sha256)(source.read(path)) for path in paths
        )
    )
    with contextlib.suppress(
        OSError
    ):  # where nothing can be written, the files are read again next time
        write(note, json.dumps({"about": about, "fingerprint": found}))
    return found
