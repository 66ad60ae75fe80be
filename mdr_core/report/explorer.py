"""A page in which a reader picks a test image and sees its nearest images under every model.

It is one file: thumbnails, each stored once, text and script. It asks for nothing else.
"""

import base64
import contextlib
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mdr_core.config import Config
from mdr_core.data.dataset import Split
from mdr_core.errors import StudyError
from mdr_core.report.page import TEMPLATES
from mdr_core.runs import facts, local

MOST = 720_000  # bytes of a page
SIZES = (128, 75), (128, 50), (112, 35), (112, 25), (96, 20), (80, 15), (64, 5)  # edge, quality
Findings = dict[str, dict[str, Tensor]]  # method -> of a run


def explorer(
    name: str, findings: Findings, queries: Split, searched: Split, count: int = 100, top: int = 5
) -> str:
    """Return the page, of at most MOST bytes; StudyError: so many images do not fit.

    It shows ``count`` queries, by class, on which the models disagree most, and the ``top`` nearest
    of the images ``searched``.
    """
    own, near = queries.labels, torch.stack([each["nearest"].long() for each in findings.values()])
    right = (searched.labels[near] == own[:, None]).numpy()  # (methods, queries, images recorded)
    ranks = np.where(right.any(axis=2), right.argmax(axis=2) + 1, 0)
    place: dict[tuple[bool, int], int] = {}  # (whether a query, its number) -> its thumbnail
    rows, same = list[dict](), searched is queries
    for number in choose(own.numpy(), right[:, :, :top], count).tolist():
        image, nearest = place.setdefault((True, number), len(place)), near[:, number].tolist()
        below = [[place.setdefault((same, i), len(place)) for i in each[:top]] for each in nearest]
        first = ranks[:, number].tolist()
        rows.append({"number": number, "image": image, "nearest": below, "first": first})
    shown = [(queries if asked else searched, number) for asked, number in place]
    given = {
        "name": name, "methods": [*findings], "classes": queries.class_names, "queries": rows,
        "classOf": [int(split.labels[number]) for split, number in shown],
        "recorded": near.shape[2], "shares": (100 * (ranks == 1).mean(axis=1)).tolist(),
        "total": len(own), "small": queries.images.shape[-1] < 64,  # drawn: not to be smoothed
    }  # fmt: skip
    template = TEMPLATES.get_template("explorer.html.j2")
    room = MOST - len(template.render(about=given, thumbnails=[]).encode()) - 4 * len(shown)
    found = thumbnails([split.images[number] for split, number in shown], room)
    return template.render(about=given, thumbnails=found)


def choose(labels: np.ndarray, right: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` queries, by class: where the models disagree on ``right`` (M, N, K)."""
    first = right[:, :, 0]
    score = 10 * (first.any(axis=0) & ~first.all(axis=0)) + np.ptp(right.sum(axis=2), axis=0)
    order = np.lexsort((-score, labels))
    place = np.arange(len(labels)) - np.searchsorted(labels[order], labels[order])  # in its class
    chosen = order[place < max(count // len(np.unique(labels)), 1)]
    return chosen[np.sort(np.argsort(-score[chosen], kind="stable")[:count])]


def thumbnails(images: list[Tensor], most: int) -> list[str]:
    """Return images (3, S, S) as WebP in base64, in the first of SIZES that fits ``most``."""
    for size in SIZES:
        some = sum(len(webp(image, *size)) for image in images[::20])  # to encode all takes seconds
        if 19 * some < most and sum(map(len, found := [webp(i, *size) for i in images])) <= most:
            return found
    raise StudyError(f"{len(images)} thumbnails do not fit in {most} bytes: show fewer queries")


def webp(image: Tensor, edge: int, quality: int) -> str:
    data, picture = io.BytesIO(), Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.thumbnail((edge, edge), Image.Resampling.LANCZOS)
    picture.save(data, "webp", quality=quality, method=4)
    return base64.b64encode(data.getvalue()).decode()


def images_of(record: local.Record) -> tuple[Split, Split, bool]:
    """Return a run's test images, those searched, and whether they are here; else gray tiles."""
    config, copy = Config(**record["config"]), record["provenance"]["data"]
    with contextlib.suppress(StudyError):
        if (data := local.dataset(config)).fingerprint == copy:
            return data.test, data.gallery or data.test, True
    about = facts.about(config.dataset, copy)
    labels = (local.tensors(record, "findings") or {}).get("labels")
    if about is None or labels is None or "gallery" in about["images"]:
        raise StudyError(f"the images of {config.dataset} that the run evaluated are not here")
    images = torch.full((1, 3, 128, 128), 221, dtype=torch.uint8).expand(len(labels), -1, -1, -1)
    split = Split(images, labels.long(), tuple(about["test_classes"]), ("",) * len(labels))
    return split, split, False
