"""Retrieval datasets: training classes and test classes, disjoint, the images held as bytes.

Official layouts (CUB-200-2011, Stanford Cars) are read as they come, from a folder or straight from a zip file; any
folder of class folders will do as well. Images are decoded once and kept as one memory-mapped array.
"""

import hashlib
import json
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from mdr_core import drawn, layouts
from mdr_core.errors import StudyError

REPOSITORY = Path(__file__).resolve().parent.parent

# name: zip files and folders to look for, the layout's reader, official classes and images, where to get it
KNOWN = {
    "cub50": (("cub50",), layouts.cub, 50, 2889, "the first 50 classes of CUB-200-2011"),
    "cub_mini": (("cub_mini",), layouts.cub, 10, 294, "ten classes of CUB-200 in CUB-200-2011's layout"),
    "cub200": (("cub200", "CUB_200_2011"), layouts.cub, 200, 11788, "CUB-200-2011, vision.caltech.edu"),
    "cars196_train": (("cars196_train", "stanford_cars"), layouts.cars_train, 196, 8144,
                      "the training half of Stanford Cars"),
    "cars196": (("cars196", "stanford_cars"), layouts.cars, 196, 16185, "Stanford Cars, ai.stanford.edu"),
    "cifar100-a": (("cifar100-a", "cifar100"), layouts.folder, 50, 25000, "a folder of class folders"),
}
NAMES = ("drawn", "drawn_pretraining", *KNOWN, "folder:PATH")


@dataclass(frozen=True)
class Split:
    """Images of some classes.

    Attributes:
        images: (N, 3, S, S) uint8, RGB, channels last in memory.
        labels: (N,) int64, 0 ... C - 1.
        class_names: C names.
        paths: N, each image's path inside its dataset (empty for drawn images).
        families: (C,) a coarser group of each class: a bird's last word, a car's make, a character's family.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    paths: tuple[str, ...]
    families: tuple[str, ...]

    def of_classes(self, classes: range) -> "Split":
        """The images of a range of classes, labelled from 0 again."""
        keep = (self.labels >= classes.start) & (self.labels < classes.stop)
        where = keep.nonzero().flatten()
        return Split(
            self.images[where], self.labels[where] - classes.start, self.class_names[classes.start : classes.stop],
            tuple(self.paths[i] for i in where.tolist()), self.families[classes.start : classes.stop],
        )


@dataclass(frozen=True)
class RetrievalDataset:
    """Training split, test split (each test image is a query against all others), and a hash of their content."""

    name: str
    train: Split
    test: Split
    fingerprint: str

    def hold_out(self, count: int) -> "RetrievalDataset":
        """The last ``count`` training classes in the test split's place: the test classes are not seen."""
        classes = len(self.train.class_names)
        if not 2 <= count <= classes - 2:
            raise StudyError(f"hold_out must leave at least 2 of the {classes} training classes on either side, got {count}")
        return replace(self, train=self.train.of_classes(range(classes - count)),
                       test=self.train.of_classes(range(classes - count, classes)))


def load(name: str, data_root: str | Path | None = None, image_size: int = 128) -> RetrievalDataset:
    """A dataset by name; the first half of its classes train, the second half test (the protocol's split).

    Args:
        name: one of NAMES.
        data_root: where the files lie; else ``MDR_DATA_ROOT``, else ``../shared/data`` or ``data`` beside the study.
        image_size: images are resized to this square (Lanczos); drawn characters are always 32.

    Raises:
        StudyError: unknown name, absent dataset, an image that cannot be decoded, a class with too few images.
    """
    if name in ("drawn", "drawn_pretraining"):
        parts = {part: from_arrays(*arrays) for part, arrays in drawn.draw().items()}
        if name == "drawn":
            return finished(name, parts["train"], parts["test"])
        every, images = parts["pretrain"], np.arange(len(parts["pretrain"].labels))
        return finished(name, pick(every, images % 5 > 0), pick(every, images % 5 == 0))
    if name.startswith("folder:"):
        source, listing = layouts.open_source(Path(name.removeprefix("folder:")).expanduser()), layouts.folder
    elif name in KNOWN:
        source, listing = find(name, data_root), KNOWN[name][1]
    else:
        raise StudyError(f"unknown dataset {name!r}: choose one of {', '.join(NAMES)}")
    files, labels, class_names, families = listing(source)
    if name in KNOWN:
        classes, count = KNOWN[name][2:4]
        if (len(class_names), len(files)) != (classes, count):
            warnings.warn(f"{name} has {len(class_names)} classes and {len(files)} images here, officially {classes} "
                          f"and {count}", stacklevel=2)
    every = Split(decoded(source, files, image_size), torch.as_tensor(labels), class_names, tuple(files), families)
    half = len(class_names) // 2
    return finished(name, every.of_classes(range(half)), every.of_classes(range(half, len(class_names))))


