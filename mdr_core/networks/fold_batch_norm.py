"""Frozen batch norm folded into the convolution before it: one pass over memory instead of three.

With fixed statistics it is y = scale * x + shift by channel, where
scale = weight / sqrt(var + eps) and shift = bias - mean * scale. So conv(x; W) followed by it is
conv(x; scale * W) + shift. Parameters keep their gradients, and a state dict its names.
"""

from collections import Counter
from typing import Any, get_args

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from timm.layers.conv2d_same import conv2d_same
from torch import Tensor, fx, nn

CONVS, NORMS = nn.Conv2d | Conv2dSame, nn.BatchNorm2d | BatchNormAct2d


class FoldedConv(nn.Conv2d):
    """A convolution that does the work of the batch norm after it."""

    norm: tuple[Any]  # the batch norm, in a tuple, so that it is no submodule
    same: bool  # padded as TensorFlow does

    def forward(self, x: Tensor) -> Tensor:
        (norm,) = self.norm
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        weight = self.weight * scale[:, None, None, None]
        geometry: Any = self.stride, self.padding, self.dilation, self.groups
        if self.same:
            return conv2d_same(x, weight, shift, *geometry)
        return self._conv_forward(x, weight, shift)


class FoldedNorm(nn.BatchNorm2d):
    """What is left of a folded batch norm: its parameters, and timm's activation if any."""

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule("act")(x) if hasattr(self, "act") else x


class Tracer(fx.Tracer):
    """Follows a network's data from convolution to batch norm, and not into them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, CONVS | NORMS) or super().is_leaf_module(m, module_qualified_name)


def fold(net: nn.Module) -> int:
    """Fold, in place, each batch norm that alone takes a convolution's output; return how many.

    Both are used once, and nothing stands between them. A network that torch.fx cannot follow
    stays as it is.
    """
    try:
        calls = [node for node in Tracer().trace(net).nodes if node.op == "call_module"]
    except Exception:  # noqa: BLE001 - a forward that fx cannot follow makes it raise anything
        return 0
    module: Any = {node: net.get_submodule(node.target) for node in calls}
    uses, folded = Counter(module.values()), 0
    for node, norm in module.items():
        before: Any = next(iter(node.all_input_nodes), None)
        conv = module.get(before)
        known = type(conv) in get_args(CONVS) and type(norm) in get_args(NORMS)
        once = known and uses[norm] == uses[conv] == len(before.users) == 1
        if once and norm.affine and norm.track_running_stats:
            conv.norm, conv.same = (norm,), isinstance(conv, Conv2dSame)
            conv.__class__, norm.__class__ = FoldedConv, FoldedNorm
            folded += 1
    return folded
