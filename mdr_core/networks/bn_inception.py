"""BN-Inception (Ioffe and Szegedy 2015) with the names of the released checkpoints."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Channels of each block: its input; 1x1; 3x3 reduced, 3x3; double 3x3 reduced, double 3x3; the
# pooled input's projection. Without a 1x1 branch a block halves the resolution and projects none.
BLOCKS = {
    "3a": (192, 64, 64, 64, 64, 96, 32),
    "3b": (256, 64, 64, 96, 64, 96, 64),
    "3c": (320, 0, 128, 160, 64, 96, 0),
    "4a": (576, 224, 64, 96, 96, 128, 128),
    "4b": (576, 192, 96, 128, 96, 128, 128),
    "4c": (576, 160, 128, 160, 128, 160, 128),
    "4d": (608, 96, 128, 192, 160, 192, 128),
    "4e": (608, 0, 128, 192, 192, 256, 0),
    "5a": (1056, 352, 192, 320, 160, 224, 128),
    "5b": (1024, 352, 192, 320, 192, 224, 128),
}


class BNInception(nn.Module):
    """The backbone, without ImageNet's classifier."""

    def __init__(self):
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, 7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        for key, (inputs, one, three_in, three, double_in, double, projected) in BLOCKS.items():
            name, stride = f"inception_{key}", 1 if one else 2
            self._add(f"{name}_1x1", inputs, one, 1)
            self._add(f"{name}_3x3_reduce", inputs, three_in, 1)
            self._add(f"{name}_3x3", three_in, three, 3, stride)
            self._add(f"{name}_double_3x3_reduce", inputs, double_in, 1)
            self._add(f"{name}_double_3x3_1", double_in, double, 3)
            self._add(f"{name}_double_3x3_2", double, double, 3, stride)
            self._add(f"{name}_pool_proj", inputs, projected, 1)

    def _add(self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        if outputs:
            self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _convolve(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            normalized = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
            x = F.relu(normalized, inplace=True)
        return x

    def _block(self, key: str, x: Tensor) -> Tensor:
        name, halves = f"inception_{key}", not BLOCKS[key][1]
        one = [] if halves else [self._convolve(x, f"{name}_1x1")]
        three = self._convolve(x, f"{name}_3x3_reduce", f"{name}_3x3")
        double = self._convolve(x, *(f"{name}_double_3x3_{step}" for step in ("reduce", 1, 2)))
        pool = F.max_pool2d if halves or key == "5b" else F.avg_pool2d
        pooled = pool(x, 3, 1 + halves, 1 - halves, ceil_mode=True)
        pooled = pooled if halves else self._convolve(pooled, f"{name}_pool_proj")
        return torch.cat([*one, three, double, pooled], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features (N, 1024) of images (N, 3, H, W)."""
        x = F.max_pool2d(self._convolve(x, "conv1_7x7_s2"), 3, 2, ceil_mode=True)
        x = F.max_pool2d(self._convolve(x, "conv2_3x3_reduce", "conv2_3x3"), 3, 2, ceil_mode=True)
        for key in BLOCKS:
            x = self._block(key, x)
        return x.mean(dim=(2, 3))


def from_released(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a checkpoint (``base.model.*``, ``linear.*``), or ImageNet's file, into net and head.

    Nothing is checked; files older than PyTorch 0.4 have batch norm as (1, C).
    """
    found = {k.removeprefix("module.").removeprefix("base.model."): t for k, t in state.items()}
    head = {k.removeprefix("linear."): t for k, t in found.items() if k.startswith("linear.")}
    net = {k: t for k, t in found.items() if not k.startswith(("linear.", "last_linear."))}
    return {k: t.squeeze(0) if "_bn." in k else t for k, t in net.items()}, head
