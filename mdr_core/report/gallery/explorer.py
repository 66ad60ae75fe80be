"""A page in which a reader picks a test image and sees its nearest images under every model.

It is one file: thumbnails, each stored once, text and script. It asks for nothing else.
"""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image
from torch import Tensor

from mdr_core.data.dataset import Split
from mdr_core.errors import StudyError
from mdr_core.report.gallery.static import first_right, hits

MOST = 1_950_000  # bytes of a page
SIZES = (  # edge in pixels and WebP quality of the thumbnails; the first that fits is taken
    (128, 75), (128, 50), (112, 40), (112, 30), (112, 25), (112, 20), (96, 25), (96, 20), (80, 25),
    (80, 15), (64, 20), (64, 5), (48, 5), (32, 5),
)  # fmt: skip


def disagreement(right: np.ndarray) -> np.ndarray:
    """Return (N,) how much the models disagree: on the nearest image, then on how many are right.

    Args:
        right: (M, N, K) whether each of a model's K nearest images is of the query's class.
    """
    first, count = right[:, :, 0], right.sum(axis=2)
    return right.shape[2] * (first.any(0) & ~first.all(0)) + np.ptp(count, axis=0)


def choose(labels: np.ndarray, score: np.ndarray, count: int) -> np.ndarray:
    """Return about ``count`` queries, by class: as many of each, those with the highest score."""
    order = np.lexsort((-score, labels))
    place = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])  # in its class
    each = max(count // len(np.unique(labels)), 1)
    chosen = order[place < each]
    best = chosen[np.argsort(-score[chosen], kind="stable")][: max(count, 1)]
    return best[np.lexsort((-score[best], labels[best]))]


def webp(image: Tensor, edge: int, quality: int) -> str:
    """Return an image (3, S, S) uint8 as WebP in base64, ``edge`` pixels wide at most."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "webp", quality=quality, method=6)
    return base64.b64encode(data.getvalue()).decode()


def thumbnails(images: list[Tensor], most: int) -> list[str]:
    """Return the images by :func:`webp`, in the best of SIZES that fits; none: a StudyError."""
    some = images[:: max(len(images) // 50, 1)]  # an estimate: to encode all takes seconds
    for size in SIZES:
        if sum(len(webp(image, *size)) for image in some) / len(some) * len(images) <= 1.02 * most:
            found = [webp(image, *size) for image in images]
            if sum(map(len, found)) <= most:
                return found
    raise StudyError(f"{len(images)} thumbnails do not fit in {most} bytes: explore fewer queries")


def groups(first: np.ndarray, methods: Iterable[str]) -> tuple[list[dict], np.ndarray]:
    """Return the kinds of queries, by which models have the right image first; and each query's.

    Args:
        first: (M, N) whether the nearest image is right.
    """
    kinds, own, totals = np.unique(first, axis=1, return_inverse=True, return_counts=True)
    found = []
    for kind, total in zip(kinds.T, totals.tolist(), strict=True):
        names = [f"{'✓' if right else '✗'} {m}" for right, m in zip(kind, methods, strict=True)]
        found.append({"name": ", ".join(names), "total": total})
    return found, own.reshape(-1)


def content(
    findings: dict[str, dict[str, Tensor]], queries: Split, searched: Split, top: int, count: int
) -> tuple[dict, list[Tensor]]:
    """Return what the page's script reads, and the images that it shows.

    Args:
        findings: method -> of a run; all of the same test images.
        searched: the images among which the nearest were found.
        top: nearest images shown. count: queries shown, about.
    """
    labels, names = searched.labels.numpy(), queries.class_names
    right = np.stack([hits(found, labels)[:, :top] for found in findings.values()])
    ranks = np.stack([first_right(found, labels) for found in findings.values()])
    own = queries.labels.numpy()
    kinds, kind = groups(right[:, :, 0], findings)
    sizes = np.bincount(own, minlength=len(names))
    recall = [100 * np.bincount(own, first, len(names)) / sizes for first in right[:, :, 0]]
    apart = searched is not queries  # then a query is no image of the gallery
    recorded = min(found["nearest"].shape[1] for found in findings.values())
    place: dict[tuple[bool, int], int] = {}  # (of the gallery, its number) -> its thumbnail
    rows = []
    for query in choose(own, disagreement(right), count).tolist():
        models = []
        for found, rank in zip(findings.values(), ranks[:, query].tolist(), strict=True):
            near = found["nearest"][query, :top].tolist()
            exact = "first_right" in found or rank <= recorded
            models.append({
                "nearest": [place.setdefault((apart, i), len(place)) for i in near],
                "distances": [float(f"{d:.3g}") for d in found["distances"][query, :top]],
                "first": rank if exact else None,
            })  # fmt: skip
        image = place.setdefault((False, query), len(place))
        rows.append({"image": image, "kind": int(kind[query]), "number": query, "models": models})
    images = [(searched if gallery else queries).images[i] for gallery, i in place]
    classes = [(labels if gallery else own)[i] for gallery, i in place]
    about = {
        "methods": list(findings),
        "recorded": recorded,
        "shares": (100 * right[:, :, 0].mean(axis=1)).tolist(),
        "classes": names,
        "sizes": sizes.tolist(),
        "recall": np.round(recall, 1).tolist(),
        "kinds": kinds,
        "queries": rows,
        "classOf": np.array(classes).tolist(),
    }
    return about, images


def page(name: str, profile: str, about: dict, images: list[Tensor]) -> str:
    """Return the page, smaller than MOST, of what :func:`content` gave."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True).get_template("explorer.html.j2")
    small = images[0].shape[-1] < 64  # drawn characters: not to be smoothed
    given = {"name": name, "profile": profile, "about": about, "small": small}
    bare = len(template.render(given, thumbnails=[]).encode())
    room = MOST - bare - 4 * len(images)  # of each its quotes and comma
    return template.render(given, thumbnails=thumbnails(images, room))
