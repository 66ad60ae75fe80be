"""Small things made on the spot: MDR on points in the plane, the zero diagonal's effect, a folder of images to try."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from mdr_core.data import drawn_characters
from mdr_core.data.dataset import RetrievalDataset
from mdr_core.regularizer import MDR, normalize_by_mean_distance, pairwise_distances
from mdr_core.report import tables
from mdr_core.study import statistics

CLASSES, IMAGES = 40, 12  # of the drawn folder


def pull(
    points: int = 40, steps: int = 400, shown=(0, 40, 400), seed: int = 3
) -> tuple[list, list, list[float]]:
    """Gradient descent on L_MDR alone, of points in the plane, with levels fixed at -1, 0 and 1.

    As in training, the points are divided by their mean distance before the loss sees them: L_MDR has no scale of its own.

    Returns:
        (title, points (N, 2)) and normalized distances (P,) at each moment shown, and the levels.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(points, 2, generator=generator).requires_grad_()
    mdr = MDR((-1.0, 0.0, 1.0), learnable=False, statistics="pairs")
    optimizer = torch.optim.Adam([x], lr=0.02)
    moments, distances = [], []
    for step in range(steps + 1):
        scaled = normalize_by_mean_distance(x)
        loss = mdr(scaled)
        if step in shown:
            d = pairwise_distances(scaled.detach())[torch.ones(points, points).triu(1) > 0]
            moments.append((f"step {step}: loss {loss.item():.2f}", scaled.detach().numpy().copy()))
            distances.append(((d - mdr.running_mean) / mdr.running_std).numpy())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return moments, distances, mdr.levels.tolist()


def diagonal(last: pd.DataFrame) -> pd.DataFrame:
    """What the zero diagonal does to mean and deviation, by dataset and method.

    With m and s over the B (B - 1) pairs, the whole B x B matrix has the mean m (B - 1)/B and, unbiased, the variance
    ((B (B - 1) - 1) s^2 + (B - 1) m^2) / (B^2 - 1).

    Args:
        last: a row per run, with ``pair_mean``, ``pair_std`` and ``batch_size``.
    """
    b, m, s = last.batch_size, last.pair_mean, last.pair_std
    mean = m * (b - 1) / b
    std = np.sqrt(((b * (b - 1) - 1) * s**2 + (b - 1) * m**2) / (b**2 - 1))
    columns = {
        "mean, pairs": m,
        "mean, with diagonal": mean,
        "deviation, pairs": s,
        "deviation, with diagonal": std,
        "z of the mean pair": (m - mean) / std,
    }
    wide = last[["dataset", "method"]].assign(**columns)
    rows = [
        {"dataset": dataset, "method": method}
        | {c: tables.said(statistics.interval(group[c]), digits=3) for c in columns}
        for (dataset, method), group in wide.groupby(["dataset", "method"], sort=False)
    ]
    return pd.DataFrame(rows)


def drawn_folder(folder: Path) -> Path:
    """A folder of class folders with drawn characters, CLASSES x IMAGES, and beside it one more image of the last class.

    Written once, whole or not at all; read back afterwards.

    Returns:
        the folder of class folders, ``folder``/images.
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


def new_image(folder: Path, images: RetrievalDataset, drawn: bool) -> Path:
    """An image to look up: the one that :func:`drawn_folder` kept apart, or a copy of the folder's first test image."""
    if drawn:
        return next(iter(sorted((folder.parent / "new" / images.test.class_names[-1]).iterdir())))
    parent = Path(tempfile.mkdtemp()) / images.test.class_names[int(images.test.labels[0])]
    parent.mkdir()
    Image.fromarray(images.test.images[0].permute(1, 2, 0).numpy()).save(
        parent / "first_test_image.png"
    )
    return parent / "first_test_image.png"
