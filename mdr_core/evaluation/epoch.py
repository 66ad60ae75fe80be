"""What an epoch's end measures: the images embedded, and the embeddings judged.

Several processes embed together, each its part of the images, and the first one judges.
"""

import copy

import numpy as np
import torch
from torch import Tensor

from mdr_core.config import Config
from mdr_core.data import augmentation
from mdr_core.data.dataset import Split
from mdr_core.distributed import ALONE, Share
from mdr_core.errors import StudyError
from mdr_core.evaluation import class_centers, pair_statistics, retrieval
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.regularizer import MDR

EMBED_BATCH = 128  # images embedded at a time
NEIGHBOURS = 10  # of each test image, in a run's findings
ROOM = 0.4  # of the memory free on a GPU, at most, for the images of a split


def home(size: int, device: torch.device) -> torch.device:
    """Where so many bytes of images are kept: on the device if they take at most ROOM of what is free there, else on the host."""
    if device.type != "cuda":
        return device
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(
        device
    )  # torch's own, free to be used
    return (
        device
        if size <= ROOM * (torch.cuda.mem_get_info(device)[0] + cached)
        else torch.device("cpu")
    )


def spread(split: Split, config: Config) -> Split:
    """About ``config.train_images`` training images at most: every n-th, so that all classes are there. Where that would leave
    fewer than two of a class (there are many small classes), the images of every n-th class."""
    every = max(-(-len(split.labels) // config.train_images), 1)
    if len(split.labels) < 2 * every * len(split.class_names):
        return split.of_classes(range(0, len(split.class_names), every))
    return split.of_images(torch.arange(0, len(split.labels), every))


def crops(
    config: Config, split: Split, device: torch.device, share: Share = ALONE
) -> tuple[Tensor, Tensor]:
    """This process's part of the centre crops (N, 3, crop, crop), uint8, made on the device and kept at :func:`home`; and
    all labels (N,)."""
    place = home(len(split.labels) * 3 * config.crop**2 // share.world, device)
    parts = [
        augmentation.center_crop(part.to(device), config.resize, config.crop).to(place)
        for part in share.part(split.images).split(EMBED_BATCH)
    ]
    return torch.cat(parts), split.labels


@torch.inference_mode()
def embed(
    model: EmbeddingNet, images: Tensor, share: Share = ALONE, count: int | None = None
) -> Tensor:
    """Embeddings (N, D), float32 on the CPU, of crops, which are moved to the model's device. On a GPU, too, the network
    computes in float32 here: what is judged is not rounded to bfloat16 as a training step is.

    Args:
        images: (N, 3, crop, crop); on several processes each gives its part, and all get the whole.
        count: N, where the parts hold more.
    """
    model.eval()
    device = next(model.parameters()).device
    parts = [
        model(part.to(device).contiguous(memory_format=torch.channels_last))
        for part in images.split(EMBED_BATCH)
    ]
    embeddings = share.gather(torch.cat(parts))[:count].cpu()
    if not torch.isfinite(embeddings).all():
        raise StudyError("the network gives NaN or Inf: lower lr or mdr_weight")
    return embeddings


def embed_split(config: Config, model: EmbeddingNet, split: Split, share: Share = ALONE) -> Tensor:
    """Embeddings (N, D), float32 on the CPU, of a split's centre crops."""
    images, labels = crops(config, split, next(model.parameters()).device, share)
    return embed(model, images, share, len(labels))


def evenly(labels: Tensor, each: int) -> Tensor:
    """Indices, in order, of ``each`` images of every class, spread evenly over the class's own; of a class with fewer, all."""
    order = labels.argsort(stable=True)
    counts = labels.bincount()
    first = counts.cumsum(0) - counts
    place, count = torch.arange(len(labels)) - first[labels[order]], counts[labels[order]]
    kept = (count <= each) | ((place + 1) * each // count > place * each // count)
    return order[kept].sort().values


def by_class(labels: Tensor, found: dict, suffix: str) -> dict[str, list]:
    """Of each class, C numbers each: ``test_class_queries``, of which ``test_class_right`` have their nearest image in their own
    class; and the sum of the queries' AP@R, ``test_class_ap_at_r``. A bootstrap over the test classes needs no more."""

    def total(of_query: np.ndarray) -> Tensor:
        return labels.bincount(torch.from_numpy(np.nan_to_num(of_query).astype(float)))

    return {
        "test_class_queries": labels.bincount().tolist(),
        f"test_class_right{suffix}": total(found["right"]).int().tolist(),
        f"test_class_ap_at_r{suffix}": pair_statistics.rounded(total(found["ap_at_r"])),
    }


def without_by_class(row: dict) -> dict:
    """An epoch's row without what :func:`by_class` gave it: the run store keeps that of the last and of the best epoch."""
    return {name: value for name, value in row.items() if not name.startswith("test_class_")}


def judge(
    config: Config,
    model: EmbeddingNet,
    mdr: MDR,
    judged: dict[str, tuple],
    probe: tuple,
    share: Share = ALONE,
) -> dict:
    """Recall@K of test, held-out and training images in percent, raw and (``_l2``) on L2-normalized embeddings; the test
    images' R-precision, MAP@R and class centres besides; and the figures of one batch of training images, ``probe``.

    Args:
        judged: name -> crops and labels (N,) of the queries, as :func:`crops` gives them, and of a gallery where there is one.
    """
    embedded = {
        name: [
            (embed(model, images, share, len(labels)), labels)
            for images, labels in zip(of[::2], of[1::2], strict=True)
        ]
        for name, of in (judged | {"probe": probe}).items()
    }
    return share.from_first(figures(config, mdr, embedded) if share.first else None)


def figures(config: Config, mdr: MDR, embedded: dict[str, list]) -> dict:
    """What :func:`judge` finds, from name -> embeddings (N, D) and labels (N,) of the queries, and of a gallery."""
    row, device = {}, config.device if config.device != "cpu" else None
    [(batch, batch_labels)] = embedded.pop("probe")
    train_labels = embedded["train"][0][1]
    each = round(
        len(train_labels) / len(train_labels.unique())
    )  # images of a class in the training gallery
    for name, parts in embedded.items():
        (_, labels), gallery_labels = parts[0], parts[1][1] if len(parts) > 1 else None
        raw = [part for part, _ in parts]
        for suffix, of in (
            ("", raw),
            ("_l2", [torch.nn.functional.normalize(part, dim=1) for part in raw]),
        ):
            found = searched(of, labels, config.ks, gallery_labels, name == "test", device)
            row |= {f"{name}_recall@{k}{suffix}": value for k, value in found["recall"].items()}
            row |= {
                f"{name}_{k}{suffix}": found[k] for k in ("r_precision", "map_at_r") if k in found
            }
            if name == "test":
                row |= by_class(labels, found, suffix)
                row[f"test_matched_recall@1{suffix}"] = matched(
                    of, labels, gallery_labels, each, device
                )
        if name == "test":
            queries = raw[0].numpy(), labels.numpy()
            row |= {f"centres_{k}": value for k, value in class_centers.spread(*queries).items()}
            row |= {
                f"within_class_{k}": values
                for k, values in class_centers.within_classes(*queries).items()
            }
    if config.loss != "classification":
        margin = config.margin if config.loss == "triplet" else None
        row |= pair_statistics.figures(
            batch, batch_labels, copy.deepcopy(mdr).cpu(), config.normalization, margin
        )
    return row


def searched(
    of: list[Tensor],
    labels: Tensor,
    ks: tuple[int, ...],
    gallery_labels: Tensor | None,
    precision: bool,
    device: str | None,
) -> dict:
    """:func:`retrieval.judge` of the queries (N, D) in ``of``, and of the gallery (G, D) that follows them where there is one."""
    gallery, of_gallery = (
        (None, None) if gallery_labels is None else (of[1].numpy(), gallery_labels.numpy())
    )
    return retrieval.judge(
        of[0].numpy(), labels.numpy(), ks, gallery, of_gallery, precision, device=device
    )


def matched(
    of: list[Tensor], labels: Tensor, gallery_labels: Tensor | None, each: int, device: str | None
) -> float:
    """Test Recall@1 in percent as the training images have it: with ``each`` images of a class to be found among, the query's own
    included. Without a gallery, these images are the queries as well."""
    if gallery_labels is None:
        some = evenly(labels, each)
        return searched([of[0][some]], labels[some], (1,), None, False, device)["recall"][1]
    some = evenly(gallery_labels, max(each - 1, 1))
    return searched([of[0], of[1][some]], labels, (1,), gallery_labels[some], False, device)[
        "recall"
    ][1]


def findings(
    embeddings: Tensor,
    labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """What a run found on its test images, in a small file: all that tables and pictures of single images or classes need.

    Args: embeddings (N, D), labels (N,) of the queries; (G, D) and (G,) of the gallery, or None where the queries are the gallery.

    Returns:
        ``centers`` (C, D) float16, the class means; ``nearest`` (N, K) int32, the NEIGHBOURS nearest gallery images; their
        ``distances`` (N, K) float16; ``first_right`` (N,) int32, the rank of the first image of the query's class, 0 where there is
        none; ``labels`` (N,) int32.
    """
    of = embeddings.numpy(), labels.numpy()
    others = (None, None) if gallery is None else (gallery.numpy(), gallery_labels.numpy())
    most = len(labels) - 1 if gallery is None else len(gallery)
    nearest = torch.from_numpy(retrieval.nearest(of[0], min(NEIGHBOURS, most), others[0]))
    candidates = embeddings if gallery is None else gallery
    distances = [
        (candidates[near] - own[:, None]).norm(dim=2)
        for near, own in zip(nearest.split(EMBED_BATCH), embeddings.split(EMBED_BATCH), strict=True)
    ]
    return {
        "centers": torch.from_numpy(class_centers.centres(*of)).half(),
        "nearest": nearest.int(),
        "distances": torch.cat(distances).half(),
        "first_right": torch.from_numpy(retrieval.first_ranks(*of, *others)),
        "labels": labels.int(),
    }
