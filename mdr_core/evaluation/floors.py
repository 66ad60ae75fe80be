"""Recall@K without learning, and without fine-tuning: what every method must exceed."""

from functools import partial

import torch
from torch import Tensor, nn

from mdr_core.config import Config
from mdr_core.data.dataset import RetrievalDataset
from mdr_core.evaluation.epoch import EMBED_BATCH, center_crops
from mdr_core.evaluation.retrieval import RetrievalSet, first_ranks, full_float32, recall
from mdr_core.networks.embedding import EmbeddingNet
from mdr_core.training import start


def floors(
    config: Config, data: RetrievalDataset, state: dict[str, Tensor] | None = None
) -> dict[str, dict[str, float]]:
    """Return ``test_recall@K`` in percent, K of config.ks, of two searches by Euclidean distance.

    ``pixels``: gray, each image of mean 0 and standard deviation 1. ``features``: the pretrained
    backbone's, L2-normalized, which find more than raw ones. ``state`` is for weights="classes".
    """
    device = torch.device(config.device if torch.cuda.is_available() else "cpu")
    searched = () if data.gallery is None else (data.gallery.images, data.gallery.labels)
    images = RetrievalSet(data.test.images, data.test.labels, *searched)
    crops = images.map(partial(center_crops, config, device=device))
    net = start(config.replace(device=device.type, normalization="l2"), state).model.eval()
    net.add_module("linear", nn.Identity())
    found = {"pixels": crops.map(pixels), "features": crops.map(partial(features, net))}
    scores = {name: recall(first_ranks(*each), config.ks) for name, each in found.items()}
    return {n: {f"test_recall@{k}": x for k, x in by_k.items()} for n, by_k in scores.items()}


def pixels(crops: Tensor) -> Tensor:
    gray = crops.mean(dim=1, dtype=torch.float32).flatten(1)
    return nn.functional.layer_norm(gray, gray.shape[1:])


@full_float32()
@torch.inference_mode()
def features(net: EmbeddingNet, crops: Tensor) -> Tensor:
    return torch.cat([net(some.to(net.pixel_mean.device)) for some in crops.split(EMBED_BATCH)])
