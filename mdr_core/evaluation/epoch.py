"""The evaluation after an epoch: images are embedded, and the embeddings are evaluated.

Recall, distances of a batch and the gradients on them (Figures 1 and 2), and of classes (Figure 3).
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mdr_core.config import Config
from mdr_core.data import augmentation
from mdr_core.data.dataset import RetrievalDataset, Split
from mdr_core.errors import StudyError
from mdr_core.evaluation import retrieval
from mdr_core.evaluation.retrieval import RetrievalSet, full_float32
from mdr_core.losses import triplets
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.regularizer import normalize_by_mean_distance, pairwise_distances

Row = dict[str, Any]
EMBED_BATCH = 128  # images embedded at a time
NEIGHBORS = 10  # of each test image, in a run's findings
MANY_CLASSES = 200  # above, numbers by class are not recorded: seeds differ more than classes do
ROOM = 0.4  # of the memory free on a GPU, at most, for the images of a split
BINS, FARTHEST = 128, 2.0  # of the histograms of distances over their mean, over [0, FARTHEST]
DECILES = 10
DRAWS = 16  # of negatives, over which the triplet loss's gradient is averaged
MOST_CLASSES, MOST_IMAGES = 500, 1500  # looked at, evenly spread; more would only take longer


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
    splits = {"train": train, "batch": batch} | ({"held_out": data.test} if config.hold_out else {})
    sets = {name: RetrievalSet(some.images, some.labels) for name, some in splits.items()}
    crop = partial(center_crops, config, device=torch.device(config.device))
    return {name: some.map(crop) for name, some in (sets | {"test": queries(whole)}).items()}


def queries(data: RetrievalDataset) -> RetrievalSet:
    """Return the test images, and the gallery in which they are searched, if there is one."""
    gallery = () if data.gallery is None else (data.gallery.images, data.gallery.labels)
    return RetrievalSet(data.test.images, data.test.labels, *gallery)


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


def embed_images(config: Config, model: EmbeddingNet, images: Tensor) -> Tensor:
    """Return the embeddings (N, D) of images' center crops, float32 on the CPU."""
    return embed(model, center_crops(config, images, model.pixel_mean.device))


def evaluate(config: Config, model: EmbeddingNet, crops: dict[str, RetrievalSet]) -> Row:
    """Return Recall@K in percent, raw and (``_l2``) of L2-normalized embeddings, and statistics.

    ``crops``: of :func:`crops_to_evaluate`. Of ``test`` there are also R-precision, MAP@R, numbers
    by class and distances of classes; of ``batch`` those of :func:`batch_statistics`. A K beyond
    the images counts all. ValueError: labels that do not fit.
    """
    row: Row = {}
    embedded = {name: some.map(partial(embed, model)) for name, some in crops.items()}
    batch = embedded["batch"]
    retrieval.Ranking(batch, (1,))  # refuses what does not fit together
    for name in [name for name in ("train", "held_out", "test") if name in embedded]:
        raw = embedded[name].map(lambda x: x.to(config.device))
        for suffix, images in (("", raw), ("_l2", raw.map(partial(normalize, dim=1)))):
            if name == "test":
                ranks = (scores := retrieval.evaluate(images)).ranks
                if len(images.labels.unique()) <= MANY_CLASSES:
                    row |= by_class(images.labels, scores, suffix)
                row[f"test_r_precision{suffix}"] = scores.r_precision
                row[f"test_map_at_r{suffix}"] = scores.map_at_r
            else:
                ranks = retrieval.first_ranks(*images)
            recall = retrieval.recall(ranks, config.ks)
            row |= {f"{name}_recall@{k}{suffix}": value for k, value in recall.items()}
    row |= class_distances(raw.query, raw.labels.to(config.device))  # of the test
    return row | batch_statistics(config, *batch[:2])


def by_class(labels: Tensor, scores: retrieval.Scores, suffix: str) -> Row:
    """Return by class, for a bootstrap, its queries, how many are right, and their sum of AP@R."""
    right, ap = torch.from_numpy(scores.ranks == 1), scores.average_precision.nan_to_num()
    return {
        "test_class_queries": labels.bincount().tolist(),
        f"test_class_right{suffix}": labels.bincount(right.double()).int().tolist(),
        f"test_class_ap_at_r{suffix}": rounded(labels.bincount(ap)),
    }


def findings(embedded: RetrievalSet) -> dict[str, Tensor]:
    """Return what tables and images of single test images or classes need, in a small file.

    ``centers`` (C, D) of the classes; each query's label, and its NEIGHBORS ``nearest`` images.
    """
    query, labels, gallery, _ = embedded
    most = len(query) - 1 if gallery is None else len(gallery)
    nearest = torch.from_numpy(retrieval.nearest(query, min(NEIGHBORS, most), gallery))
    middles = centers(query, labels)
    return {"centers": middles.half(), "nearest": nearest.int(), "labels": labels.int()}


