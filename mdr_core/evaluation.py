"""What an epoch's end measures: the images embedded, and the embeddings judged.

Several processes embed together, each its part of the images, and the first one judges.
"""

import copy

import torch
from torch import Tensor

from mdr_core import augmentation, geometry, mechanism, models, retrieval
from mdr_core.config import Config
from mdr_core.data import Split
from mdr_core.distributed import ALONE, Share
from mdr_core.errors import StudyError
from mdr_core.regularizer import MDR

EMBED_BATCH = 128  # images embedded at a time
ROOM = 0.4  # of the memory free on a GPU, at most, for the images of a split


def home(size: int, device: torch.device) -> torch.device:
    """Where so many bytes of images are kept: on the device if they take at most ROOM of what is free there, else on the host."""
    if device.type != "cuda":
        return device
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own, free to be used
    return device if size <= ROOM * (torch.cuda.mem_get_info(device)[0] + cached) else torch.device("cpu")


def spread(split: Split, config: Config) -> Split:
    """About ``config.train_images`` training images at most: every n-th, so that all classes are there. Where that would leave
    fewer than two of a class (there are many small classes), the images of every n-th class."""
    every = max(-(-len(split.labels) // config.train_images), 1)
    if len(split.labels) < 2 * every * len(split.class_names):
        return split.of_classes(range(0, len(split.class_names), every))
    return split.of_images(torch.arange(0, len(split.labels), every))


def crops(config: Config, split: Split, device: torch.device, share: Share = ALONE) -> tuple[Tensor, Tensor]:
    """This process's part of the centre crops (N, 3, crop, crop), uint8, made on the device and kept at :func:`home`; and
    all labels (N,)."""
    place = home(len(split.labels) * 3 * config.crop**2 // share.world, device)
    parts = [
        augmentation.centre_crop(part.to(device), config.resize, config.crop).to(place)
        for part in share.part(split.images).split(EMBED_BATCH)
    ]
    return torch.cat(parts), split.labels


@torch.inference_mode()
def embed(model: models.EmbeddingNet, images: Tensor, share: Share = ALONE, count: int | None = None) -> Tensor:
    """Embeddings (N, D), float32 on the CPU, of crops, which are moved to the model's device. On a GPU, too, the network
    computes in float32 here: what is judged is not rounded to bfloat16 as a training step is.

    Args:
        images: (N, 3, crop, crop); on several processes each gives its part, and all get the whole.
        count: N, where the parts hold more.
    """
    model.eval()
    device = next(model.parameters()).device
    parts = [model(part.to(device).contiguous(memory_format=torch.channels_last)) for part in images.split(EMBED_BATCH)]
    embeddings = share.gather(torch.cat(parts))[:count].cpu()
    if not torch.isfinite(embeddings).all():
        raise StudyError("the network gives NaN or Inf: lower lr or mdr_weight")
    return embeddings


def embed_split(config: Config, model: models.EmbeddingNet, split: Split, share: Share = ALONE) -> Tensor:
    """Embeddings (N, D), float32 on the CPU, of a split's centre crops."""
    images, labels = crops(config, split, next(model.parameters()).device, share)
    return embed(model, images, share, len(labels))


def judge(config: Config, model: models.EmbeddingNet, mdr: MDR, judged: dict[str, tuple], probe: tuple,
          share: Share = ALONE) -> dict:
    """Recall@K of test, held-out and training images in percent, raw and (``_l2``) on L2-normalized embeddings; the test
    images' R-precision, MAP@R and class centres besides; and the figures of one batch of training images, ``probe``.

    Args:
        judged: name -> crops and labels (N,) of the queries, as :func:`crops` gives them, and of a gallery where there is one.
    """
    embedded = {
        name: [(embed(model, images, share, len(labels)), labels) for images, labels in zip(of[::2], of[1::2], strict=True)]
        for name, of in (judged | {"probe": probe}).items()
    }
    return share.from_first(figures(config, mdr, embedded) if share.first else None)


def figures(config: Config, mdr: MDR, embedded: dict[str, list]) -> dict:
    """What :func:`judge` finds, from name -> embeddings (N, D) and labels (N,) of the queries, and of a gallery."""
    row, device = {}, config.device if config.device != "cpu" else None
    [(batch, batch_labels)] = embedded.pop("probe")
    for name, parts in embedded.items():
        (_, labels), gallery_labels = parts[0], parts[1][1].numpy() if len(parts) > 1 else None
        raw = [part for part, _ in parts]
        for suffix, of in (("", raw), ("_l2", [torch.nn.functional.normalize(part, dim=1) for part in raw])):
            of_gallery = of[1].numpy() if len(of) > 1 else None
            found = retrieval.judge(of[0].numpy(), labels.numpy(), config.ks, of_gallery, gallery_labels, name == "test",
                                    device=device)
            row |= {f"{name}_recall@{k}{suffix}": value for k, value in found["recall"].items()}
            row |= {f"{name}_{k}{suffix}": found[k] for k in ("r_precision", "map_at_r") if k in found}
        if name == "test":
            row |= {f"centres_{k}": value for k, value in geometry.spread(raw[0].numpy(), labels.numpy()).items()}
    if config.loss != "classification":
        margin = config.margin if config.loss == "triplet" else None
        row |= mechanism.figures(batch, batch_labels, copy.deepcopy(mdr).cpu(), config.normalization, margin)
    return row
