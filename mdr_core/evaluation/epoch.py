"""The evaluation after an epoch: images are embedded, and the embeddings are evaluated."""

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from mdr_core.config import Config
from mdr_core.data import augmentation
from mdr_core.data.dataset import RetrievalDataset, Split
from mdr_core.errors import StudyError
from mdr_core.evaluation import class_centers, pair_statistics, retrieval
from mdr_core.evaluation.full_float32 import full_float32
from mdr_core.evaluation.retrieval import RetrievalSet
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.regularizer import MDR

EMBED_BATCH = 128  # images embedded at a time
NEIGHBORS = 10  # of each test image, in a run's findings
ROOM = 0.4  # of the memory free on a GPU, at most, for the images of a split


def storage_device(size: int, device: torch.device) -> torch.device:
    """Choose GPU or host memory for an image tensor of ``size`` bytes: the GPU if ROOM allows."""
    if device.type != "cuda":
        return device
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + reserved  # torch reuses what it has reserved
    return device if size <= ROOM * free else torch.device("cpu")


def training_sample(split: Split, config: Config) -> Split:
    """Return every n-th image, about ``config.train_images``; or all of every n-th class.

    The latter where every n-th image would leave fewer than two of a class.
    """
    every = max(-(-len(split.labels) // config.train_images), 1)
    if len(split.labels) < 2 * every * len(split.class_names):
        return split.of_classes(range(0, len(split.class_names), every))
    return split.of_images(torch.arange(0, len(split.labels), every))


def crops_to_evaluate(
    config: Config, whole: RetrievalDataset, data: RetrievalDataset, batch_indices: Tensor
) -> dict[str, RetrievalSet]:
    """Return the center crops of all that is evaluated after an epoch: they never change.

    Args:
        whole: the dataset; data: the same where some of its training classes are held out.
        batch_indices: of training images, the ``batch``.
    """
    splits = {"test": whole.test, "train": training_sample(data.train, config)}
    splits["batch"] = data.train.of_images(batch_indices)
    if config.hold_out:
        splits["held_out"] = data.test
    images = {name: RetrievalSet(split.images, split.labels) for name, split in splits.items()}
    if (gallery := whole.gallery) is not None:
        images["test"] = RetrievalSet(*images["test"][:2], gallery.images, gallery.labels)
    crop = partial(center_crops, config, device=torch.device(config.device))
    return {name: some.map(crop) for name, some in images.items()}


@full_float32()
def center_crops(config: Config, images: Tensor, device: torch.device) -> Tensor:
    """Return center crops (N, 3, crop, crop) uint8 of images, on the storage device."""
    place = storage_device(len(images) * 3 * config.crop**2, device)
    sizes = config.resize, config.crop
    batches = images.split(EMBED_BATCH)
    return torch.cat([augmentation.center_crop(x.to(device), *sizes).to(place) for x in batches])


@full_float32()
@torch.inference_mode()
def embed(model: EmbeddingNet, images: Tensor) -> Tensor:
    """Return the embeddings (N, D) of crops (N, 3, crop, crop), float32 on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    last = torch.channels_last
    batches = (x.to(device).contiguous(memory_format=last) for x in images.split(EMBED_BATCH))
    embeddings = torch.cat([model(batch) for batch in batches]).cpu()
    if not torch.isfinite(embeddings).all():
        raise StudyError("the network gives NaN or Inf: lower lr or mdr_weight")
    return embeddings


def embed_split(config: Config, model: EmbeddingNet, split: Split) -> Tensor:
    """Return the embeddings (N, D) of a split's center crops, float32 on the CPU."""
    return embed(model, center_crops(config, split.images, next(model.parameters()).device))


def evaluate(
    config: Config, model: EmbeddingNet, mdr: MDR, crops: dict[str, RetrievalSet]
) -> dict[str, Any]:
    """Return an epoch's row (:func:`epoch_row`), given :func:`crops_to_evaluate`."""
    return epoch_row(config, mdr, {n: x.map(partial(embed, model)) for n, x in crops.items()})


def epoch_row(config: Config, mdr: MDR, embedded: dict[str, RetrievalSet]) -> dict[str, Any]:
    """Return Recall@K in percent, raw and (``_l2``) of L2-normalized embeddings, and statistics.

    For the test images it also has R-precision, MAP@R, numbers by class and class distances; for
    one batch of training images :func:`pair_statistics.batch_statistics`. A K beyond the images
    that are searched counts all of them.

    Args:
        embedded: embeddings of ``test``, ``train``, ``batch`` and maybe ``held_out`` images.

    Raises:
        ValueError: embeddings and labels of any of them do not fit together.
    """
    row: dict[str, Any] = {}
    test, batch = embedded["test"], embedded["batch"]
    retrieval.Ranking(batch, (1,))  # refuses what does not fit together
    train_labels = embedded["train"].labels
    each = round(len(train_labels) / len(train_labels.unique()))  # images of a training class
    for name in [name for name in ("train", "held_out", "test") if name in embedded]:
        for suffix, images in raw_and_l2(embedded[name].map(lambda x: x.to(config.device))):
            most = len(images.query) - 1 if images.gallery is None else len(images.gallery)
            ks = [min(k, most) for k in config.ks]
            if name == "test":
                scores = retrieval.evaluate(images, ks)
                row |= by_class(images.labels, scores, suffix)
                row[f"test_r_precision{suffix}"] = scores.r_precision
                row[f"test_map_at_r{suffix}"] = scores.map_at_r
                row[f"test_matched_recall@1{suffix}"] = matched_recall(images, each)
            recall = scores.recall if name == "test" else retrieval.recall_at_k(*images[:2], ks)
            pairs = zip(config.ks, ks, strict=True)
            row |= {f"{name}_recall@{k}{suffix}": recall[within] for k, within in pairs}
    queries = test.query.to(config.device), test.labels.to(config.device)
    apart = class_centers.class_distances(*queries)
    row |= {f"centres_{key}": value for key, value in apart.items()}
    within_classes = class_centers.within_class_distances(*queries)
    row |= {f"within_class_{key}": values for key, values in within_classes.items()}
    if config.loss != "classification":
        margin = config.margin if config.loss == "triplet" else None
        row |= pair_statistics.batch_statistics(
            batch.query, batch.labels, copy.deepcopy(mdr).cpu(), config.normalization, margin
        )
    return row


def raw_and_l2(images: RetrievalSet) -> tuple[tuple[str, RetrievalSet], ...]:
    """Return the suffix and the embeddings of both ways to evaluate them."""
    return ("", images), ("_l2", images.map(lambda x: normalize(x, dim=1)))


def evenly(labels: Tensor, each: int) -> Tensor:
    """Return the indices, in order, of ``each`` images of every class (or all), at equal steps."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    place, count = torch.arange(len(labels)) - first[labels[order]], counts[labels[order]]
    kept = (count <= each) | ((place + 1) * each // count > place * each // count)
    return order[kept].sort().values


def matched_recall(images: RetrievalSet, each: int) -> float:
    """Return Recall@1 in percent with ``each`` images of a class, the query included.

    Test images are then searched among as many of a class as training images are.
    """
    if images.gallery is None:  # these images are the queries as well
        some = evenly(images.labels, each)
        some_images = RetrievalSet(images.query[some], images.labels[some])
    else:
        some = evenly(images.gallery_labels, max(each - 1, 1))
        some_images = RetrievalSet(*images[:2], images.gallery[some], images.gallery_labels[some])
    return 100.0 * float((retrieval.first_ranks(*some_images) == 1).mean())


def by_class(labels: Tensor, scores: retrieval.Scores, suffix: str) -> dict[str, list]:
    """Return, by test class, what a bootstrap over the classes needs.

    ``test_class_queries``: the queries; ``test_class_right``: those whose nearest image is of their
    class; ``test_class_ap_at_r``: the sum of the queries' AP@R.
    """
    average_precision = torch.from_numpy(np.nan_to_num(scores.average_precision))
    right = labels.bincount(torch.from_numpy(scores.right.astype(float)))
    return {
        "test_class_queries": labels.bincount().tolist(),
        f"test_class_right{suffix}": right.int().tolist(),
        f"test_class_ap_at_r{suffix}": pair_statistics.rounded(labels.bincount(average_precision)),
    }


def without_by_class(row: dict) -> dict:
    """Return an epoch's row without the values of :func:`by_class`."""
    return {name: value for name, value in row.items() if not name.startswith("test_class_")}


def findings(embedded: RetrievalSet) -> dict[str, Tensor]:
    """Return what tables and images of single test images or classes need, in a small file.

    Returns:
        ``centers`` (C, D) float16, the class means; ``labels`` (N,) int32; ``nearest`` (N, K)
        int32, the NEIGHBORS nearest gallery images; ``distances`` (N, K) float16, theirs;
        ``first_right`` (N,) int32, the rank of the first image of the query's class, 0: none.
    """
    query, labels, gallery, _ = embedded
    searched, most = (query, len(query) - 1) if gallery is None else (gallery, len(gallery))
    nearest = torch.from_numpy(retrieval.nearest(query, min(NEIGHBORS, most), gallery))
    batches = zip(nearest.split(EMBED_BATCH), query.split(EMBED_BATCH), strict=True)
    distances = [(searched[ids] - some[:, None]).norm(dim=2) for ids, some in batches]
    return {
        "centers": class_centers.centers(query, labels).half(),
        "nearest": nearest.int(),
        "distances": torch.cat(distances).half(),
        "first_right": torch.from_numpy(retrieval.first_ranks(*embedded)),
        "labels": labels.int(),
    }
