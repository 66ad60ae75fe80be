"""A folder of images for readers who have none of their own: photographs, or drawn."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mdr_core.data import drawn_characters
from mdr_core.data.dataset import RetrievalDataset, Split
from mdr_core.data.folders import unpacked
from mdr_core.files import data_roots

CLASSES, IMAGES = 100, 12  # training on 20 of 40 lowered Recall@1 on held-out classes


def make(folder: Path) -> Path:
    """Return ``folder``/images, class folders with CLASSES x IMAGES drawn characters.

    Each class has one more image in ``folder``/new. The folder is written once, or not at all.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".drawn"))
        points, _ = drawn_characters.control_points(seed=1)
        labels = np.repeat(np.arange(CLASSES), IMAGES + 1)
        images = drawn_characters.render(points[labels], np.random.default_rng([1, 9]))
        for place, (image, label) in enumerate(zip(images, labels, strict=True)):
            number = place % (IMAGES + 1)
            parent = partial / ("images" if number < IMAGES else "new") / f"character {label:02d}"
            parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(parent / f"{number:02d}.png")
        try:
            partial.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return folder / "images"


def example(name: str) -> Path | None:
    """Return a profile's folder (or zip file) of photographs; None where it is not here."""
    places = [root / name for root in data_roots()] if name else []
    return next((place for place in places if place.exists()), None)


def new_image(
    folder: Path, images: RetrievalDataset, drawn: bool, given: Path | None = None
) -> tuple[Path, str, Split]:
    """Return an image to look up, its class if the folder says it, and the test images without it.

    It is the one ``given``, or one that :func:`make` kept apart, or else the first test image.
    """
    test, folder = images.test, unpacked(folder)
    if drawn and given is None:
        own = test.class_names[-1]
        return sorted((folder.parent / "new" / own).iterdir())[0], own, test
    given = given or folder / test.paths[0]
    place, classes = given.resolve(), dict[Path, str]()
    for split in (images.train, test):
        paths = [(folder / path).resolve() for path in split.paths]
        names = [split.class_names[label] for label in split.labels.tolist()]
        classes |= dict(zip(paths, names, strict=True))
    others = [i for i, path in enumerate(paths) if path != place]
    return given, classes.get(place, ""), test.of_images(torch.tensor(others))
