"""The embedded default: 32x32 stroke characters, drawn by the program from a seed. No file is needed.

A family is a handful of strokes (quadratic Bezier curves); its ten classes bend and shift those strokes in ways of
their own; an image of a class is written by an unsteady hand: control points jitter, the character is turned, scaled
and moved, pen, ink, paper and light vary. So classes of one family look alike and a network has something to learn.
"""

from collections.abc import Sequence

import numpy as np

SIDE = 32
FAMILIES, CLASSES_PER_FAMILY = 30, 10
STROKES = 4
CLASS_SPREAD = (
    0.085  # how far a class moves its family's control points, in units of the image's side
)
HAND_SPREAD = 0.032  # how far an image moves its class's control points


def characters(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Control points (300, STROKES, 3, 2) in 0..1 of all classes, and the family (300,) of each."""
    rng = np.random.default_rng([seed, 0])
    family = rng.uniform(0.16, 0.84, (FAMILIES, 1, STROKES, 3, 2))
    change = rng.normal(0, CLASS_SPREAD, (FAMILIES, CLASSES_PER_FAMILY, STROKES, 3, 2))
    points = (family + change).clip(0.08, 0.92).reshape(-1, STROKES, 3, 2)
    return points, np.repeat(np.arange(FAMILIES), CLASSES_PER_FAMILY)


def write(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One image of each row of control points.

    Args:
        points: (N, STROKES, 3, 2).

    Returns:
        (N, SIDE, SIDE, 3) uint8.
    """
    n = len(points)
    points = points + rng.normal(0, HAND_SPREAD, points.shape)
    angle, scale = rng.normal(0, 0.13, n), rng.uniform(0.8, 1.1, (n, 2))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1).reshape(
        n, 2, 2
    )
    turn = turn * scale[:, None, :]
    points = (
        np.einsum("nij,nspj->nspi", turn, points - 0.5) + 0.5 + rng.normal(0, 0.03, (n, 1, 1, 2))
    )
    t = np.linspace(0, 1, 28)[:, None]
    curve = np.concatenate([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)
    ink = np.einsum("tp,nspc->nstc", curve, points).reshape(n, -1, 2).astype(np.float32) * SIDE
    centre = np.arange(SIDE, dtype=np.float32) + 0.5
    pen = rng.uniform(0.9, 1.7, (n, 1, 1)).astype(np.float32)
    dark, light = rng.uniform(0, 90, (n, 1, 1, 3)), rng.uniform(150, 255, (n, 1, 1, 3))
    images = np.empty((n, SIDE, SIDE, 3), dtype=np.uint8)
    for part in np.array_split(np.arange(n), max(n // 16, 1)):
        x = (centre[None, :, None] - ink[part, None, :, 0]) ** 2
        y = (centre[None, :, None] - ink[part, None, :, 1]) ** 2
        nearest = np.sqrt((y[:, :, None] + x[:, None]).min(axis=-1))
        cover = (1 / (1 + np.exp(3 * (nearest - pen[part]))))[..., None]
        shade = (
            light[part]
            + (dark[part] - light[part]) * cover
            + rng.normal(0, 9, (len(part), SIDE, SIDE, 1))
        )
        images[part] = shade.round().clip(0, 255).astype(np.uint8)
    return images


IMAGES = {"pretrain": 20, "train": 10, "test": 20}  # per class


def draw(wanted: Sequence[str] = tuple(IMAGES), seed: int = 0) -> dict[str, tuple]:
    """The classes in three disjoint parts: 150 to pretrain on (families 0-14), 75 to train on, 75 to test on.

    Training and test classes come from families of their own (15 to 22, and 22 to 29): of the families in testing, one
    has been seen by five other classes.

    Args:
        wanted: the parts to draw; each has random numbers of its own, and so is the same whichever others are drawn.

    Returns:
        part -> (images (N, 32, 32, 3) uint8, labels (N,), class names, families of the classes).
    """
    points, family = characters(seed)
    member = np.arange(len(family)) % CLASSES_PER_FAMILY
    half, three_quarters = len(family) // 2, len(family) * 3 // 4
    classes = np.arange(len(family))
    parts = {
        "pretrain": classes[:half],
        "train": classes[half:three_quarters],
        "test": classes[three_quarters:],
    }
    result = {}
    for number, (name, classes) in enumerate(parts.items(), start=1):
        if name not in wanted:
            continue
        rng = np.random.default_rng([seed, number])
        labels = np.repeat(np.arange(len(classes)), IMAGES[name])
        names = tuple(f"family {family[c]:02d}, character {member[c]}" for c in classes)
        result[name] = (write(points[classes[labels]], rng), labels, names, family[classes])
    return result
