"""The embedding network: a backbone, global average pooling, one linear layer, and a normalization.

images (N, 3, H, W), RGB, 0..255 -> backbone -> features (N, F) -> linear -> embeddings (N, D)
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdr_core.errors import unknown
from mdr_core.networks.fold_batch_norm import fold
from mdr_core.regularizer import at_least_float32, normalize_by_mean_distance

NORMALIZATIONS = ("mean_distance", "l2", "none")


class Pixels(NamedTuple):
    """What a backbone takes: (pixel - mean) / std by channel, in RGB or BGR order."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    order: str = "rgb"


class Backbone(nn.Module):
    """A network that returns pooled features (N, ``features``) of images in its ``pixels``."""

    features: int
    pixels: Pixels


class EmbeddingNet(nn.Module):
    """Backbone, linear layer and normalization, as the paper trains and tests it.

    Args:
        dim: D, the embedding's dimension.
        normalization: ``"mean_distance"``, the paper's, divides a batch by its mean distance in
            training and leaves the embedding raw in testing. ``"l2"`` puts it on the unit sphere
            in both. ``"none"`` does neither.
        freeze_batch_norm: keep batch-norm layers in eval mode, in training too. Their statistics
            stay ImageNet's, while their scale and shift are learned. They are folded into the
            convolutions, which changes no function, only the time it takes.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        dim: int,
        normalization: str = "mean_distance",
        freeze_batch_norm: bool = True,
    ):
        super().__init__()
        if normalization not in NORMALIZATIONS:
            raise unknown("normalization", normalization, NORMALIZATIONS)
        self.backbone, self.normalization = backbone, normalization
        self.freeze_batch_norm = freeze_batch_norm
        if freeze_batch_norm:
            fold(backbone)
        self.linear = nn.Linear(backbone.features, dim)
        mean, std, self.order = backbone.pixels
        self.register_buffer("pixel_mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings (N, D).

        Args:
            images: (N, 3, H, W), RGB, 0..255, any dtype.
        """
        if self.order == "bgr":
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
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self
