"""The embedding network: images (N, 3, H, W) -> features (N, F) -> embeddings (N, D)."""

from collections import Counter
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, pad_same
from torch import Tensor, fx, nn
from torch.nn import functional as F

from mdr_core.regularizer import at_least_float32, normalize_by_mean_distance

CONVS, NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)


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


def folded(conv: Any, norm: Any, x: Tensor) -> Tensor:
    """Return the batch norm of the convolution, but for its activation."""
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    if isinstance(conv, Conv2dSame):
        x = pad_same(x, conv.kernel_size, conv.stride, conv.dilation)  # type: ignore[arg-type]
    return conv._conv_forward(x, conv.weight * scale[:, None, None, None], shift)


class Tracer(fx.Tracer):  # from convolution to batch norm, and not into them
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, CONVS + NORMS) or super().is_leaf_module(m, module_qualified_name)


def fold(net: nn.Module) -> None:
    """Fold each batch norm that alone takes a convolution's output; nothing where fx fails.

    With fixed statistics it is y = scale * x + shift by channel, where
    scale = weight / sqrt(var + eps) and shift = bias - mean * scale. So conv(x; W) followed by it
    is conv(x; scale * W) + shift, one pass over memory instead of three. Parameters keep their
    gradients, and a state dict its names.
    """
    try:
        calls = [node for node in Tracer().trace(net).nodes if node.op == "call_module"]
    except Exception:  # noqa: BLE001 - a forward that fx cannot follow makes it raise anything
        return
    module: Any = {node: net.get_submodule(node.target) for node in calls}
    uses = Counter(module.values())
    for node, norm in module.items():
        before: Any = next(iter(node.all_input_nodes), None)
        conv = module.get(before)
        known = type(conv) in CONVS and type(norm) in NORMS
        if known and uses[norm] == uses[conv] == len(before.users) == 1 and norm.affine:
            conv.forward = partial(folded, conv, norm)
            norm.forward = getattr(norm, "act", nn.Identity()).forward
