"""Draw the embedded default dataset from a seed: 32x32 stroke characters. No file is needed.

A family is a few strokes (quadratic Bezier curves), which its ten classes bend and shift. An
unsteady hand writes each image: it is turned, scaled and moved, pen, ink, paper and light vary.
"""

import numpy as np
import torch

DRAWING = 1  # the version of this code: raise it when a pixel may change by more than rounding
SIDE = 32
FAMILIES, CLASSES_PER_FAMILY = 30, 10
STROKES = 4
# Standard deviations of control points, of a class and an image, in units of the image's side.
CLASS_STD, IMAGE_STD = 0.085, 0.032
IMAGES = {"pretrain": 20, "train": 10, "test": 20}  # per class


def render(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return one image (SIDE, SIDE, 3), uint8, of each of the (N, STROKES, 3, 2) control points."""
    n = len(points)
    points = points + rng.normal(0, IMAGE_STD, points.shape)
    angle, scale = rng.normal(0, 0.13, n), rng.uniform(0.8, 1.1, (n, 2))
    rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=1)
    turn = rotation.reshape(n, 2, 2) * scale[:, None, :]
    points = np.einsum("nij,nspj->nspi", turn, points - 0.5) + 0.5
    points = points + rng.normal(0, 0.03, (n, 1, 1, 2))
    t = np.linspace(0, 1, 28)[:, None]
    curve = np.concatenate([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)
    ink = np.einsum("tp,nspc->nstc", curve, points).reshape(n, -1, 2).astype(np.float32) * SIDE
    center = np.arange(SIDE, dtype=np.float32) + 0.5
    pen = rng.uniform(0.9, 1.7, (n, 1, 1)).astype(np.float32)
    dark, light = rng.uniform(0, 90, (n, 1, 1, 3)), rng.uniform(150, 255, (n, 1, 1, 3))
    images = np.empty((n, SIDE, SIDE, 3), dtype=np.uint8)
    for few in np.array_split(np.arange(n), max(n // 16, 1)):
        x = (center[None, :, None] - ink[few, None, :, 0]) ** 2
        y = (center[None, :, None] - ink[few, None, :, 1]) ** 2
        nearest = np.sqrt((y[:, :, None] + x[:, None]).min(axis=-1))
        cover = (1 / (1 + np.exp(3 * (nearest - pen[few]))))[..., None]
        noise = rng.normal(0, 9, (len(few), SIDE, SIDE, 1))
        shade = light[few] + (dark[few] - light[few]) * cover + noise
        images[few] = shade.round().clip(0, 255).astype(np.uint8)
    return images


def draw(split: str) -> tuple:
    """Return a Split's fields. 150 classes pretrain (of families 0 to 14), 75 train, 75 test."""
    rng, count = np.random.default_rng([0, 0]), FAMILIES * CLASSES_PER_FAMILY
    family = rng.uniform(0.16, 0.84, (FAMILIES, 1, STROKES, 3, 2))
    change = rng.normal(0, CLASS_STD, (FAMILIES, CLASSES_PER_FAMILY, STROKES, 3, 2))
    points = (family + change).clip(0.08, 0.92).reshape(count, STROKES, 3, 2)  # in 0..1
    number = list(IMAGES).index(split)
    classes = np.split(np.arange(count), [count // 2, count * 3 // 4])[number]
    labels = np.repeat(np.arange(len(classes)), IMAGES[split])
    images = render(points[classes[labels]], np.random.default_rng([0, number + 1]))
    places = (divmod(c, CLASSES_PER_FAMILY) for c in classes)
    names = tuple(f"family {family:02d}, character {character}" for family, character in places)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return pixels, torch.from_numpy(labels), names, ("",) * len(labels)
