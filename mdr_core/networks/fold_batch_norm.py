"""Frozen batch norm folded into the convolution before it: one pass over memory instead of three.

With fixed statistics batch norm is y = scale * x + shift by channel, where
scale = weight / sqrt(var + eps) and shift = bias - mean * scale. So conv(x; W) followed by it is
conv(x; scale * W) + shift. Parameters keep their gradients, and a state dict its names.
"""

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import Conv2dSame
from timm.layers.conv2d_same import conv2d_same
from torch import Tensor, nn
from torch.nn import functional as F


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
        convolve: Callable[..., Tensor] = conv2d_same if self.same else F.conv2d
        weight = self.weight * scale[:, None, None, None]
        return convolve(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)


class FoldedNorm(nn.BatchNorm2d):
    """What is left of a folded batch norm: its parameters, and timm's activation if any."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x) if hasattr(self, "act") else x


def fold(net: nn.Module, side: int = 224) -> int:
    """Fold every batch norm whose input is a convolution's output, in place; return how many.

    One pass over an empty image of ``side`` pixels shows which those are. Others stay as
    they are: DenseNet's, say, which come before their convolutions.
    """
    made, pairs, hooks = {}, [], []

    def after_conv(conv, args, output):
        made[id(output)] = conv, output  # the output is kept, so that no other tensor takes its id

    def before_norm(norm, args):
        conv, _ = made.pop(id(args[0]), (None, None))
        if conv is not None:
            pairs.append((conv, norm))

    for module in net.modules():
        if type(module) in (nn.Conv2d, Conv2dSame) and module.padding_mode == "zeros":
            hooks.append(module.register_forward_hook(after_conv))
        elif isinstance(module, nn.BatchNorm2d) and module.affine and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(before_norm))
    was_training = net.training
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, side, side))
    net.train(was_training)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        conv.norm, conv.same = (norm,), isinstance(conv, Conv2dSame)
        conv.__class__, norm.__class__ = FoldedConv, FoldedNorm
    return len(pairs)
