"""A folder of drawn characters, for readers who have no images of their own."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mdr_core.data import drawn_characters
from mdr_core.data.dataset import Split

CLASSES, IMAGES = 40, 12


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


def new_image(folder: Path, test: Split, drawn: bool) -> Path:
    """Return an image to look up: one that :func:`make` kept apart, or a copy of a test image."""
    if drawn:
        return sorted((folder.parent / "new" / test.class_names[-1]).iterdir())[0]
    parent = Path(tempfile.mkdtemp()) / test.class_names[int(test.labels[0])]
    parent.mkdir(parents=True)  # a class may be a path
    path = parent / "first_test_image.png"
    Image.fromarray(test.images[0].permute(1, 2, 0).numpy()).save(path)
    return path
