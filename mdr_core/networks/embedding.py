"""The embedding network: images (N, 3, H, W) -> features (N, F) -> embeddings (N, D)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdr_core.networks.fold_batch_norm import fold
from mdr_core.regularizer import at_least_float32, normalize_by_mean_distance


class Backbone(NamedTuple):
    """A network that returns pooled features (N, ``features``) of (pixel - mean) / std."""

    net: nn.Module
    features: int
    mean: tuple[float, ...]  # of the channels, in RGB or BGR order; pixels are 0..255
    std: tuple[float, ...]
    bgr: bool = False


class EmbeddingNet(nn.Module):
    """Backbone, linear layer and normalization, as the paper trains and tests it.

    ``normalization``: ``"mean_distance"``, the paper's, divides a batch by its mean distance in
    training alone; ``"l2"`` puts embeddings on the unit sphere; ``"none"`` does neither.
    ``freeze_batch_norm`` keeps the statistics of batch norm in training too, while its scale and
    shift are learned; it is folded into the convolutions, for speed. ``dim``: D.
    """

    def __init__(
        self, backbone: Backbone, dim: int, normalization: str, freeze_batch_norm: bool = True
    ):
        super().__init__()
        self.backbone, self.bgr = backbone.net, backbone.bgr
        self.normalization, self.freeze_batch_norm = normalization, freeze_batch_norm
        if freeze_batch_norm:
            fold(self.backbone)
        self.linear = nn.Linear(backbone.features, dim)
        self.pixel_mean = nn.Buffer(torch.tensor(backbone.mean)[:, None, None], persistent=False)
        self.pixel_std = nn.Buffer(torch.tensor(backbone.std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings (N, D), float32 or better, of images (N, 3, H, W), RGB, 0..255."""
        if self.bgr:
            images = images.flip(1)
        images = (images.to(self.pixel_mean.dtype) - self.pixel_mean) / self.pixel_std
        embeddings = at_least_float32(self.linear(self.backbone(images)))
        if self.normalization == "l2":
            return F.normalize(embeddings, dim=1)
        if self.normalization == "mean_distance" and self.training:
            return normalize_by_mean_distance(embeddings)
        return embeddings

    def train(self, mode: bool = True) -> "EmbeddingNet":
        super().train(mode)
        for module in self.modules():
            if self.freeze_batch_norm and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self