@torch.no_grad()
def batch_statistics(config: Config, embeddings: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return the distances and gradients of one batch (B, D), labels (B,), before normalization.

    Returns:
        ``pair_mean``, ... of distances of pairs i < j; ``..._histogram``: by distance over
        ``pair_mean``, the last bin holding all beyond. Of the triplet loss also
        ``gradient_positive``, ``gradient_negative``: what each decile of these pairs, nearest
        first, adds to the sum of ``|dL/dd_ij|``.
    """
    divided = config.normalization == "mean_distance"
    x = normalize_by_mean_distance(embeddings) if divided else embeddings
    d = pairwise_distances(x)
    upper = torch.ones_like(d, dtype=torch.bool).triu(1)
    same = labels[:, None] == labels[None, :]
    pairs = d[upper]
    kinds = {"positive": d[upper & same], "negative": d[upper & ~same]}
    row: dict[str, Any] = {"pair_mean": pairs.mean().item(), "pair_std": pairs.std().item()}
    for name, values in kinds.items():
        row[f"{name}_mean"] = values.mean().item()
        relative = (values / pairs.mean()).clamp(0, FARTHEST)
        row[f"{name}_histogram"] = relative.histc(BINS, 0, FARTHEST).int().tolist()
    if config.loss == "triplet":
        gradient = triplet_gradient(x, d, labels, config.margin)
        for name, chosen in (("positive", same & (upper | upper.T)), ("negative", ~same)):
            row[f"gradient_{name}"] = rounded(sum_by_decile(d, gradient, chosen))
    return row


def triplet_gradient(x: Tensor, d: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return ``|dL/dd_ij|`` (B, B) of the triplet loss, averaged over DRAWS draws of negatives.

    Of T triplets, one (a, p, n) adds 1/T to d_ap and to d_an while d_ap - d_an + margin > 0.
    """
    generator, gradient = torch.Generator(x.device).manual_seed(0), torch.zeros_like(d)
    for _ in range(DRAWS):
        (a, p, n), exists = triplets(x, labels, generator)
        active = (exists & (d[a, p] - d[a, n] + margin > 0)).to(d.dtype) / (exists.sum() * DRAWS)
        gradient.index_put_((a, p), active, accumulate=True)
        gradient.index_put_((a, n), active, accumulate=True)
    return gradient


def sum_by_decile(d: Tensor, values: Tensor, chosen: Tensor) -> Tensor:
    """Return (DECILES,) sums of the chosen pairs' values by decile of distance, nearest first."""
    order = d[chosen].argsort(stable=True)
    return torch.stack([part.sum() for part in values[chosen][order].tensor_split(DECILES)])


def rounded(values: Tensor) -> list[float | None]:
    """Return five digits of each, short in a file; None for NaN."""
    return [float(f"{v:.5g}") if v == v else None for v in values.tolist()]


def centers(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Return the class means (C, D) of embeddings (N, D), labels (N,) in 0 ... C - 1, float64."""
    count = labels.bincount()
    total = embeddings.new_zeros(len(count), embeddings.shape[1], dtype=torch.float64)
    total.index_put_((labels,), embeddings.double(), accumulate=True)  # always in the same order
    return total / count[:, None]


def class_distances(embeddings: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return how far apart classes and images lie: embeddings (N, D), labels (N,), 0 ... C - 1.

    Returns:
        ``centres_scale``: the mean distance of two images. Over it: ``centres_between``, of two
        class centers, and ``centres_within``, of an image to its center. ``centres_ratio``: between
        / within. ``centres_evenness``: a center's distance to its nearest one, over that of two.
    """
    every = -(-int(labels.max() + 1) // MOST_CLASSES)
    chosen = labels % every == 0
    embeddings, labels = embeddings[chosen].double(), labels[chosen] // every
    means = centers(embeddings, labels)
    scale = torch.pdist(embeddings[:: -(-len(embeddings) // MOST_IMAGES)]).mean()
    between = torch.pdist(means).mean()
    within = (embeddings - means[labels]).norm(dim=1).mean()
    nearest = torch.cdist(means, means).fill_diagonal_(torch.inf).amin(dim=1).mean()
    names = ("between", "within", "ratio", "evenness", "scale")
    values = (between / scale, within / scale, between / within, nearest / between, scale)
    return {f"centres_{name}": value.item() for name, value in zip(names, values, strict=True)}
