"""Frozen batch norm folded into the convolution before it: one pass over memory instead of three.

With fixed statistics it is y = scale * x + shift by channel, where
scale = weight / sqrt(var + eps) and shift = bias - mean * scale. So conv(x; W) followed by it is
conv(x; scale * W) + shift. Parameters keep their gradients, and a state dict its names.
"""

from collections import Counter
from functools import partial
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, pad_same
from torch import Tensor, fx, nn

CONVS, NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)


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
    """Fold each batch norm that alone takes a convolution's output; nothing where fx fails."""
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
