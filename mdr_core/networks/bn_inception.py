"""BN-Inception (Ioffe and Szegedy 2015) with the names of the released Caffe-born checkpoints, as a table of blocks.

Input: (N, 3, H, W), BGR, 0..255 minus (104, 117, 128). Output: pooled features (N, 1024).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# name: in, 1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3, pooling and its projection (0: passed through).
# Blocks without a 1x1 branch halve the resolution.
BLOCKS = {
    "3a": (192, 64, 64, 64, 64, 96, "average", 32),
    "3b": (256, 64, 64, 96, 64, 96, "average", 64),
    "3c": (320, 0, 128, 160, 64, 96, "max", 0),
    "4a": (576, 224, 64, 96, 96, 128, "average", 128),
    "4b": (576, 192, 96, 128, 96, 128, "average", 128),
    "4c": (576, 160, 128, 160, 128, 160, "average", 128),
    "4d": (608, 96, 128, 192, 160, 192, "average", 128),
    "4e": (608, 0, 128, 192, 192, 256, "max", 0),
    "5a": (1056, 352, 192, 320, 160, 224, "average", 128),
    "5b": (1024, 352, 192, 320, 192, 224, "max", 128),
}


class BNInception(nn.Module):
    """The backbone; its state dict has the released file's names, ``last_linear`` (ImageNet's classifier) included."""

    features = 1024

    def __init__(self):
        super().__init__()
        self._convolution("conv1_7x7_s2", 3, 64, 7, stride=2)
        self._convolution("conv2_3x3_reduce", 64, 64, 1)
        self._convolution("conv2_3x3", 64, 192, 3)
        for name, (
            inputs,
            one,
            reduce,
            three,
            double_reduce,
            double,
            _,
            projection,
        ) in BLOCKS.items():
            block, stride = f"inception_{name}", 1 if one else 2
            if one:
                self._convolution(f"{block}_1x1", inputs, one, 1)
            self._convolution(f"{block}_3x3_reduce", inputs, reduce, 1)
            self._convolution(f"{block}_3x3", reduce, three, 3, stride)
            self._convolution(f"{block}_double_3x3_reduce", inputs, double_reduce, 1)
            self._convolution(f"{block}_double_3x3_1", double_reduce, double, 3)
            self._convolution(f"{block}_double_3x3_2", double, double, 3, stride)
            if projection:
                self._convolution(f"{block}_pool_proj", inputs, projection, 1)
        self.last_linear = nn.Linear(self.features, 1000)

    def _convolution(
        self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1
    ) -> None:
        self.add_module(name, nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(outputs))

    def _apply_convolution(self, name: str, x: Tensor) -> Tensor:
        return F.relu(getattr(self, f"{name}_bn")(getattr(self, name)(x)), inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x (N, 3, H, W). Returns: (N, 1024)."""
        x = self._apply_convolution("conv1_7x7_s2", x)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        x = self._apply_convolution("conv2_3x3_reduce", x)
        x = self._apply_convolution("conv2_3x3", x)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for name in BLOCKS:
            x = self._block(name, x)
        return x.mean(dim=(2, 3))

    def _block(self, name: str, x: Tensor) -> Tensor:
        block, convolve = f"inception_{name}", self._apply_convolution
        _, one, *_, pooling, projection = BLOCKS[name]
        branches = [convolve(f"{block}_1x1", x)] if one else []
        branches.append(convolve(f"{block}_3x3", convolve(f"{block}_3x3_reduce", x)))
        double = convolve(f"{block}_double_3x3_1", convolve(f"{block}_double_3x3_reduce", x))
        branches.append(convolve(f"{block}_double_3x3_2", double))
        if not one:
            pooled = F.max_pool2d(x, 3, 2, ceil_mode=True)
        elif pooling == "max":
            pooled = F.max_pool2d(x, 3, 1, padding=1, ceil_mode=True)
        else:
            pooled = F.avg_pool2d(x, 3, 1, padding=1, ceil_mode=True)
        branches.append(convolve(f"{block}_pool_proj", pooled) if projection else pooled)
        return torch.cat(branches, dim=1)


def from_released(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a released state dict into backbone and embedding head.

    Args:
        state: ``base.model.*`` and ``linear.*`` (an MDR checkpoint), or the bare backbone (the ImageNet file); a
            leading ``module.`` is dropped. Files older than PyTorch 0.4 store batch norm as (1, C) and count nothing.

    Returns:
        The backbone's tensors under :class:`BNInception`'s names, and the head's ``weight`` and ``bias`` (or nothing).

    Raises:
        ValueError: tensors are missing, unknown or of another shape; the message names the first of them.
    """
    given, unexpected = {}, []
    for key, tensor in state.items():
        name = key.removeprefix("module.").removeprefix("base.model.")
        if name in given:
            unexpected.append(key)  # with and without a prefix
        given[name] = (
            tensor[0] if "_bn." in name and tensor.dim() == 2 and len(tensor) == 1 else tensor
        )
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in BNInception().state_dict().items()}
    counters = {name: torch.tensor(0) for name in wanted if name.endswith("num_batches_tracked")}
    if any(name.startswith("linear.") for name in given):
        dim = max(
            (
                len(given[n])
                for n in ("linear.bias", "linear.weight")
                if n in given and given[n].dim()
            ),
            default=0,
        )
        wanted |= {"linear.weight": (dim, BNInception.features), "linear.bias": (dim,)}
    given = counters | given
    differing = [
        f"{name} {tuple(given[name].shape)} instead of {shape}"
        for name, shape in wanted.items()
        if name in given and tuple(given[name].shape) != shape
    ]
    missing = [name for name in wanted if name not in given]
    unexpected += [name for name in given if name not in wanted]
    problems = [(missing, "missing"), (unexpected, "unexpected"), (differing, "of another shape")]
    if missing or unexpected or differing:
        said = [
            f"{len(names)} {what} ({', '.join(names[:3] + ['...'] * (len(names) > 3))})"
            for names, what in problems
            if names
        ]
        raise ValueError(f"not a BN-Inception state dict: {'; '.join(said)}")
    head = {
        name.removeprefix("linear."): given.pop(name)
        for name in list(given)
        if name.startswith("linear.")
    }
    return given, head
