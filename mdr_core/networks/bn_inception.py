"""BN-Inception (Ioffe and Szegedy 2015) with the names of the released checkpoints."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdr_core.networks.embedding import Backbone, Pixels


class Block(NamedTuple):
    """The channels of an Inception block; one without a 1x1 branch halves the resolution."""

    inputs: int
    one: int
    reduce: int
    three: int
    double_reduce: int
    double: int
    pooling: str
    projection: int  # 0: the pooled input is passed through

    @property
    def stride(self) -> int:
        return 1 if self.one else 2

    def branches(self) -> list[dict[str, tuple[int, int, int, int]]]:
        """Return each branch's convolutions: name -> inputs, outputs, kernel, stride."""
        one = {"1x1": (self.inputs, self.one, 1, 1)}
        three = {
            "3x3_reduce": (self.inputs, self.reduce, 1, 1),
            "3x3": (self.reduce, self.three, 3, self.stride),
        }
        double = {
            "double_3x3_reduce": (self.inputs, self.double_reduce, 1, 1),
            "double_3x3_1": (self.double_reduce, self.double, 3, 1),
            "double_3x3_2": (self.double, self.double, 3, self.stride),
        }
        projection = {"pool_proj": (self.inputs, self.projection, 1, 1)} if self.projection else {}
        return [*([one] if self.one else []), three, double, projection]


BLOCKS = {
    "3a": Block(192, 64, 64, 64, 64, 96, "average", 32),
    "3b": Block(256, 64, 64, 96, 64, 96, "average", 64),
    "3c": Block(320, 0, 128, 160, 64, 96, "max", 0),
    "4a": Block(576, 224, 64, 96, 96, 128, "average", 128),
    "4b": Block(576, 192, 96, 128, 96, 128, "average", 128),
    "4c": Block(576, 160, 128, 160, 128, 160, "average", 128),
    "4d": Block(608, 96, 128, 192, 160, 192, "average", 128),
    "4e": Block(608, 0, 128, 192, 192, 256, "max", 0),
    "5a": Block(1056, 352, 192, 320, 160, 224, "average", 128),
    "5b": Block(1024, 352, 192, 320, 192, 224, "max", 128),
}


class BNInception(Backbone):
    """The backbone; ``last_linear`` (ImageNet's classifier) is in its state dict, as released."""

    features = 1024
    pixels = Pixels((104.0, 117.0, 128.0), (1.0, 1.0, 1.0), "bgr")

    def __init__(self):
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, 7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        for key, block in BLOCKS.items():
            for branch in block.branches():
                for name, convolution in branch.items():
                    self._add(f"inception_{key}_{name}", *convolution)
        self.last_linear = nn.Linear(self.features, 1000)

    def _add(self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        """Add a convolution and its batch norm."""
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _convolve(self, name: str, x: Tensor) -> Tensor:
        normalized = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(x))
        return F.relu(normalized, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features (N, 1024) of images (N, 3, H, W)."""
        x = self._convolve("conv1_7x7_s2", x)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self._convolve("conv2_3x3_reduce", x)
        x = self._convolve("conv2_3x3", x)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for key, block in BLOCKS.items():
            padding = 2 - block.stride
            pool = F.max_pool2d if block.pooling == "max" else F.avg_pool2d
            pooled = pool(x, 3, block.stride, padding=padding, ceil_mode=True)
            outputs = []
            *convolved, projection = block.branches()
            for branch, y in [*((branch, x) for branch in convolved), (projection, pooled)]:
                for name in branch:
                    y = self._convolve(f"inception_{key}_{name}", y)
                outputs.append(y)
            x = torch.cat(outputs, dim=1)
        return x.mean(dim=(2, 3))


def from_released(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a released state dict into backbone and embedding head.

    Args:
        state: an MDR checkpoint (``base.model.*`` and ``linear.*``) or the ImageNet file (the bare
            backbone); a leading ``module.`` is dropped. Files older than PyTorch 0.4 store batch
            norm as (1, C) and count nothing.

    Returns:
        The backbone's tensors by :class:`BNInception`'s names; the head's ``weight`` and ``bias``,
        if any.

    Raises:
        ValueError: tensors are missing, unknown or of another shape; the message names the first.
    """
    given: dict[str, Tensor] = {}
    unexpected = []
    for key, tensor in state.items():
        name = key.removeprefix("module.").removeprefix("base.model.")
        if name in given:
            unexpected.append(key)  # with and without a prefix
        old = "_bn." in name and tensor.dim() == 2 and len(tensor) == 1
        given[name] = tensor[0] if old else tensor
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in BNInception().state_dict().items()}
    counters = {name: torch.tensor(0) for name in wanted if name.endswith("num_batches_tracked")}
    head = {name: tensor for name, tensor in given.items() if name.startswith("linear.")}
    if head:
        dim = max(len(tensor) if tensor.dim() else 0 for tensor in head.values())
        wanted |= {"linear.weight": (dim, BNInception.features), "linear.bias": (dim,)}
    given = counters | given
    problems = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": unexpected + [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} instead of {shape}"
            for name, shape in wanted.items()
            if name in given and tuple(given[name].shape) != shape
        ],
    }
    found = [
        f"{len(names)} {problem} ({', '.join(names[:3] + ['...'] * (len(names) > 3))})"
        for problem, names in problems.items()
        if names
    ]
    if found:
        raise ValueError(f"not a BN-Inception state dict: {'; '.join(found)}")
    backbone = {name: tensor for name, tensor in given.items() if name not in head}
    return backbone, {name.removeprefix("linear."): tensor for name, tensor in head.items()}
