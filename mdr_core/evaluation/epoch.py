"""The evaluation after an epoch: images are embedded, and the embeddings are evaluated."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mdr_core.config import Config
from mdr_core.data import augmentation
from mdr_core.data.dataset import RetrievalDataset, Split
from mdr_core.errors import StudyError
from mdr_core.evaluation import pair_statistics, retrieval
from mdr_core.evaluation.retrieval import RetrievalSet, full_float32
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.regularizer import MDR

Row = dict[str, Any]
EMBED_BATCH = 128  # images embedded at a time
NEIGHBORS = 10  # of each test image, in a run's findings
MANY_CLASSES = 200  # above, numbers by class are not recorded: seeds differ more than classes do
ROOM = 0.4  # of the memory free on a GPU, at most, for the images of a split


def storage_device(size: int, device: torch.device) -> torch.device:
    """Choose GPU or host memory for an image tensor of ``size`` bytes: the GPU if ROOM allows."""
    if device.type != "cuda":
        return device
    reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + reserved  # torch reuses what it has reserved
    return device if size <= ROOM * free else torch.device("cpu")


def training_sample(split: Split, config: Config) -> Split:
    """Return every n-th image, or class if too few of one stay: about ``config.train_images``."""
    every = max(-(-len(split.labels) // config.train_images), 1)
    if len(split.labels) < 2 * every * len(split.class_names):
        return split.of_classes(range(0, len(split.class_names), every))
    return split.of_images(torch.arange(0, len(split.labels), every))


def crops_to_evaluate(
    config: Config, whole: RetrievalDataset, data: RetrievalDataset, batch_indices: Tensor
) -> dict[str, RetrievalSet]:
    """Return the center crops of all that is evaluated after an epoch: they never change.

    ``data`` is the ``whole`` without classes held out; the ``batch`` is of its training images.
    """
    train, batch = training_sample(data.train, config), data.train.of_images(batch_indices)
    splits = {"test": whole.test, "train": train, "batch": batch}
    if config.hold_out:
        splits["held_out"] = data.test
    crop = partial(center_crops, config, device=torch.device(config.device))
    crops = {name: RetrievalSet(crop(some.images), some.labels) for name, some in splits.items()}
    if (gallery := whole.gallery) is not None:
        crops["test"] = RetrievalSet(*crops["test"][:2], crop(gallery.images), gallery.labels)
    return crops


@full_float32()
def center_crops(config: Config, images: Tensor, device: torch.device) -> Tensor:
    """Return center crops (N, 3, crop, crop) uint8 of images, on the storage device."""
    place = storage_device(len(images) * 3 * config.crop**2, device)
    crop = partial(augmentation.center_crop, resize=config.resize, size=config.crop)
    return torch.cat([crop(some.to(device)).to(place) for some in images.split(EMBED_BATCH)])


@full_float32()
@torch.inference_mode()
def embed(model: EmbeddingNet, images: Tensor) -> Tensor:
    """Return the embeddings (N, D) of crops (N, 3, crop, crop), float32 on the CPU."""
    model.eval()
    to = partial(Tensor.to, device=model.pixel_mean.device, memory_format=torch.channels_last)
    embeddings = torch.cat([model(to(some)) for some in images.split(EMBED_BATCH)]).cpu()
    if not torch.isfinite(embeddings).all():
        raise StudyError("the network gives NaN or Inf: lower lr or mdr_weight")
    return embeddings


def embed_split(config: Config, model: EmbeddingNet, split: Split) -> Tensor:
    """Return the embeddings (N, D) of a split's center crops, float32 on the CPU."""
    return embed(model, center_crops(config, split.images, next(model.parameters()).device))


def evaluate(config: Config, model: EmbeddingNet, mdr: MDR, crops: dict[str, RetrievalSet]) -> Row:
    """Return an epoch's row (:func:`epoch_row`), given :func:`crops_to_evaluate`."""
    return epoch_row(config, mdr, {n: x.map(partial(embed, model)) for n, x in crops.items()})


def epoch_row(config: Config, mdr: MDR, embedded: dict[str, RetrievalSet]) -> Row:
    """Return Recall@K in percent, raw and (``_l2``) of L2-normalized embeddings, and statistics.

    ``embedded``: ``test``, ``train``, ``batch`` and maybe ``held_out``. Of ``test`` there are also
    R-precision, MAP@R, numbers by class and distances of classes; of ``batch`` those of
    :mod:`pair_statistics`. A K beyond the images counts all. ValueError: labels that do not fit.
    """
    row: Row = {}
    batch = embedded["batch"]
    retrieval.Ranking(batch, (1,))  # refuses what does not fit together
    for name in [name for name in ("train", "held_out", "test") if name in embedded]:
        raw = embedded[name].map(lambda x: x.to(config.device))
        for suffix, images in (("", raw), ("_l2", raw.map(partial(normalize, dim=1)))):
            most = len(images.query) - 1 if images.gallery is None else len(images.gallery)
            ks = [min(k, most) for k in config.ks]
            scores = retrieval.evaluate(images, ks)
            if name == "test":
                if len(images.labels.unique()) <= MANY_CLASSES:
                    row |= by_class(images.labels, scores, suffix)
                row[f"test_r_precision{suffix}"] = scores.r_precision
                row[f"test_map_at_r{suffix}"] = scores.map_at_r
            row |= {f"{name}_recall@{k}{suffix}": scores.recall[min(k, most)] for k in config.ks}
    row |= pair_statistics.class_distances(raw.query, raw.labels.to(config.device))  # of the test
    margin = config.margin if config.loss == "triplet" else None
    return row | pair_statistics.batch_statistics(*batch[:2], mdr, config.normalization, margin)


def by_class(labels: Tensor, scores: retrieval.Scores, suffix: str) -> Row:
    """Return by class, for a bootstrap, its queries, how many are right, and their sum of AP@R."""
    average_precision = labels.bincount(scores.average_precision.nan_to_num())
    return {
        "test_class_queries": labels.bincount().tolist(),
        f"test_class_right{suffix}": labels.bincount(scores.right.double()).int().tolist(),
        f"test_class_ap_at_r{suffix}": pair_statistics.rounded(average_precision),
    }


def findings(embedded: RetrievalSet) -> dict[str, Tensor]:
    """Return what tables and images of single test images or classes need, in a small file.

    ``centers`` (C, D) of the classes; each query's label, its NEIGHBORS ``nearest`` images (N, K),
    their ``distances`` (N, K), and the rank of the ``first_right`` one, 0: none.
    """
    query, labels, gallery, _ = embedded
    searched, most = (query, len(query) - 1) if gallery is None else (gallery, len(gallery))
    nearest = torch.from_numpy(retrieval.nearest(query, min(NEIGHBORS, most), gallery))
    distances = [(searched[ids] - query).norm(dim=1) for ids in nearest.T]
    return {
        "centers": pair_statistics.centers(query, labels).half(),
        "nearest": nearest.int(),
        "distances": torch.stack(distances, dim=1).half(),
        "first_right": torch.from_numpy(retrieval.first_ranks(*embedded)),
        "labels": labels.int(),
    }