def from_arrays(images: np.ndarray, labels: np.ndarray, names: tuple, families: np.ndarray) -> Split:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return Split(pixels, torch.from_numpy(labels), names, ("",) * len(labels), tuple(f"family {f:02d}" for f in families))


def pick(split: Split, keep: np.ndarray) -> Split:
    where = np.flatnonzero(keep)
    return replace(split, images=split.images[where], labels=split.labels[where], paths=tuple(split.paths[i] for i in where))


def finished(name: str, train: Split, test: Split) -> RetrievalDataset:
    """Check both splits and hash them."""
    digest = hashlib.sha256()
    for split in (train, test):
        if len(split.class_names) < 2:
            raise StudyError(f"{name} has {len(split.class_names)} class(es) in a split: retrieval needs at least 2")
        counts = torch.bincount(split.labels, minlength=len(split.class_names))
        if int(counts.min()) < 2:
            few = split.class_names[int(counts.argmin())]
            raise StudyError(f"class {few!r} of {name} has {int(counts.min())} image(s): retrieval needs at least 2 of "
                             "every class; add images or remove the class")
        digest.update(split.images.permute(0, 2, 3, 1).contiguous().numpy().data)
        digest.update(split.labels.numpy().tobytes())
        digest.update("\n".join(split.class_names).encode())
    return RetrievalDataset(name, train, test, digest.hexdigest())


def find(name: str, data_root: str | Path | None) -> layouts.Source:
    """The dataset's zip file or folder under the data root."""
    stems, *_, origin = KNOWN[name]
    given = data_root or os.environ.get("MDR_DATA_ROOT")
    roots = [Path(given)] if given else [REPOSITORY.parent / "shared" / "data", REPOSITORY / "data"]
    for root in roots:
        for stem in stems:
            for candidate in (root / f"{stem}.zip", root / stem):
                if candidate.exists():
                    return layouts.open_source(candidate)
    wanted = " or ".join(f"{stem}.zip or {stem}/" for stem in stems)
    raise StudyError(f"dataset {name} is not here: looked for {wanted} in {' and '.join(map(str, roots))}; it is {origin}: "
                     "put it there, or set MDR_DATA_ROOT or the parameter data_root to its folder")


def decoded(source: layouts.Source, files: list[str], size: int) -> Tensor:
    """All images, decoded and resized once: (N, 3, size, size) uint8, channels last, from a memory-mapped array."""
    key = hashlib.sha256(json.dumps([size, [(f, *source.stamp(f)) for f in files]]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("MDR_CACHE", REPOSITORY / ".cache")) / "decoded"
    path = folder / f"{key}-{size}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        jobs = Parallel(n_jobs=-1, prefer="threads", return_as="generator")(delayed(decode)(source, f, size) for f in files)
        images = np.stack(list(tqdm(jobs, total=len(files), desc="decoding", disable=len(files) < 2000, leave=False)))
        partial = path.with_suffix(f".{os.getpid()}.tmp")
        with open(partial, "wb") as out:
            np.save(out, images)
        os.replace(partial, path)
    return torch.from_numpy(np.array(np.load(path, mmap_mode="r"))).permute(0, 3, 1, 2)


def decode(source: layouts.Source, file: str, size: int) -> np.ndarray:
    """One image, RGB, resized with Lanczos to (size, size, 3) uint8."""
    try:
        with warnings.catch_warnings(), Image.open(source.open(file)) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))
    except Exception as problem:
        raise StudyError(f"{source.path}: {file} cannot be decoded ({type(problem).__name__}): replace or remove it") from None
